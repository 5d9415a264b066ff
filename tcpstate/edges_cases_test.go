package tcpstate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// sample and event are looks at a wrapped connection that epoll watches.
func sampleLook(s State) look { return look{state: s, watched: true} }

func eventLook(s State, bits string) look {
	l := sampleLook(s)
	for _, b := range bits {
		switch b {
		case 'r':
			l.rdhup = true
		case 'h':
			l.hup = true
		case 'e':
			l.err = true
		}
	}
	return l
}

func with(l look, f func(*look)) look {
	f(&l)
	return l
}

func TestHistory(t *testing.T) {
	settled := func(l *look) { l.settled = true }
	ours := func(l *look) { l.closeWrite = true }
	told := func(r readResult) func(*look) { return func(l *look) { l.read = r } }
	both := func(fs ...func(*look)) func(*look) {
		return func(l *look) {
			for _, f := range fs {
				f(l)
			}
		}
	}
	for _, tt := range []struct {
		name  string
		looks []look
		want  history
	}{
		{"an open connection has no history", []look{sampleLook(Established)}, history{}},
		{"the peer closes", []look{eventLook(CloseWait, "r")}, history{fin: true, finFirst: true}},
		{"our CloseRead looks like a close of the peer and is none",
			[]look{with(eventLook(Established, "r"), func(l *look) { l.closeRead = true })}, history{}},
		{"even if nobody sees that it was ours",
			[]look{with(eventLook(Established, "r"), func(l *look) { l.blind = true })}, history{}},
		{"we close first", []look{sampleLook(FinWait2)}, history{closeWrite: true}},
		{"then the peer does", []look{
			with(sampleLook(FinWait2), ours),
			with(eventLook(Closed, "rh"), ours),
			with(sampleLook(Closed), both(ours, settled)),
		}, history{closeWrite: true, fin: true, dead: true, end: endClean}},
		{"how it ended shows only later", []look{with(eventLook(Closed, "rh"), ours)}, history{dead: true, pending: true}},
		{"the peer closes first, then we do", []look{
			eventLook(CloseWait, "r"),
			with(sampleLook(LastAck), ours),
			with(eventLook(Closed, "rh"), ours),
			with(sampleLook(Closed), both(ours, settled)),
		}, history{closeWrite: true, fin: true, finFirst: true, dead: true, end: endClean}},
		{"both close at once", []look{with(sampleLook(Closing), ours)}, history{closeWrite: true, fin: true}},
		{"a reset with nobody in Read", []look{eventLook(Closed, "rhe")}, history{dead: true, end: endReset}},
		{"a reset that a parked reader took shows no error", []look{eventLook(Closed, "rh")}, history{dead: true, end: endReset}},
		{"nor does it after our own FIN, until the reader tells", []look{
			with(sampleLook(FinWait2), ours),
			with(eventLook(Closed, "rh"), ours),
			with(sampleLook(Closed), both(ours, settled, told(readReset))),
		}, history{closeWrite: true, dead: true, end: endReset}},
		{"a reader that tells late is believed", []look{
			with(sampleLook(Closed), ours),
			with(sampleLook(Closed), both(ours, settled)),
			with(sampleLook(Closed), both(ours, settled, told(readTimedOut))),
		}, history{fin: true, dead: true, end: endTimeout}},
		{"an error that io.Copy may have taken", []look{
			with(eventLook(Closed, "rh"), ours),
			with(sampleLook(Closed), both(ours, settled, func(l *look) { l.copied = true })),
		}, history{dead: true, end: endUnknown}},
		{"an end that no event would have told of", []look{
			with(sampleLook(Closed), both(ours, func(l *look) { l.watched = false })),
			with(sampleLook(Closed), both(ours, settled, func(l *look) { l.watched = false })),
		}, history{dead: true, end: endUnknown}},
		{"a CloseWrite that comes too late for the kernel", []look{
			with(eventLook(Closed, "rh"), ours),      // a moment before it fails
			with(sampleLook(Closed), func(*look) {}), // the flag is taken back
		}, history{dead: true, end: endReset}},
		{"the event of LAST-ACK does not excuse the reset that follows", []look{
			eventLook(CloseWait, "r"),
			with(eventLook(Closed, "rh"), ours), // bits of LAST-ACK
			with(eventLook(Closed, "rhe"), both(ours, settled)),
		}, history{fin: true, finFirst: true, dead: true, end: endReset}},
		{"a timeout that was told", []look{with(sampleLook(Closed), told(readTimedOut))}, history{dead: true, end: endTimeout}},
		{"a timeout that shows by retransmissions", []look{
			with(eventLook(Closed, "rhe"), func(l *look) { l.retransmits = 8 }),
		}, history{dead: true, end: endTimeout}},
		{"or by keepalive probes", []look{
			with(eventLook(Closed, "rhe"), func(l *look) { l.probes = 9 }),
		}, history{dead: true, end: endTimeout}},
		{"one probe is what draws a reset from a peer that has forgotten", []look{
			eventLook(CloseWait, "r"),
			with(eventLook(Closed, "rhe"), func(l *look) { l.probes = 1; l.read = readEOF }),
		}, history{fin: true, finFirst: true, dead: true, end: endReset}},
		{"a reset is not forgotten for the EOF that follows it", []look{
			with(eventLook(Closed, "rhe"), told(readReset)),
			with(sampleLook(Closed), both(settled, told(readReset))),
		}, history{dead: true, end: endReset}},
		{"without the wrapper an end without error cannot be told", []look{
			with(eventLook(Closed, "rh"), func(l *look) { l.blind = true }),
		}, history{dead: true, end: endUnknown}},
		{"an error shows there, too", []look{
			with(eventLook(Closed, "rhe"), func(l *look) { l.blind = true }),
		}, history{dead: true, end: endReset}},
		{"MPTCP: the state does not show the FIN, the event does", []look{
			with(eventLook(Established, "r"), func(l *look) { l.mptcp = true }),
		}, history{fin: true, finFirst: true}},
		{"MPTCP: our CloseRead is no FIN", []look{
			with(eventLook(Established, "r"), func(l *look) { l.mptcp, l.closeRead = true, true }),
		}, history{}},
		{"MPTCP: an error is no FIN", []look{
			with(eventLook(Established, "rhe"), func(l *look) { l.mptcp = true }),
		}, history{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h history
			for _, l := range tt.looks {
				h = h.observe(l)
			}
			require.Equal(t, tt.want, h)
		})
	}
}

func TestReadResultsAreOrderedByGravity(t *testing.T) {
	order := []readResult{readNothing, readDeadline, readCopy, readEOF, readOther, readReset, readTimedOut}
	require.IsIncreasing(t, order)
	for _, r := range order {
		require.Equal(t, r >= readOther, r.fatal(), r)
	}
}

func TestCloseReasons(t *testing.T) {
	for _, tt := range []struct {
		want   CloseReason
		leaked bool
		h      history
	}{
		{CloseLocal, false, history{}},
		{CloseLocal, false, history{closeWrite: true}},
		{CloseLocal, false, history{closeWrite: true, fin: true, dead: true, end: endClean}},
		{CloseLocal, false, history{closeWrite: true, dead: true, end: endUnknown}},
		{ClosePeerFIN, false, history{fin: true, finFirst: true}},
		{ClosePeerFIN, false, history{fin: true, finFirst: true, closeWrite: true, dead: true, end: endClean}},
		{ClosePeerFIN, false, history{fin: true, finFirst: true, dead: true, end: endUnknown}},
		{CloseReset, false, history{dead: true, end: endReset}},
		{CloseReset, false, history{fin: true, finFirst: true, dead: true, end: endReset}},
		{CloseReset, false, history{dead: true, end: endUnknown}},
		{CloseTimeout, false, history{dead: true, end: endTimeout}},
		{CloseCollected, true, history{fin: true, dead: true, end: endReset}},
	} {
		require.Equal(t, tt.want, closeReason(tt.leaked, tt.h), "%+v", tt.h)
	}
}
