package tcpstate

// The kinds of listeners.
const (
	KindListenerOverflow        Kind = "listener.overflow"
	KindListenerNotAccepting    Kind = "listener.not_accepting"
	KindListenerBlockedInAccept Kind = "listener.blocked_in_accept"
	KindListenerSYNRecv         Kind = "listener.syn_recv"
)

// The kinds of accepted connections that do not get going.
const (
	KindAcceptNeverRead  Kind = "accept.never_read"
	KindAcceptPeerSilent Kind = "accept.peer_silent"
	KindAcceptTrickle    Kind = "accept.trickle"
)

// checkQueue shows the accept queue: Recv-Q is its length, Send-Q its limit.
const checkQueue = "ss -ltn 'sport = :{lport}'"

var listenerKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindListenerNotAccepting, Severity: Error, Phase: PhaseListen, Subject: SubjectListener,
		Title:   "clients wait, nobody accepts",
		Meaning: "Connections wait in the accept queue of the listener, and for all that time no Accept was in progress and none returned one. The clients are connected, so what they see is a server that does not answer.",
		Causes: []string{
			"the goroutine that accepts is blocked in something else: a full channel, a lock, a limit on connections",
			"the accept loop has returned after an error",
			"every Accept fails, because the process is out of file descriptors",
			"the program listens long before it serves",
		},
		Fix:     "let the goroutine that accepts do nothing but accept: hand each connection to a goroutine of its own, and go on after errors that pass",
		Default: "10 s of looks, a second apart, that all find somebody waiting; for a listener that was inherited, from its first Accept on",
		Checks:  []string{checkQueue, "ls /proc/{pid}/fd | wc -l; grep 'open files' /proc/{pid}/limits"},
	},
	say:         (*story).notAccepting,
	consequence: "Clients connect, send, and wait in vain. When the queue is full, new ones cannot connect.",
}, {
	KindInfo: KindInfo{
		Kind: KindListenerBlockedInAccept, Severity: Error, Phase: PhaseListen, Subject: SubjectListener,
		Title:   "Accept reads from one client, all others wait behind it",
		Meaning: "A listener that wraps this one reads inside its Accept, as for a PROXY header, a TLS handshake or a first look at the protocol. The client sends nothing, so Accept does not return, and everybody else waits in the queue.",
		Causes: []string{
			"a health check or a port scanner connects and sends nothing",
			"a client that speaks another protocol waits for the server to speak first",
		},
		Fix:     "read in the goroutine of the connection, not in Accept; until then set a short read deadline there",
		Default: "5 s of looks, a second apart, that all find somebody waiting",
		Checks:  []string{checkQueue, "ss -tinp 'sport = :{lport}'"},
	},
	say:         (*story).blockedInAccept,
	consequence: "One silent client is enough to keep everybody out.",
}, {
	KindInfo: KindInfo{
		Kind: KindListenerOverflow, Severity: Error, Phase: PhaseListen, Subject: SubjectListener,
		Title:   "accept queue is full, the kernel drops handshakes",
		Meaning: "More connections waited for Accept than the queue holds, in most looks of the last seconds. The kernel ignores the handshakes of further clients, which try again after a second or more.",
		Causes: []string{
			"Accept is called too seldom: the loop does work that belongs into goroutines of their own",
			"Accept fails, because the process is out of file descriptors",
			"clients time out and connect again all at once",
			"the limit of the queue (net.core.somaxconn) is small for bursts of this size",
		},
		Fix:     "accept faster; if bursts are the cause, raise net.core.somaxconn and start the program anew",
		Default: "3 of 5 looks, a second apart",
		Checks:  []string{checkQueue, "nstat -az TcpExtListenOverflows TcpExtListenDrops"},
	},
	say:         (*story).overflow,
	consequence: "Clients see connects that take seconds or time out, although the server runs.",
}, {
	KindInfo: KindInfo{
		Kind: KindListenerSYNRecv, Severity: Warning, Phase: PhaseSetup, Subject: SubjectListener,
		Title:   "clients do not complete their handshakes",
		Meaning: "SYNs arrive, this end has answered each of them at least three times, and the last ACK of the client does not come. The program sees nothing of it: no connection, no error.",
		Causes: []string{
			"the SYN-ACK does not reach the client: it takes another way back, through a firewall or a gateway that has not seen the SYN",
			"the client's answer does not reach this end",
			"the addresses are forged: a SYN flood",
		},
		Fix:     "look for the SYN-ACK at both ends and on the way; compare the routes to and from the network of the clients",
		Default: "3 handshakes from one network or 10 in all, each answered again twice, in two looks a sweep apart",
		Checks:  []string{"ss -tno state syn-recv 'sport = :{lport}'", "tcpdump -nni any 'port {lport} and tcp[tcpflags] & tcp-syn != 0'"},
	},
	say:         (*story).synRecv,
	consequence: "For these clients the server does not exist; each of their attempts takes a place for about a minute.",
}}

var acceptKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindAcceptNeverRead, Severity: Warning, Phase: PhaseTransfer,
		Title:   "accepted, never served",
		Meaning: "The connection was accepted and its client has sent something, but the program has never read from it, nor written to it.",
		Causes: []string{
			"the connection waits in a queue whose workers are stuck or too few",
			"it was turned away (limit, filter) without Close",
		},
		Fix:     "close what is not served; bound the queue behind Accept, and look at what its workers wait for",
		Default: "30 s after the bytes came",
		Checks:  []string{checkSocket},
	},
	say:         (*story).acceptNeverRead,
	consequence: "The client waits until its own timeout, and holds a descriptor here.",
}, {
	KindInfo: KindInfo{
		Kind: KindAcceptTrickle, Severity: Warning, Phase: PhaseTransfer,
		Title:   "request begun, never completed",
		Meaning: "The client has sent a part of an HTTP request, or of the first message of a TLS handshake. Bytes come too slowly, or no more come, and no handler was called.",
		Causes: []string{
			"the server has no ReadHeaderTimeout",
			"a client that sends its request byte by byte to hold connections (slowloris)",
			"a client or a proxy that died in the middle of a request",
		},
		Fix:     "set http.Server.ReadHeaderTimeout",
		Default: "30 s after the first byte",
		Checks:  []string{checkSocket},
	},
	say:         (*story).trickle,
	consequence: "The connection, its goroutine and its buffers stay for as long as the client likes.",
}, {
	KindInfo: KindInfo{
		Kind: KindAcceptPeerSilent, Severity: Inventory, Phase: PhaseTransfer, Subject: SubjectListener,
		Title:   "clients connect and send nothing",
		Meaning: "Connections of the listener on which neither end has ever sent a byte. A few are normal: browsers connect ahead, load balancers keep connections warm. It is a warning when there are more than 100, or more than a fifth of the connections and at least 10.",
		Causes: []string{
			"the server has no timeout for the first bytes",
			"health checks or port scanners leave connections behind",
			"the clients wait for the server to speak first",
		},
		Fix:     "set http.Server.ReadHeaderTimeout, or a read deadline before the first Read",
		Default: "30 s",
		Checks:  []string{"ss -tn state established 'sport = :{lport}'"},
	},
	say:         (*story).peerSilent,
	consequence: "Each of them holds a descriptor, and mostly a goroutine, for as long as the client likes.",
}}

// fact returns the value of a note.
func (s *story) fact(name string) string {
	for _, n := range s.ev.Notes {
		if n.Name == name {
			return n.Value
		}
	}
	return ""
}

// wait says how many wait in the accept queue.
func (s *story) wait() string {
	if n := s.fact(factQueue); n != "1" {
		return n + " connections wait"
	}
	return "1 connection waits"
}

func (s *story) notAccepting() {
	switch s.f.Cause {
	case causeAcceptFails:
		s.f.Title = "clients wait, Accept fails"
		s.f.Fix = "free what takes the descriptors, or raise the limit; go on accepting after errors that pass"
		s.say("%s to be accepted, and every Accept fails: %s.", s.wait(), s.fact(factError))
	case causeNeverAccepted:
		s.say("%s to be accepted, and the program has accepted none so far.", s.wait())
	default:
		s.say("%s to be accepted; the last Accept returned %s, and none is in progress.", s.wait(), s.fact(factLastAccept))
	}
}

func (s *story) blockedInAccept() {
	s.say("Accept has been reading from one client for %s and got nothing. %s behind it.", s.fact(factReading), upperFirst(s.wait()))
}

func (s *story) overflow() {
	s.say("%s to be accepted, the limit is %s.", s.wait(), s.fact(factLimit))
	switch r := s.fact(factRate); r {
	case "":
	case "0":
		s.say("None was accepted in the last seconds.")
	default:
		s.say("The program accepts %s in a second.", r)
	}
	if text := s.fact(factError); text != "" {
		s.say("Accept failed %s ago: %s.", s.fact(factErrorAge), text)
	}
}

func (s *story) acceptNeverRead() {
	s.say("accepted %s ago, never read and never written%s.", age(s.f.ReportedAt.Sub(s.sub.Opened)), s.unread("; ", ""))
}

func (s *story) trickle() {
	what := "request"
	if s.f.Cause == causeHandshake {
		what = "TLS handshake"
		s.f.Title = "TLS handshake begun, never completed"
	}
	s.say("the client began a %s at least %s ago; %s came so far on this connection, the last %s ago.",
		what, age(s.f.Age()), counted(int(s.ev.BytesIn), "byte"), s.ev.DataIn)
}

func (s *story) peerSilent() {
	n := s.fact(factSilent)
	verb := "have"
	if n == "1" {
		verb = "has"
	}
	s.say("%s of %s connections %s never carried a byte, the oldest for %s.", n, s.fact(factConns), verb, s.fact(factOldest))
	s.mostFrom()
}

func (s *story) synRecv() {
	s.say("%s handshakes wait for the client's last ACK although the SYN-ACK was sent again, up to %s times.",
		s.fact(factHandshakes), s.fact(factRetries))
	s.mostFrom()
}

// mostFrom says which network most of them come from.
func (s *story) mostFrom() {
	where, n := s.fact(factNetwork), s.fact(factFromNetwork)
	switch {
	case where == "":
	case n == s.fact(factHandshakes) || n == s.fact(factSilent):
		s.say("All of them come from %s.", where)
	default:
		s.say("%s of them come from %s.", n, where)
	}
}
