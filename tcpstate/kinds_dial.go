package tcpstate

import "fmt"

// The kinds of dials, and of targets that are dialed.
const (
	KindDialNoAnswer        Kind = "dial.no_answer"
	KindDialTupleStuck      Kind = "dial.tuple_stuck"
	KindDialFallbackStarved Kind = "dial.fallback_starved"
	KindDialDNSSlow         Kind = "dial.dns_slow"
	KindDialStorm           Kind = "dial.storm"
	KindDialPorts           Kind = "dial.ports"
)

// The kinds of connections that were set up and are not in use yet.
const (
	KindHandshakeStalled Kind = "handshake.stalled"
	KindLeakUnusedDial   Kind = "leak.unused_dial"
)

const (
	checkSynSent = "ss -tnop state syn-sent dst {rhost}"
	checkPackets = "tcpdump -ni any host {rhost} and port {rport}"
)

var dialKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindDialNoAnswer, Severity: Warning, Phase: PhaseSetup, Subject: SubjectDial,
		Title:   "dialed address does not answer",
		Meaning: "The SYN was sent several times and nothing has come back, not even a refusal.",
		Causes: []string{
			"a firewall or security group drops the packets",
			"the host is down, or the address is no longer in use",
			"the server's accept queue is full: it drops new SYNs in silence",
		},
		Fix:     "check that the address is right and that a firewall lets it through; give dials a timeout of a few seconds",
		Default: "3 s, and the SYN was sent again at least twice; 4 s where the kernel cannot be asked",
		Checks:  []string{checkSynSent, checkPackets},
	},
	say:         (*story).noAnswer,
	consequence: "The caller waits until the dial ends; without a deadline that takes about two minutes (net.ipv4.tcp_syn_retries).",
}, {
	KindInfo: KindInfo{
		Kind: KindDialTupleStuck, Severity: Warning, Phase: PhaseSetup, Subject: SubjectDial,
		Title:   "this dial gets no answer, others to the same address do",
		Meaning: "The SYN was sent several times without an answer, while another dial has reached the same address: every retry repeats the local port, and something on the way remembers it.",
		Causes: []string{
			"a NAT or load balancer has a stale entry for this pair of ports",
			"one of several paths or backends behind the address is dead",
			"the server's accept queue overflows from time to time",
		},
		Fix:     "cancel and dial again, which takes a new local port: give each try a short deadline of its own",
		Default: "as dial.no_answer, once another dial to the same address has succeeded meanwhile",
		Checks:  []string{checkSynSent, checkPackets},
	},
	say:         (*story).tupleStuck,
	consequence: "The retries of the kernel use the same ports, so this dial is likely to fail however long it waits.",
}, {
	KindInfo: KindInfo{
		Kind: KindDialFallbackStarved, Severity: Warning, Phase: PhaseSetup, Subject: SubjectTarget, Event: true,
		Title:   "dial timed out before the other address family was tried",
		Meaning: "The name has IPv4 and IPv6 addresses, and the timeout was over before one of the second family was tried.",
		Causes: []string{
			"the timeout is shorter than the delay before the fallback (net.Dialer.FallbackDelay, 300 ms)",
			"the first family is not routed here: its packets are lost in silence",
			"the name was resolved so slowly that nothing was left",
		},
		Fix:     "give the dial a timeout of some seconds, or set FallbackDelay well below it; mend or remove the addresses that do not answer",
		Default: "when a dial fails by its deadline",
		Checks:  []string{"getent ahosts {host}"},
	},
	say:         (*story).fallbackStarved,
	consequence: "Dials fail although the service may be reachable by its other addresses.",
}, {
	KindInfo: KindInfo{
		Kind: KindDialDNSSlow, Severity: Warning, Phase: PhaseSetup, Subject: SubjectTarget, Event: true,
		Title:   "slow name resolution before a dial",
		Meaning: "The resolver took long to find the address, or has not found it yet. No connection was tried in that time.",
		Causes: []string{
			"a name server in /etc/resolv.conf does not answer, and the next one is asked only after a timeout",
			"search domains multiply the questions (options ndots)",
			"packets to the name server are lost, as under load in a container network",
		},
		Fix:     "ask the name servers one by one; write the name with a dot at its end if search domains are not needed",
		Default: "2 s, also while it lasts",
		Checks:  []string{"cat /etc/resolv.conf", "time getent ahosts {host}"},
	},
	say:         (*story).slowDNS,
	consequence: "Every dial to this name may wait as long.",
}, {
	KindInfo: KindInfo{
		Kind: KindDialStorm, Severity: Warning, Phase: PhaseSetup, Subject: SubjectTarget,
		Title:   "dial storm: dials are given up and made again",
		Meaning: "Many dials are made to one target, and a large part is cancelled or times out here before the peer has answered. Each takes a place in the peer's queues, which delays the next.",
		Causes: []string{
			"the dial timeout is shorter than the peer needs under load, and each failure dials again at once",
			"a pool opens a connection for every waiting request, and drops it when the request has given up",
		},
		Fix:     "back off between tries, with jitter, and limit the dials in progress; give a dial longer than a lost SYN takes (1 s)",
		Default: "50 dials in 10 s, half of them given up by this program",
		Checks:  []string{checkDials},
	},
	say:         (*story).dialStorm,
	consequence: "The load keeps the peer from answering in time, so it does not end by itself.",
}, {
	KindInfo: KindInfo{
		Kind: KindDialPorts, Severity: Warning, Phase: PhaseSetup, Subject: SubjectTarget,
		Title:   "local ports to a target are running out",
		Meaning: "Most of the local ports for connections to one address are taken, by open connections or by those in TIME-WAIT, which this end has closed first. An error says that a dial has found none.",
		Causes: []string{
			"a connection is made for each request: response bodies that are not read to the end, or a pool that keeps too few idle ones (http.Transport.MaxIdleConnsPerHost is 2)",
			"connections to the target leak",
		},
		Fix:     "reuse connections: read bodies to the end, raise MaxIdleConnsPerHost to the usual concurrency",
		Default: "80 % of net.ipv4.ip_local_port_range, as counted by the kernel; error when a dial has failed for want of a port",
		Checks:  []string{"ss -tan state time-wait dst {rhost} | wc -l", "sysctl net.ipv4.ip_local_port_range"},
	},
	say:         (*story).fewPorts,
	consequence: "When none is left, dials fail with \"cannot assign requested address\".",
}}

const checkDials = "ss -tn state syn-sent | wc -l"

var handshakeKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindHandshakeStalled, Severity: Warning, Phase: PhaseTransfer,
		Title:   "handshake does not get on",
		Meaning: "TCP is connected, and the handshake above it (TLS, SSH, a login) has moved no byte for long.",
		Causes: []string{
			"the peer accepts connections and its process is stuck or overloaded",
			"the peer speaks another protocol and waits for the first word",
			"large packets are lost on the way (path MTU), so that certificates do not arrive",
		},
		Fix:     "give the handshake a deadline: HandshakeContext with a timeout, Transport.TLSHandshakeTimeout, SetDeadline around a login",
		Default: "10 s, and no byte for half of that",
		Checks:  []string{checkSocket},
	},
	say:         (*story).handshakeStalled,
	consequence: "Without a deadline it lasts as long as the peer keeps the connection open.",
}}

var unusedKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindLeakUnusedDial, Severity: Warning, Phase: PhaseTransfer,
		Title:   "dialed connection that nobody uses",
		Meaning: "The connection was dialed and never read, written or closed, and the context of the dial has ended.",
		Causes: []string{
			"the caller stopped waiting and nobody took the result of the dial",
			"several dials race and the losers are not closed",
			"a pool keeps connections ready without saying so",
		},
		Fix:     "close the result of a dial that comes too late: receive it in any case, and close it when the context has ended; declare Expect.Pooled for a pool",
		Default: "30 s after the end of the dial's context, without any use",
		Checks:  []string{checkSocket},
	},
	say:         (*story).unusedDial,
	consequence: "The descriptor stays taken, and the peer's too, until the garbage collector finds the connection or the program ends.",
}}

// noted returns the value of a note.
func (s *story) noted(name string) string {
	for _, n := range s.ev.Notes {
		if n.Name == name {
			return n.Value
		}
	}
	return ""
}

// silence says how long a dialed address has not answered.
func (s *story) silence() {
	how := fmt.Sprintf("the SYN was sent again %s", counted(int(s.ev.Retransmits), "time"))
	if s.f.State != SynSent {
		how = "how often the SYN was sent is not known"
	}
	s.say("%s has not answered for %s; %s.", s.sub.Remote, age(s.f.Age()), how)
}

func (s *story) noAnswer() {
	s.silence()
	switch left := s.noted(noteDeadline); left {
	case "none":
		s.say("The dial has no deadline.")
	case "", "over":
	default:
		s.say("The dial gives up %s.", left)
	}
}

func (s *story) tupleStuck() {
	s.silence()
	s.say("Another dial has reached %s meanwhile.", s.sub.Remote)
	s.say("Whether a stale NAT entry, one bad path of several or a full queue is behind it cannot be known from this end.")
}

func (s *story) fallbackStarved() {
	s.say("the dial timed out after %s: tried %s, never tried %s.", s.noted(noteBudget), s.noted(noteTried), s.noted(noteUntried))
}

func (s *story) slowDNS() {
	took := s.noted(noteLookup)
	switch s.f.Cause {
	case "silent":
		s.say("the resolver has not answered for %s.", took)
	case "gave_up":
		s.say("the dial ended after the resolver had not answered for %s.", took)
	case "failed":
		s.say("the resolver failed after %s.", took)
	default:
		s.say("the name was resolved after %s.", took)
	}
}

func (s *story) dialStorm() {
	s.say("dialed %s; this program gave up %s", s.noted(noteDials), s.noted(noteGivenUp))
	if after := s.noted(noteAfter); after != "" {
		s.said[len(s.said)-1] += ", after " + after
	}
	s.said[len(s.said)-1] += ", before the peer had answered."
}

func (s *story) fewPorts() {
	if s.f.Cause == "none_left" {
		s.f.Title = "no local port left to dial a target"
		s.say("a dial failed because every local port is taken:")
	}
	s.say("%s local ports", s.noted(notePorts))
	last := &s.said[len(s.said)-1]
	if s.sub.Remote != "" {
		*last += " to " + s.sub.Remote
	}
	*last += " are taken"
	if n := s.noted(noteTimeWait); n != "" {
		*last += ", " + n + " of them by TIME-WAIT"
	}
	*last += "."
	if n := s.noted(noteClosedFirst); n != "" {
		s.say("In the last minute or two this program closed %s first", n)
		if per := s.noted(notePerConn); per != "" {
			s.said[len(s.said)-1] += ", after " + per + " uses each"
		}
		s.said[len(s.said)-1] += "."
	}
	if n := s.noted(noteSurplus); n != "" {
		s.say("Its pool closed %s only because enough of them lay idle.", plural(n, "connection"))
		s.sayLimit()
	}
}

func (s *story) handshakeStalled() {
	what := "handshake"
	if p := s.noted(noteProtocol); p != "" {
		what = p + " handshake"
	}
	s.say("TCP is connected, the %s has lasted for %s", what, age(s.f.Age()))
	last := &s.said[len(s.said)-1]
	switch {
	case s.ev.BytesIn == 0:
		*last += fmt.Sprintf(" and %s has not sent a byte", s.peer())
	case s.ev.DataIn >= 0:
		*last += fmt.Sprintf(", and no byte has come for %s", s.ev.DataIn)
	}
	*last += "."
	switch {
	case s.ev.Unacked > 0 || s.ev.Timeouts > 0:
		s.say("What this end has sent is not acknowledged: suspect the path.")
	case s.ev.BytesOut > 0 && s.ev.BytesIn == 0:
		s.say("What this end has sent is acknowledged: the host is there, its program does not answer.")
	}
}

const noteProtocol = "protocol"

func (s *story) unusedDial() {
	s.say("dialed %s ago, never read and never written; the context of the dial ended %s ago%s.",
		age(s.f.ReportedAt.Sub(s.sub.Opened)), age(s.f.Age()), s.unread(", and ", ""))
}
