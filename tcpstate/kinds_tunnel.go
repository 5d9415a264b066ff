package tcpstate

import (
	"net/netip"
	"strings"
)

// The kinds about two connections that a program joins, about the process, and
// about the way between a connection and its peer.
const (
	KindTunnelHalfClosedIdle Kind = "tunnel.half_closed_idle"
	KindTunnelTruncated      Kind = "tunnel.truncated"
	KindTunnelUpstreamOrphan Kind = "tunnel.upstream_orphan"

	KindFDsPressure Kind = "fds.pressure"

	KindPathLocalAddressGone Kind = "path.local_address_gone"
)

var tunnelKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindTunnelHalfClosedIdle, Severity: Warning, Phase: PhasePassiveClose, Subject: SubjectTunnel,
		Title:   "tunnel half closed, and idle",
		Meaning: "One side of a tunnel has ended its direction and everything it sent was passed on; the other side keeps its own direction open, and no byte moves on either connection.",
		Causes: []string{
			"the proxy waits for both copies without a limit, and the other side never ends",
			"the end of one direction is not passed on by CloseWrite, so the other side does not know of it",
			"a server goes on with a subscription although its client is done",
		},
		Fix:     "after the end of one direction bound how long the other may be idle, then close both connections",
		Default: "60 s after the FIN or the last byte",
		Checks:  []string{checkSocket},
	},
	say:         (*story).halfClosedIdle,
	consequence: "TCP has no timeout for a half-open connection that a program holds: both stay until the silent side ends.",
}, {
	KindInfo: KindInfo{
		Kind: KindTunnelTruncated, Severity: Warning, Phase: PhaseActiveClose, Subject: SubjectTunnel, Event: true,
		Title:   "tunnel closed while one side was still sending",
		Meaning: "The program closed one connection of a tunnel while bytes of its peer were unread or still coming, and the other side was there to take them.",
		Causes: []string{
			"the proxy closes both connections at the first end of stream, which ends one direction only",
			"a deadline or a limit ends the tunnel in the middle of a transfer",
		},
		Fix:     "at the end of one direction call CloseWrite on the other connection and go on copying the other way; close both after both have ended",
		Default: "at once",
		Checks:  []string{"nstat -az TcpExtTCPAbortOnClose TcpExtTCPAbortOnData"},
	},
	say:         (*story).tunnelTruncated,
	consequence: "What was cut off is lost: the receiver sees an early end, and the sender a reset.",
}, {
	KindInfo: KindInfo{
		Kind: KindTunnelUpstreamOrphan, Severity: Warning, Phase: PhaseTransfer, Subject: SubjectTunnel,
		Title:   "client gone, upstream request goes on",
		Meaning: "The client of a request is gone, and the upstream connection that serves it still waits for an answer: what was sent is acknowledged, and nothing has come back.",
		Causes: []string{
			"the upstream request was made without the context of the client's request",
			"the request body is unread, so net/http cannot see that the client left and does not cancel the context",
			"the proxy passes the end of one direction on to nobody",
		},
		Fix:     "make the upstream request with the context of the client's request; in a proxy of connections, pass on the end of each direction",
		Default: "30 s after the client left or the last byte",
		Checks:  []string{checkSocket},
	},
	say:         (*story).upstreamOrphan,
	consequence: "The server works for nobody, and two connections and their goroutines wait for it.",
}}

var processKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindFDsPressure, Severity: Error, Phase: PhaseSetup, Subject: SubjectProcess,
		Title:   "open files are running out",
		Meaning: "Nine tenths of the files that this process may have open (RLIMIT_NOFILE) are open.",
		Causes: []string{
			"connections are opened and not closed: see the other findings and the lines that hold most",
			"more clients than the limit was made for",
		},
		Fix:     "close what the lines with most connections hold; raise LimitNOFILE or ulimit -n only if that many are meant to be open",
		Default: "from 90 % of the limit until below 85 %, at each sweep",
		Checks:  []string{"ls -l /proc/{pid}/fd | grep -o '[a-z]*:' | sort | uniq -c", "grep 'open files' /proc/{pid}/limits"},
	},
	say:         (*story).filesRunOut,
	consequence: "At the limit every accept, dial and open of this process fails with EMFILE, \"too many open files\".",
}}

var pathKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindPathLocalAddressGone, Severity: Warning, Phase: PhaseTransfer,
		Title:   "local address has left the machine",
		Meaning: "The address that an open connection has at this end is no longer on any interface, so nothing that the peer sends arrives.",
		Causes: []string{
			"the network was changed: DHCP, VPN, roaming, an interface that was removed",
			"a virtual address moved to another machine",
			"a temporary IPv6 address has expired",
		},
		Fix:     "close the connection and dial again; TCP_USER_TIMEOUT or a heartbeat makes the program notice by itself",
		Default: "at the first sweep after the address was removed",
		Checks:  []string{"ip address show to {lhost}", checkSocket},
	},
	say:         (*story).addressGone,
	consequence: "Reads block until keepalive gives up, and for ever without keepalive; writes fail after about 15 minutes of retransmissions.",
}}

func (s *story) halfClosedIdle() {
	done, open := "client", "server"
	if strings.HasPrefix(s.f.Cause, "server") {
		done, open = open, done
	}
	s.say("the %s ended its direction %s ago", done, s.ev.PeerFIN)
	if strings.HasSuffix(s.f.Cause, "not_passed_on") {
		s.said[len(s.said)-1] += ", which was not passed on to the " + open + "."
		s.f.Fix = "at the end of a stream call CloseWrite on the other connection; then bound how long the other direction may be idle"
	} else {
		s.said[len(s.said)-1] += " and the " + open + " was told; the " + open + " keeps its own direction open."
	}
	s.say("No byte has moved on either connection for %s.", s.fact("quiet"))
}

func (s *story) tunnelTruncated() {
	from, conn := "server", "upstream"
	if s.fact("sender") == "client" {
		from, conn = "client", "downstream"
	}
	switch s.f.Cause {
	case causeArriving:
		s.say("the program closed the %s connection while the %s was still sending.", conn, from)
	default:
		s.say("the program closed the %s connection while %s from the %s were unread, which resets it.", conn, counted(s.ev.RecvQueue, "byte"), from)
	}
	switch other := s.fact("other side"); {
	case other == "open":
		s.say("The other side was open and would have taken them.")
	case strings.HasSuffix(other, "read on"):
		s.say("The client had ended its own direction before, and went on reading.")
	default:
		s.say("The client had ended its own direction before. If it has not left altogether, which looks the same, it waits for the rest.")
	}
}

func (s *story) upstreamOrphan() {
	switch s.f.Cause {
	case causeClientClosed:
		s.say("the program closed the connection of the client")
	case causeClientDied:
		s.say("the connection of the client ended %s ago", s.ev.Died)
	default:
		s.say("the client left %s ago", s.ev.PeerFIN)
	}
	s.said[len(s.said)-1] += ", and the request to the server is still out."
	s.say("The server has acknowledged it and sent nothing since; no byte has moved for %s.", s.fact("quiet"))
	if done := s.ev.ContextDone; done != nil && !*done {
		s.say("The context of the client's request is NOT cancelled: net/http notices a close only once the request body is read.")
		s.f.Fix = "read or discard r.Body before waiting for the server, and make the upstream request with r.Context()"
	}
}

func (s *story) filesRunOut() {
	s.say("%s files are open.", s.fact("open files"))
	s.say("%s of them are connections that are tracked.", s.fact("connections"))
	if rate := s.fact("growth"); rate != "" {
		s.say("The number grows by %s: the limit is reached in about %s.", rate, s.fact("limit reached in"))
	}
}

func (s *story) addressGone() {
	s.say("%s left this machine %s ago; the connection is open and will hear nothing any more.", hostOf(s.sub.Local), age(s.f.ReportedAt.Sub(s.f.Since)))
}

// hostOf returns the host of an address.
func hostOf(addr string) string {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return ap.Addr().Unmap().String()
	}
	return addr
}
