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
	{"peer_silent", example(KindPeerSilent, Client, stuckFor(90*time.Second), func(f *Finding) { f.Evidence.DataOut = Duration(2 * time.Second) })},
	{"peer_silent_unacked", example(KindPeerSilent, Client, stuckFor(90*time.Second), func(f *Finding) { f.Evidence.Unacked = 2 })},
	{"peer_silent_window", example(KindPeerSilent, Client, stuckFor(90*time.Second), func(f *Finding) { f.Evidence.NoWindow, f.Evidence.NotSent = true, 100 })},
	{"local_not_reading", example(KindLocalNotReading, Client, stuckFor(30*time.Second), use("SUBSCRIBE invoices", false), unreadBytes(87040))},
	{"local_not_reading_mutual", example(KindLocalNotReading, Server, stuckFor(30*time.Second), unreadBytes(87040), func(f *Finding) {
		f.Evidence.NoWindow, f.Evidence.NotSent, f.Evidence.ReadsSeen = true, 4096, false
	})},
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
