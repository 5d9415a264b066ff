package tcpstate

import "time"

// pairOf makes up a finding about a tunnel.
func pairOf(k Kind, cause, down, up string, change ...func(*Finding)) Finding {
	return example(k, Client, append([]func(*Finding){func(f *Finding) {
		f.Cause, f.State = cause, Unknown
		f.Subject.Type, f.Subject.ID, f.Subject.Name, f.Subject.Target = SubjectTunnel, 0, "backend", "backend.internal:9000"
		f.Subject.Remote = "10.0.3.7:9000"
		proxy := Frame{Function: "github.com/acme/shop/edge.(*Proxy).serve", File: "edge/proxy.go", Line: 71, short: "shop/edge.(*Proxy).serve"}
		f.Sites = []Site{{Role: "pair", Frames: []Frame{proxy}}}
		f.Evidence.PeerFIN, f.Evidence.RecvQueue = Duration(61*time.Second), 0
		f.Evidence.note("downstream", down)
		f.Evidence.note("upstream", up)
	}}, change...)...)
}

func fact(name, value string) func(*Finding) {
	return func(f *Finding) { f.Evidence.note(name, value) }
}

// filesOf makes up a finding about the process.
func filesOf(change ...func(*Finding)) Finding {
	return example(KindFDsPressure, Client, append([]func(*Finding){func(f *Finding) {
		f.State, f.Subject, f.Evidence = Unknown, Subject{Type: SubjectProcess}, unknownEvidence()
		f.Sites[0].Frames = f.Sites[0].Frames[:1]
		f.Evidence.note("open files", "933 of 1,024")
		f.Evidence.note("connections", "871")
	}}, change...)...)
}

var tunnelExamples = []exampleRow{
	{"tunnel_half_closed", pairOf(KindTunnelHalfClosedIdle, causeClientDone,
		"conn 4126 \"edge\" CLOSE-WAIT, 812 bytes in, 16,060 bytes out", "conn 4127 \"backend\" FIN-WAIT-2, 16,060 bytes in, 812 bytes out", fact("quiet", "1m1s"))},
	{"tunnel_half_closed_not_passed_on", pairOf(KindTunnelHalfClosedIdle, causeServerDoneUntold,
		"conn 4126 \"edge\" ESTABLISHED, 812 bytes in, 16,060 bytes out", "conn 4127 \"backend\" CLOSE-WAIT, 16,060 bytes in, 812 bytes out", fact("quiet", "1m1s"), many(220, 12))},
	{"tunnel_truncated", pairOf(KindTunnelTruncated, causeUnread,
		"conn 4126 \"edge\" CLOSE-WAIT, 812 bytes in, 128,000 bytes out", "conn 4127 \"backend\" closed, 144,060 bytes in, 812 bytes out", unreadBytes(16060), fact("sender", "server"), fact("other side", "had ended its direction"))},
	{"tunnel_truncated_arriving", pairOf(KindTunnelTruncated, causeArriving,
		"conn 4126 \"edge\" CLOSE-WAIT, 812 bytes in, 128,000 bytes out", "conn 4127 \"backend\" closed, 128,000 bytes in, 812 bytes out", fact("sender", "server"), fact("other side", "had ended its direction, and read on"))},
	{"tunnel_truncated_upload", pairOf(KindTunnelTruncated, causeUnread,
		"conn 4126 \"edge\" closed, 92,000 bytes in, 0 bytes out", "conn 4127 \"backend\" ESTABLISHED, 0 bytes in, 88,000 bytes out", unreadBytes(4000), fact("sender", "client"), fact("other side", "open"), many(3, 0))},
	{"upstream_orphan", pairOf(KindTunnelUpstreamOrphan, causeClientFIN,
		"conn 4126 \"edge\" CLOSE-WAIT, 5,812 bytes in, 0 bytes out", "conn 4127 \"backend\" ESTABLISHED, 0 bytes in, 640 bytes out", fact("quiet", "30s"), func(f *Finding) {
			f.Evidence.PeerFIN = age30
			f.Evidence.ContextDone = new(bool)
			f.Subject.Use, f.Subject.UseOpen, f.Subject.HTTP = "GET backend.internal:9000", true, true
			f.Sites[0].Role = "request"
			f.Tokens.Use = traced("4bf92f3577b34da6a3ce929d0e0e4736")
		})},
	{"upstream_orphan_reset", pairOf(KindTunnelUpstreamOrphan, causeClientDied,
		"conn 4126 \"edge\" CLOSED, 812 bytes in, 0 bytes out", "conn 4127 \"backend\" ESTABLISHED, 0 bytes in, 640 bytes out", fact("quiet", "30s"), func(f *Finding) {
			f.Evidence.PeerFIN, f.Evidence.Died = unknownAge, age30
		})},
	{"upstream_orphan_closed", pairOf(KindTunnelUpstreamOrphan, causeClientClosed,
		"conn 4126 \"edge\" closed, 812 bytes in, 0 bytes out", "conn 4127 \"backend\" ESTABLISHED, 0 bytes in, 640 bytes out", fact("quiet", "30s"), many(7, 1))},
	{"fds_pressure", filesOf()},
	{"fds_pressure_growing", filesOf(fact("growth", "41 a minute"), fact("limit reached in", "2m13s"),
		fact("accept", "602 connections edge/proxy.go:40"), fact("dial", "201 connections billing/client.go:88"), fact("use", "60 connections feed/poll.go:12"))},
	{"local_address_gone", example(KindPathLocalAddressGone, Client, func(f *Finding) {
		f.State, f.Since, f.Evidence.PeerFIN = Established, noon.Add(-time.Second), unknownAge
	})},
	{"local_address_gone_ipv6", example(KindPathLocalAddressGone, Server, func(f *Finding) {
		f.State, f.Since, f.Evidence.PeerFIN = Established, noon, unknownAge
		f.Subject.Local, f.Subject.Remote = "[2001:db8::1]:8080", "[2001:db8:1:2::77]:40112"
	})},
}
