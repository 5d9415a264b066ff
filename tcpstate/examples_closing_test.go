package tcpstate

import (
	"time"
)

var closingExamples = []exampleRow{
	{"peer_open", example(KindClosingPeerOpen, Client, halfClosedFor(75*time.Second))},
	{"peer_open_answer_pending", example(KindClosingPeerOpen, Client, halfClosedFor(75*time.Second), func(f *Finding) {
		f.Cause, f.Severity, f.Evidence.DataIn, f.Evidence.BytesIn = "answer_pending", Inventory, unknownAge, 0
	})},
	{"fin_unacked", example(KindClosingFINUnacked, Client, closedFor(FinWait1, 12*time.Second, 1, 5))},
	{"fin_unacked_with_data", example(KindClosingFINUnacked, Client, closedFor(FinWait1, 12*time.Second, 1433, 5), many(8, 2))},
	{"fin_unacked_last_ack", example(KindClosingFINUnacked, Server, closedFor(LastAck, 12*time.Second, 1, 6))},
	{"data_undelivered", example(KindClosingDataUndelivered, Server, undelivered(0))},
	{"data_undelivered_no_answer", example(KindClosingDataUndelivered, Server, undelivered(4))},
	{"keeps_half_open", example(KindPeerKeepsHalfOpen, Client, func(f *Finding) {
		f.State = FinWait2
		f.Subject = Subject{Type: SubjectTarget, Name: "payments", Target: "payments.internal:443"}
		f.Evidence = unknownEvidence()
		f.Evidence.note("half-closed after 15s", "14 of 16 looked up")
	})},
}

func halfClosedFor(d time.Duration) func(*Finding) {
	return func(f *Finding) {
		f.State, f.Since = FinWait2, noon.Add(-d)
		f.Evidence.PeerFIN, f.Evidence.DataIn, f.Evidence.DataOut = unknownAge, Duration(d+2*time.Second), Duration(d+time.Second)
		f.Evidence.ACK = Duration(d)
	}
}

func closedFor(state State, d time.Duration, queue, retries int) func(*Finding) {
	return func(f *Finding) {
		f.State, f.Since = state, noon.Add(-d)
		ev := &f.Evidence
		ev.PeerFIN, ev.DataIn, ev.DataOut, ev.ACK = unknownAge, Duration(d+2*time.Second), Duration(d+time.Second), Duration(d+time.Second)
		if state == LastAck {
			ev.PeerFIN = Duration(d + 100*time.Millisecond)
		}
		ev.SendQueue, ev.Timeouts = queue, uint8(retries)
		ev.note("closed", age(d)+" ago")
		ev.note("timer", "retransmission")
	}
}

func undelivered(unanswered int) func(*Finding) {
	return func(f *Finding) {
		f.State, f.Since = FinWait1, noon.Add(-35*time.Second)
		ev := &f.Evidence
		ev.PeerFIN, ev.DataIn, ev.ACK = unknownAge, Duration(40*time.Second), Duration(800*time.Millisecond)
		ev.SendQueue, ev.Probes = 159281, uint8(unanswered)
		ev.note("closed", "35s ago")
		ev.note("timer", "window probe")
		send := Frame{Function: "github.com/acme/shop/export.(*Writer).Flush", File: "export/writer.go", Line: 61, short: "shop/export.(*Writer).Flush"}
		f.Sites = append([]Site{{Role: "close", Frames: []Frame{send}}}, f.Sites...)
	}
}
