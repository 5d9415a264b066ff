package tcpstate

// The kinds of connections that this program has closed, and the peer has not.
const (
	KindClosingPeerOpen        Kind = "closing.peer_open"
	KindClosingFINUnacked      Kind = "closing.fin_unacked"
	KindClosingDataUndelivered Kind = "closing.data_undelivered"
	KindPeerKeepsHalfOpen      Kind = "peer.keeps_half_open"
)

// checkClosed shows a socket that no descriptor shows.
const checkClosed = "ss -tnoe state all src {local} dst {remote}"

var closingKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindClosingPeerOpen, Severity: Warning, Phase: PhaseActiveClose,
		Title:   "half-closed, peer keeps its direction open",
		Meaning: "This program has ended its direction by CloseWrite, the peer has acknowledged that, and since then it neither sends nor closes. It is inventory where the peer may still be at work on an answer that nobody has announced.",
		Causes: []string{
			"the peer does not close after it has read the end of the stream",
			"the peer's FIN was lost in a middlebox that forgets half-closed connections, often after 60 s",
			"the peer waits for something else before it answers",
		},
		Fix:     "set a read deadline after CloseWrite, and Close when it passes",
		Default: "60 s without a byte after CloseWrite, or as long as Expect.Silence allows; not during a use, nor with Expect.HalfClose",
		Checks:  []string{checkSocket},
	},
	say:         (*story).peerOpen,
	consequence: "FIN-WAIT-2 has no timeout while this program holds the descriptor.",
}, {
	KindInfo: KindInfo{
		Kind: KindClosingFINUnacked, Severity: Warning, Phase: PhaseActiveClose,
		Title:   "closed, and the peer does not answer",
		Meaning: "After Close the kernel sends our FIN again and again, and nothing acknowledges it. The program has no part in that any more. Of an accepted connection from the internet it is inventory: clients vanish every day.",
		Causes: []string{
			"the peer's host is gone, or the path to it",
			"a middlebox has forgotten the connection and drops what belongs to it",
		},
		Fix:     "find out what lies between: nothing here can end this sooner; keepalive finds such peers before they are needed",
		Default: "10 s after Close or the last progress, and 3 retransmissions",
		Checks:  []string{checkClosed, "tcpdump -ni any host {rhost} and port {rport}"},
	},
	say:         (*story).finUnacked,
	consequence: "The kernel gives up by itself after some minutes (net.ipv4.tcp_orphan_retries); what was not acknowledged by then is lost.",
}, {
	KindInfo: KindInfo{
		Kind: KindClosingDataUndelivered, Severity: Warning, Phase: PhaseActiveClose,
		Title:   "closed with bytes left that the peer does not take",
		Meaning: "Close returned at once, but what was written before waits for a peer whose receive window is closed. Of an accepted connection from the internet it is inventory.",
		Causes: []string{
			"the peer's program does not read, or not as fast as was written",
			"the peer waits for us to read before it reads itself",
		},
		Fix:     "before Close, wait for the peer to confirm: CloseWrite, then Read until io.EOF, under a deadline",
		Default: "30 s after Close or the last progress of the send queue",
		Checks:  []string{checkClosed},
	},
	say:         (*story).dataUndelivered,
	consequence: "The kernel keeps the bytes for some minutes, then it discards them and resets the connection: the peer gets a part of what was sent.",
}}

var halfOpenKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindPeerKeepsHalfOpen, Severity: Inventory, Phase: PhaseActiveClose, Subject: SubjectTarget,
		Title:   "peer does not close when we do",
		Meaning: "Of the connections to this target that this program closed first, most are still half-closed a while later: the other end got our FIN and holds on to its socket. It costs nothing here, and a descriptor each over there.",
		Causes: []string{
			"the peer's program leaks connections: its sockets are in CLOSE-WAIT",
			"the peer is a pool without a reader, which notices at its next checkout",
		},
		Fix:     "tell the owner of the target to look for sockets in CLOSE-WAIT",
		Default: "8 of those looked up at random 15 s after Close, and at least half of them",
		Checks:  []string{"ss -tn state fin-wait-2"},
	},
	say: (*story).keepsHalfOpen,
}}

var resetKinds []kindRow

// descriptor reports whether each finding of this kind holds a descriptor.
func (k *KindInfo) descriptor() bool {
	return k.Kind != KindClosingFINUnacked && k.Kind != KindClosingDataUndelivered
}

func (s *story) peerOpen() {
	s.say("this end was closed in its direction %s ago (CloseWrite); %s keeps its own open", age(s.f.Age()), s.peer())
	switch {
	case s.ev.DataIn < 0:
		s.add(" and has never sent a byte.")
	default:
		s.add(" and has sent nothing for %s.", s.ev.DataIn)
	}
	if s.f.Cause == "answer_pending" {
		s.say("It may be at work on an answer to what was sent last, which cannot be told from here: Expect.Silence or Watch.Use would say how long that may take.")
	}
}

// sinceClose is how long ago Close was called.
func (s *story) sinceClose() string {
	for _, n := range s.ev.Notes {
		if n.Name == "closed" {
			return n.Value
		}
	}
	return age(s.f.Age()) + " ago"
}

// unsent is how much waits to be acknowledged beside our FIN.
func (s *story) unsent() int { return max(s.ev.SendQueue-1, 0) }

func (s *story) finUnacked() {
	s.say("was closed %s, and nothing has acknowledged that: the kernel has sent our FIN again %s.", s.sinceClose(), often(int(s.ev.Timeouts)))
	if n := s.unsent(); n > 0 {
		s.say("%s written before were not acknowledged either.", counted(n, "byte"))
	}
	switch s.f.State {
	case LastAck:
		s.say("%s had closed before and does not answer any more: it, or the path to it, is gone.", upperFirst(s.peer()))
	default:
		s.say("A host that is there acknowledges at once, whatever its program does: it, or the path to it, is gone.")
	}
}

func (s *story) dataUndelivered() {
	s.say("was closed %s with %s left to send, of which %s takes none: its window is closed, so its program does not read.",
		s.sinceClose(), counted(s.unsent(), "byte"), s.peer())
	s.say("Close had returned at once; nobody was told.")
	if s.ev.Probes >= minFINRetries {
		s.say("By now it does not even answer the kernel's probes.")
	}
}

func (s *story) keepsHalfOpen() {
	s.say("most connections that this program closes stay half-closed for %s and more: the server has got our FIN and does not close its end.", age(pollAfter))
}
