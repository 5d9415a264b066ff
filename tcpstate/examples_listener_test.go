package tcpstate

import "time"

// aboutListener makes up what a finding about a listener shows, from facts in
// pairs of name and value.
func aboutListener(facts ...string) func(*Finding) {
	return func(f *Finding) {
		serve := Frame{Function: "github.com/acme/shop/api.Serve", File: "api/serve.go", Line: 33, short: "shop/api.Serve"}
		accept := Frame{Function: "github.com/acme/shop/api.(*server).loop", File: "api/loop.go", Line: 71, short: "shop/api.(*server).loop"}
		f.State = Listen
		f.Subject = Subject{Type: SubjectListener, Role: Server, Name: "api", Target: ":8080", Local: "[::]:8080"}
		f.Sites = []Site{{Role: "listen", Frames: []Frame{serve}}, {Role: "accept", Frames: []Frame{accept}}}
		f.Evidence = unknownEvidence()
		for i := 0; i+1 < len(facts); i += 2 {
			f.Evidence.note(facts[i], facts[i+1])
		}
	}
}

// untouched is evidence of an accepted connection that nobody reads.
func untouched(f *Finding) {
	f.State = Established
	ev := &f.Evidence
	ev.PeerFIN, ev.AppRead, ev.DataOut, ev.BytesOut, ev.EverRead = unknownAge, unknownAge, unknownAge, 0, false
	ev.DataIn, ev.ACK, ev.BytesIn, ev.RecvQueue = age30, age30, 78, 78
	f.Subject.Opened = noon.Add(-31 * time.Second)
}

var listenerExamples = []exampleRow{
	{"not_accepting", example(KindListenerNotAccepting, Server, aboutListener(
		factQueue, "12", factLimit, "4,096", factLastAccept, "42s ago", factAccepted, "18,211",
	))},
	{"not_accepting_never", example(KindListenerNotAccepting, Server, aboutListener(
		factQueue, "1", factLimit, "4,096", factLastAccept, "never", factAccepted, "0",
	), func(f *Finding) { f.Cause, f.Subject.Name, f.Sites = causeNeverAccepted, "", f.Sites[:1] })},
	{"not_accepting_no_descriptors", example(KindListenerNotAccepting, Server, aboutListener(
		factQueue, "12", factLimit, "4,096", factLastAccept, "42s ago", factAccepted, "18,211",
		factError, "accept4: too many open files", factErrorAge, "800ms",
	), func(f *Finding) { f.Cause = causeAcceptFails })},
	{"blocked_in_accept", example(KindListenerBlockedInAccept, Server, aboutListener(
		factQueue, "7", factLimit, "4,096", factLastAccept, "12s ago", factAccepted, "311",
		factClient, "192.0.2.77:40112", factBytesIn, "0", factReading, "12s",
	), func(f *Finding) {
		f.Subject.Remote = "192.0.2.77:40112"
		header := Frame{Function: "github.com/pires/go-proxyproto.(*Listener).Accept", File: "github.com/pires/go-proxyproto/protocol.go", Line: 124, short: "pires/go-proxyproto.(*Listener).Accept"}
		f.Sites = append([]Site{{Role: "read", Frames: []Frame{header, f.Sites[1].Frames[0]}}}, f.Sites[0])
	})},
	{"overflow", example(KindListenerOverflow, Server, aboutListener(
		factQueue, "129", factLimit, "128", factLastAccept, "300ms ago", factAccepted, "90,413", factRate, "3.2",
	))},
	{"overflow_no_descriptors", example(KindListenerOverflow, Server, aboutListener(
		factQueue, "129", factLimit, "128", factLastAccept, "4s ago", factAccepted, "1,012", factRate, "0",
		factError, "accept4: too many open files", factErrorAge, "1s",
	))},
	{"syn_recv", example(KindListenerSYNRecv, Server, aboutListener(
		factHandshakes, "5", factRetries, "4", factNetwork, "192.0.2.0/24", factFromNetwork, "5",
	))},
	{"accept_never_read", example(KindAcceptNeverRead, Server, untouched, many(9, 3))},
	{"trickle", example(KindAcceptTrickle, Server, untouched, func(f *Finding) {
		f.Evidence.EverRead, f.Evidence.AppRead, f.Evidence.RecvQueue = true, age30, 0
		f.Evidence.DataIn, f.Evidence.ACK, f.Evidence.BytesIn = Duration(800*time.Millisecond), Duration(800*time.Millisecond), 31
	})},
	{"trickle_handshake", example(KindAcceptTrickle, Server, untouched, func(f *Finding) {
		f.Cause, f.Evidence.EverRead, f.Evidence.AppRead, f.Evidence.RecvQueue = causeHandshake, true, age30, 0
	})},
	{"peer_silent", example(KindAcceptPeerSilent, Server, aboutListener(
		factSilent, "104", factConns, "130", factOldest, "10m", factNetwork, "192.0.2.0/24", factFromNetwork, "80",
	), func(f *Finding) { f.Severity = Warning })},
	{"peer_silent_few", example(KindAcceptPeerSilent, Server, aboutListener(
		factSilent, "1", factConns, "3", factOldest, "45s",
	))},
}
