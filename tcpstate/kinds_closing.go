package tcpstate

import "cmp"

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

// The kinds of connections that ended by RST.
const (
	KindResetByUsUnread    Kind = "reset.by_us_unread"
	KindResetByUsLinger    Kind = "reset.by_us_linger"
	KindResetReuseAfterFIN Kind = "reset.reuse_after_fin"
	KindResetUnexplained   Kind = "reset.unexplained"
	KindResetBeforeAccept  Kind = "reset.before_accept"
)

var resetKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindResetByUsUnread, Severity: Count, Event: true, Phase: PhaseAbnormal, Subject: SubjectSite,
		Title:   "closed with bytes unread: the peer gets a reset",
		Meaning: "When Close leaves received bytes unread, the kernel answers with an RST in place of a FIN, and an answer that is still under way may be lost at the peer. Small rests are what TLS and HTTP/2 end with. It is a warning when a server does so again and again to clients that were still sending, shortly after it had answered.",
		Causes: []string{
			"the server answers with an error and closes before it has read the request",
			"a check closes as soon as it has seen enough, which harms nobody",
			"the program aborts what it no longer wants",
		},
		Fix:     "read the rest up to a limit before Close, or CloseWrite and read until io.EOF under a deadline",
		Default: "counted; a warning at 3 within a minute from one line, of a server, with more than 1 KiB unread and its answer just written",
		Checks:  []string{"nstat -az TcpExtTCPAbortOnClose"},
	},
	noun:        "reset",
	say:         (*story).byUsUnread,
	consequence: "Clients see a connection reset where they should see the answer.",
}, {
	KindInfo: KindInfo{
		Kind: KindResetByUsLinger, Severity: Count, Event: true, Phase: PhaseAbnormal, Subject: SubjectSite,
		Title:   "closed by SetLinger(0): bytes discarded",
		Meaning: "SO_LINGER 0 makes Close send an RST and discard what was not delivered or not read. It is counted only where there was something to discard.",
		Causes: []string{
			"SetLinger(0) was set to avoid TIME-WAIT, and the connection was still busy",
			"a deliberate abort",
		},
		Fix:     "leave SO_LINGER alone and let the peer close first where TIME-WAIT hurts",
		Default: "counted",
		Checks:  []string{"nstat -az TcpExtTCPAbortOnData"},
	},
	noun: "reset",
	say:  (*story).byUsLinger,
}, {
	KindInfo: KindInfo{
		Kind: KindResetReuseAfterFIN, Severity: Count, Event: true, Phase: PhaseAbnormal, Subject: SubjectTarget,
		Title:   "reused after the server had closed",
		Meaning: "The server had closed an idle connection, then a request was written to it and answered by an RST. Transports that notice retry some requests. It is a warning when it happens again and again with a FIN that had been there for a while: the pool hands out dead connections.",
		Causes: []string{
			"the server's idle timeout is shorter than the pool's",
			"the pool does not look whether the server has closed before it hands a connection out",
			"the request crossed the server's FIN, which cannot be avoided altogether",
		},
		Fix:     "set the pool's idle limit below the server's, and check connections at checkout",
		Default: "counted; a warning at 3 within a minute to one target, each at least 100 ms after the FIN",
		Checks:  []string{"tcpdump -ni any 'host {rhost} and port {rport} and tcp[tcpflags] & (tcp-fin|tcp-rst) != 0'"},
	},
	noun:        "reset",
	say:         (*story).reuseAfterFIN,
	consequence: "Requests that may not be repeated fail, the others take longer.",
}, {
	KindInfo: KindInfo{
		Kind: KindResetUnexplained, Severity: Count, Event: true, Phase: PhaseAbnormal, Subject: SubjectTarget,
		Title:   "reset, and nothing here explains it",
		Meaning: "An RST ended the connection without a FIN before and without a cause on this side. Who sent it cannot be known from this end: the peer's program, its kernel, or a device between. It is a warning when it happens again and again to one address while other connections to it live on. When all end at once the peer has crashed or was restarted (cause peer_crashed). Of accepted connections it is counted only: clients reset as they like.",
		Causes: []string{
			"a middlebox that has lost or rejects the connection: conntrack, NAT, firewall, load balancer",
			"the peer closed with bytes unread, or aborts on purpose",
			"the peer was restarted",
		},
		Fix:     "capture at both ends: an RST that the peer has not sent comes from between",
		Default: "counted; a warning at 3 within a minute to one address, with others alive",
		Checks: []string{
			"tcpdump -ni any 'host {rhost} and port {rport} and tcp[tcpflags] & tcp-rst != 0'",
			"conntrack -L -d {rhost} -p tcp --dport {rport}",
		},
	},
	noun:        "reset",
	say:         (*story).unexplained,
	consequence: "Whatever is under way on such a connection is lost.",
}, {
	KindInfo: KindInfo{
		Kind: KindResetBeforeAccept, Severity: Count, Event: true, Phase: PhaseAbnormal, Subject: SubjectListener,
		Title:   "reset before it was served",
		Meaning: "An accepted connection was reset before this program had read or written a byte of it, when it was accepted or right after.",
		Causes: []string{
			"a port check or the health check of a load balancer",
			"clients give up while they wait in the accept queue",
		},
		Fix:     "nothing, if it is health checks; else look at the accept queue of the listener",
		Default: "counted",
		Checks:  []string{"ss -tlne sport = :{lport}"},
	},
	noun: "reset",
	say:  (*story).beforeAccept,
}}

func (s *story) byUsUnread() {
	s.say("Close left %s unread, and so the peer got an RST in place of our FIN.", counted(s.ev.RecvQueue, "byte"))
	switch {
	case s.f.Severity >= Warning:
		s.f.Title = "closed while the client was still sending: it may lose the answer"
		s.say("The client was still sending, and this program had written to it a moment before: what was under way is lost when the RST comes first. It happens again and again at this line.")
	case s.f.Cause == "small":
		s.say("So little is mostly the end of a protocol, as of TLS, and harmless.")
	case s.f.Cause == "abort":
		s.say("No answer of this program was under way.")
	}
}

func (s *story) byUsLinger() {
	s.say("Close with SO_LINGER 0 discarded %s that were not delivered and %s that were not read.",
		counted(s.ev.SendQueue, "byte"), counted(s.ev.RecvQueue, "byte"))
}

func (s *story) reuseAfterFIN() {
	s.say("%s had closed the connection; what was written to it afterwards was answered by an RST.", upperFirst(s.peer()))
	if a := s.fact("age of the FIN"); a != "" {
		s.say("The FIN had been there for %s by then.", a)
	}
	s.idleLimit()
	if s.f.Severity >= Warning {
		s.f.Title = "the pool hands out connections that the server has closed"
		s.say("It happens again and again, each time long enough after the FIN to be noticed before.")
	}
}

func (s *story) unexplained() {
	when := map[string]string{
		"before_handshake":  " before anything had come from it",
		"after_request":     " while an answer was awaited",
		"after_idle":        " when it was used again after having been idle for " + s.fact("idle before"),
		"partial_data":      " after a part of what it sends",
		"after_close_write": " after this end had closed its direction",
		"peer_crashed":      " together with all others to this address",
	}[s.f.Cause]
	s.say("the connection was reset%s.", when)
	switch {
	case s.f.Cause == "peer_crashed":
		s.f.Title = "all connections reset at once: the peer has crashed"
		s.say("The peer has crashed or was restarted, or the path to it was replaced; which of these cannot be known from this end.")
		return
	case s.f.Severity >= Warning:
		s.f.Title = "connections reset again and again, while others live on"
		s.say("It happens again and again, while other connections to the same address live on, so the peer has not crashed.")
	}
	s.say("Nothing on this side explains it; whether the peer or something between has sent the RST cannot be known from this end.")
}

func (s *story) beforeAccept() {
	s.say("the client had reset the connection before a byte of it was read or written here.")
}

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
		s.say("It may be at work on an answer to what was sent last: Expect.Silence or Watch.Use would say how long that may take.")
	}
}

// sinceClose is how long ago Close was called.
func (s *story) sinceClose() string {
	return cmp.Or(s.fact("closed"), age(s.f.Age())+" ago")
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
