package tcpstate

import (
	"net"
	"net/netip"
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
	{"reset_by_us_unread", example(KindResetByUsUnread, Server, resets(KindResetByUsUnread, reset{cause: "abort", before: Established, in: 300, unread: 70000}), many(12, 0))},
	{"reset_by_us_unread_small", example(KindResetByUsUnread, Client, resets(KindResetByUsUnread, reset{cause: "small", before: CloseWait, in: 4900, out: 700, unread: 24}))},
	{"reset_by_us_unread_warning", example(KindResetByUsUnread, Server, resets(KindResetByUsUnread, reset{cause: "peer_sending", before: Established, in: 262144, out: 180, unread: 131072}), warns)},
	{"reset_by_us_linger", example(KindResetByUsLinger, Client, resets(KindResetByUsLinger, reset{before: Established, in: 900, out: 8000, unsent: 6000}))},
	{"reset_reuse_after_fin", example(KindResetReuseAfterFIN, Client, resets(KindResetReuseAfterFIN, reset{before: CloseWait, in: 9000, out: 4100, idle: -1, finAge: -1}))},
	{"reset_reuse_after_fin_warning", example(KindResetReuseAfterFIN, Client, resets(KindResetReuseAfterFIN, reset{before: CloseWait, in: 9000, out: 4100, idle: 75 * time.Second, finAge: 15 * time.Second}), warns)},
	{"reset_unexplained", example(KindResetUnexplained, Client, resets(KindResetUnexplained, reset{cause: "before_handshake", before: Established, out: 517, idle: -1}))},
	{"reset_unexplained_idle", example(KindResetUnexplained, Client, resets(KindResetUnexplained, reset{cause: "after_idle", before: Established, in: 900, out: 517, idle: 6 * time.Minute}))},
	{"reset_unexplained_warning", example(KindResetUnexplained, Client, resets(KindResetUnexplained, reset{cause: "partial_data", before: Established, in: 3 << 20, out: 517}), warns)},
	{"reset_unexplained_crash", example(KindResetUnexplained, Client, resets(KindResetUnexplained, reset{cause: "peer_crashed", before: Established, in: 900, out: 517}), many(16, 0))},
	{"reset_before_accept", example(KindResetBeforeAccept, Server, resets(KindResetBeforeAccept, reset{before: Established, idle: -1}), many(40, 6))},
}

func warns(f *Finding) { f.Severity = Warning }

// resets makes the finding one about resets, of which l is the latest.
func resets(k Kind, l reset) func(*Finding) {
	return func(f *Finding) {
		l.at, l.e = int64(30*time.Second), &entry{id: f.Subject.ID, local: tcpAddrOf(f.Subject.Local), remote: tcpAddrOf(f.Subject.Remote)}
		r := resetRecord{key: resetKey{kind: k, role: f.Subject.Role}, total: 41, latest: l}
		r.limit = time.Minute
		switch k {
		case KindResetByUsUnread, KindResetByUsLinger:
			r.thing.kind = SubjectSite
		case KindResetBeforeAccept:
			r.thing.kind = SubjectListener
		default:
			r.thing.kind = SubjectTarget
		}
		f.Subject = Subject{Type: r.thing.kind, Role: f.Subject.Role, Name: f.Subject.Name, Target: f.Subject.Target}
		f.Cause, f.Evidence = l.cause, unknownEvidence()
		r.evidence(f, int64(time.Minute))
	}
}

func tcpAddrOf(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

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
