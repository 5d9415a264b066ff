package tcpstate

import "time"

var transferExamples = []exampleRow{
	{"unresponsive", example(KindPeerUnresponsive, Client, stuckFor(12*time.Second), use("SELECT orders", false), func(f *Finding) {
		f.Evidence.Timeouts, f.Evidence.Unacked, f.Evidence.SendQueue = 5, 1, 1432
		f.Evidence.GivesUpAt = noon.Add(15 * time.Minute)
		f.Evidence.note("siblings", "7 of 8 other connections to the same target are fine")
		f.Evidence.note("kernel gives up", "in about 15m")
	})},
	{"unresponsive_after_idle", example(KindPeerUnresponsive, Client, stuckFor(12*time.Second), func(f *Finding) {
		f.Cause, f.Evidence.Timeouts, f.Evidence.Unacked, f.Evidence.SendQueue = "after_idle", 5, 1, 1432
		f.Evidence.ACK, f.Evidence.DataIn = Duration(16*time.Minute), Duration(16*time.Minute)
	})},
	{"unresponsive_large_segments", example(KindPeerUnresponsive, Server, stuckFor(12*time.Second), func(f *Finding) {
		f.Cause, f.Evidence.Timeouts, f.Evidence.Unacked, f.Evidence.SendQueue = "large_segments", 5, 3, 4212
	})},
	{"unresponsive_one_way", example(KindPeerUnresponsive, Server, stuckFor(12*time.Second), func(f *Finding) {
		f.Cause, f.Evidence.Timeouts, f.Evidence.Unacked, f.Evidence.SendQueue = "one_way", 3, 1, 100
	})},
	{"unresponsive_window_closed", example(KindPeerUnresponsive, Client, stuckFor(20*time.Second), func(f *Finding) {
		f.Cause, f.Evidence.Probes, f.Evidence.NotSent, f.Evidence.SendQueue = "window_closed", 4, 569216, 569216
	})},
	{"dead_probes", example(KindPeerDeadProbes, Client, stuckFor(50*time.Second), func(f *Finding) {
		f.Evidence.Probes = 3
		f.Evidence.note("siblings", "2 of 2 other connections to the same target are stuck, too")
	})},
	{"peer_not_reading", example(KindPeerNotReading, Client, stuckFor(30*time.Second), func(f *Finding) {
		f.Evidence.SendQueue, f.Evidence.NotSent, f.Evidence.NoWindow, f.Evidence.ACK = 3200000, 3200000, true, Duration(2*time.Second)
	})},
	{"no_response_headers", example(KindPeerNoResponse, Client, stuckFor(24*time.Second), use("GET payments.internal:443", true), func(f *Finding) {
		f.Cause = "headers"
	})},
	{"no_response_body", example(KindPeerNoResponse, Client, stuckFor(24*time.Second), use("GET payments.internal:443", true), func(f *Finding) {
		f.Cause = "body"
	})},
	{"heartbeat_missing", example(KindPeerSilent, Client, stuckFor(90*time.Second), func(f *Finding) { f.Evidence.DataOut = Duration(2 * time.Second) })},
	{"heartbeat_missing_unacked", example(KindPeerSilent, Client, stuckFor(90*time.Second), func(f *Finding) { f.Evidence.Unacked = 2 })},
	{"heartbeat_missing_window", example(KindPeerSilent, Client, stuckFor(90*time.Second), func(f *Finding) { f.Evidence.NoWindow, f.Evidence.NotSent = true, 100 })},
	{"local_not_reading", example(KindLocalNotReading, Client, stuckFor(30*time.Second), use("SUBSCRIBE invoices", false), unreadBytes(87040))},
	{"local_not_reading_mutual", example(KindLocalNotReading, Server, stuckFor(30*time.Second), unreadBytes(87040), func(f *Finding) {
		f.Evidence.NoWindow, f.Evidence.NotSent, f.Evidence.ReadsSeen = true, 4096, false
	})},
	{"keepalive_off", audit(KindKeepaliveOff, "keepalive", "off", "idle dead peer noticed", "never")},
	{"keepalive_slow", audit(KindKeepaliveSlow, "keepalive", "after 10m, then 9 times every 1m15s", "idle dead peer noticed", "after 21m15s")},
	{"keepalive_user_timeout", audit(KindKeepaliveUserTimeout, "keepalive", "after 15s, then 9 times every 15s", "user timeout", "20s", "idle dead peer noticed", "after 30s")},
	{"keepalive_contradictory", audit(KindKeepaliveContradictory, "keepalive", "after 1m, then 9 times every 15s", "user timeout", "5s", "idle dead peer noticed", "after 1m15s")},
	{"idle_unverifiable", example(KindIdleUnverifiable, Client, stuckFor(25*time.Minute))},
}

// stuckFor makes a finding one of an open connection on which nothing has moved
// for d.
func stuckFor(d time.Duration) func(*Finding) {
	return func(f *Finding) {
		f.State, f.Since = Established, noon.Add(-d)
		f.Evidence.PeerFIN = unknownAge
		f.Evidence.AppRead, f.Evidence.DataIn, f.Evidence.ACK = Duration(d+time.Second), Duration(d+2*time.Second), Duration(d)
	}
}

// audit makes up a finding about settings.
func audit(k Kind, notes ...string) Finding {
	return example(k, Client, func(f *Finding) {
		f.Subject = Subject{Type: SubjectSite, Name: "payments", Target: "payments.internal:443"}
		f.Evidence = unknownEvidence()
		for i := 0; i < len(notes); i += 2 {
			f.Evidence.note(notes[i], notes[i+1])
		}
	})
}
