package tcpstate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	sec = int64(time.Second)
	ms  = time.Millisecond
)

// quietLeg is a connection on which something was asked and answered.
func quietLeg() leg {
	return leg{sample: sample{
		ok: true, state: Established, bytesSent: 100, bytesAcked: 101, bytesReceived: 100,
		dataSent: 20 * ms, dataRecv: 10 * ms, ackRecv: 10 * ms,
	}}
}

// askedLeg is one on which nothing was answered.
func askedLeg() leg {
	l := quietLeg()
	l.sample.dataSent, l.sample.dataRecv = 10*ms, 20*ms
	return l
}

func (l leg) ended(at int64) leg {
	l.fin, l.finAt, l.sample.state = true, at, CloseWait
	return l
}

func (l leg) with(change func(*leg)) leg {
	change(&l)
	return l
}

func TestVerdictsOnTunnels(t *testing.T) {
	limits := DefaultThresholds()
	nothing := func(Kind) bool { return false }
	told := func(l *leg) { l.told, l.sample.state = true, FinWait2 }
	dead := func(l *leg) { l.dead, l.deadAt, l.sample.state = true, 100*sec, Closed }
	closed := func(l *leg) { l.endedAt = 100 * sec }
	waits := func(l *leg) { l.sample.recvQueue = 1 }
	unsent := func(l *leg) { l.sample.sendQueue = 1 }
	unacked := func(l *leg) { l.sample.unacked = 1 }
	blind := func(l *leg) { l.sample.ok = false }
	const half, orphan, none = KindTunnelHalfClosedIdle, KindTunnelUpstreamOrphan, Kind("")
	for _, tt := range []struct {
		name     string
		down, up leg
		change   func(*tunnelFacts)
		want     Kind
		cause    string
		after    int64 // since second 100
	}{
		{"nothing ended", quietLeg(), askedLeg(), nil, none, "", 0},
		{"client done", quietLeg().ended(100 * sec), quietLeg(), nil, half, causeClientDoneUntold, 60},
		{"client done, told", quietLeg().ended(100 * sec), quietLeg().with(told), nil, half, causeClientDone, 60},
		{"client done, told and asked", quietLeg().ended(100 * sec), askedLeg().with(told), nil, half, causeClientDone, 60},
		{"server done", quietLeg(), quietLeg().ended(100 * sec), nil, half, causeServerDoneUntold, 60},
		{"server done, told", quietLeg().with(told), quietLeg().ended(100 * sec), nil, half, causeServerDone, 60},
		{"bytes moved", quietLeg().ended(100 * sec), quietLeg(), func(f *tunnelFacts) { f.upMoved = 110 * sec }, half, causeClientDoneUntold, 70},
		{"bytes moved at the other end", quietLeg().ended(100 * sec), quietLeg(), func(f *tunnelFacts) { f.downMoved = 120 * sec }, half, causeClientDoneUntold, 80},
		{"both done", quietLeg().ended(100 * sec), quietLeg().ended(100 * sec), nil, none, "", 0},
		{"bytes wait downstream", quietLeg().ended(100 * sec).with(waits), quietLeg(), nil, none, "", 0},
		{"bytes wait upstream", quietLeg().ended(100 * sec), quietLeg().with(unsent), nil, none, "", 0},
		{"the server does not answer at all", quietLeg().ended(100 * sec), askedLeg().with(unacked), nil, none, "", 0},
		{"declared", quietLeg().ended(100 * sec), quietLeg(), func(f *tunnelFacts) { f.halfClose = true }, none, "", 0},
		{"not known upstream", quietLeg().ended(100 * sec), quietLeg().with(blind), nil, none, "", 0},
		{"not known downstream", quietLeg().ended(100 * sec).with(blind), quietLeg(), nil, none, "", 0},
		{"HTTP", quietLeg().ended(100 * sec), quietLeg(), func(f *tunnelFacts) { f.raw = false }, none, "", 0},
		{"off", quietLeg().ended(100 * sec), quietLeg(), func(f *tunnelFacts) { l := *f.limits; l.HalfOpen = off; f.limits = &l }, none, "", 0},
		{"ignored", quietLeg().ended(100 * sec), quietLeg(), func(f *tunnelFacts) { f.ignores = half.covers }, none, "", 0},
		{"upstream dead", quietLeg().ended(100 * sec), quietLeg().with(dead), nil, none, "", 0},

		{"client left", quietLeg().ended(100 * sec), askedLeg(), nil, orphan, causeClientFIN, 30},
		{"client left, HTTP", quietLeg().ended(100 * sec), askedLeg(), func(f *tunnelFacts) { f.raw = false }, orphan, causeClientFIN, 30},
		{"client left, HTTP, request body sent", quietLeg().ended(100 * sec), askedLeg().with(told), func(f *tunnelFacts) { f.raw = false }, orphan, causeClientFIN, 30},
		{"client reset", quietLeg().with(dead), askedLeg(), nil, orphan, causeClientDied, 30},
		{"client left, then reset", quietLeg().ended(100 * sec).with(dead), askedLeg(), nil, orphan, causeClientFIN, 30},
		{"closed here", quietLeg().with(closed), askedLeg(), nil, orphan, causeClientClosed, 30},
		{"closed here, told", quietLeg().with(closed), askedLeg().with(told), nil, none, "", 0},
		{"answered", quietLeg().with(closed), quietLeg(), nil, none, "", 0},
		{"answered in the same moment", quietLeg().with(closed), askedLeg().with(func(l *leg) { l.sample.dataRecv = l.sample.dataSent }), nil, none, "", 0},
		{"never asked", quietLeg().with(closed), askedLeg().with(func(l *leg) { l.sample.bytesSent = 0 }), nil, none, "", 0},
		{"never answered", quietLeg().with(closed), askedLeg().with(func(l *leg) { l.sample.bytesReceived, l.sample.dataRecv = 0, 0 }), nil, orphan, causeClientClosed, 30},
		{"answer unread", quietLeg().with(closed), askedLeg().with(waits), nil, none, "", 0},
		{"question not taken", quietLeg().with(closed), askedLeg().with(unacked), nil, none, "", 0},
		{"upstream ended", quietLeg().with(closed), askedLeg().ended(100 * sec), nil, none, "", 0},
		{"upstream closed", quietLeg().ended(100 * sec), askedLeg().with(closed), nil, none, "", 0},
		{"upstream moved", quietLeg().with(closed), askedLeg(), func(f *tunnelFacts) { f.upMoved = 125 * sec }, orphan, causeClientClosed, 55},
		{"half close declared", quietLeg().ended(100 * sec), askedLeg(), func(f *tunnelFacts) { f.halfClose = true }, none, "", 0},
		{"orphans off", quietLeg().ended(100 * sec), askedLeg(), func(f *tunnelFacts) { l := *f.limits; l.Orphan = off; f.limits = &l }, half, causeClientDoneUntold, 60},
		{"orphans ignored", quietLeg().with(closed), askedLeg(), func(f *tunnelFacts) { f.ignores = orphan.covers }, none, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tunnelFacts{down: tt.down, up: tt.up, raw: true, ignores: nothing, limits: &limits}
			if tt.change != nil {
				tt.change(&f)
			}
			due := (100 + tt.after) * sec
			if tt.want != none {
				f.now = due - 1
				require.Equal(t, verdict{due: due}, f.verdict())
			}
			f.now = due + 1000*sec
			if tt.want != none {
				f.now = due
			}
			v := f.verdict()
			require.Equal(t, tt.want, v.kind)
			require.Equal(t, tt.cause, v.cause)
			require.Zero(t, v.due)
			if tt.want != none {
				require.Equal(t, 100*sec, v.since)
			}
		})
	}
}

func TestVerdictsOnTheEndOfTunnels(t *testing.T) {
	unread := func(n int32) func(*leg) {
		return func(l *leg) { l.sample.recvQueue, l.sample.bytesReceived = n, l.sample.bytesReceived+uint64(n) }
	}
	whole := func(n int32) func(*leg) {
		return func(l *leg) { l.sample.recvQueue, l.sample.bytesReceived = n, uint64(n) }
	}
	dead := func(l *leg) { l.dead = true }
	fin := quietLeg().ended(1)
	old := func(l *leg) { l.sample.dataRecv = time.Second }
	for _, tt := range []struct {
		name          string
		closed, other leg
		up            bool
		change        func(*tunnelEnd)
		want          string
	}{
		{"client done", quietLeg().with(unread(5000)), fin, true, nil, causeUnread},
		{"nobody done", quietLeg().with(unread(5000)), quietLeg(), true, nil, causeUnread},
		{"a tail", quietLeg().with(unread(tail)), fin, true, nil, ""},
		{"a whole small answer", quietLeg().with(whole(6)), fin, true, nil, causeUnread},
		{"a greeting", quietLeg().with(whole(80)), fin.with(func(l *leg) { l.sample.bytesReceived = 1 }), true, nil, ""},
		{"nothing", quietLeg(), fin, true, nil, ""},
		{"both done", fin.with(unread(5000)), fin, true, nil, ""},
		{"server done", fin.with(unread(5000)), quietLeg(), true, nil, causeUnread},
		{"client gone", quietLeg().with(unread(5000)), fin.with(dead), true, nil, ""},
		{"server gone", quietLeg().with(unread(5000)).with(dead), fin, true, nil, ""},
		{"not wanted", quietLeg().with(unread(5000)), fin, true, func(e *tunnelEnd) { e.unwanted = true }, ""},
		{"not known", quietLeg().with(func(l *leg) { l.sample.ok = false }), fin, true, nil, ""},
		{"upload", quietLeg().with(unread(5000)), quietLeg(), false, nil, causeUnread},
		{"upload, server done", quietLeg().with(unread(5000)), fin, false, nil, ""},
		{"client reads on", quietLeg(), fin, true, func(e *tunnelEnd) { e.listens = true }, causeArriving},
		{"client reads on, long ago", quietLeg().with(old), fin, true, func(e *tunnelEnd) { e.listens = true }, ""},
		{"client reads on, server done", fin, fin, true, func(e *tunnelEnd) { e.listens = true }, ""},
		{"client open", quietLeg(), quietLeg(), true, func(e *tunnelEnd) { e.listens = true }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := tunnelEnd{closed: tt.closed, other: tt.other, closedIsUp: tt.up}
			if tt.change != nil {
				tt.change(&e)
			}
			cause, cut := e.truncated()
			require.Equal(t, tt.want, cause)
			require.Equal(t, tt.want != "", cut)
		})
	}
}
