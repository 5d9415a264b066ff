package tcpotel_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// resets has n connections reset by their server.
func (r *rig) resets(ln *net.TCPListener, n int) {
	r.Helper()
	for range n {
		c := tcptest.Connect(r, ln)
		s, err := ln.AcceptTCP()
		require.NoError(r, err)
		conn := r.tracker.Track(c, tcpstate.Origin{Name: "db", Target: "db:5432"})
		tcptest.Reset(r, s)
		tcptest.WaitState(r, conn, tcptest.Closed)
		require.NoError(r, conn.Close())
	}
	r.clock.Advance(4 * time.Second)
}

func TestSingleResetsAreCountedAndNothingElse(t *testing.T) {
	const reset = "function=resets kind=reset.unexplained name=db severity=count"
	r := newRig(t).start()
	ln := tcptest.Listen(t)
	r.resets(ln, 1)
	require.Len(t, r.tracker.Counted(), 1)
	for range 2 {
		require.Equal(t, map[string]float64{reset: 1}, r.points("tcpstate.finding.opened"), "counted once")
	}
	r.resets(ln, 1)
	r.clock.Advance(time.Minute)
	require.Equal(t, map[string]float64{reset: 2}, r.points("tcpstate.finding.opened"))

	// The group ends and another one begins, which starts at 1.
	r.clock.Advance(11 * time.Minute)
	require.Empty(t, r.tracker.Counted())
	require.Equal(t, map[string]float64{reset: 2}, r.points("tcpstate.finding.opened"))
	r.resets(ln, 1)
	require.Equal(t, map[string]float64{reset: 3}, r.points("tcpstate.finding.opened"))

	require.Empty(t, r.points("tcpstate.finding.count"), "nothing is wrong")
	r.clock.Advance(11 * time.Minute)
	r.finish()
	require.Equal(t, map[string]float64{reset: 3}, r.points("tcpstate.finding.opened"))
	require.Empty(t, r.points("tcpstate.finding.cleared"))
	require.Empty(t, r.spans.GetSpans())
	require.Empty(t, r.logs.all())
}

func TestResetsAreCountedFromStartToStop(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	r.resets(ln, 2)
	r.start()
	r.resets(ln, 1)
	r.finish()
	require.Equal(t, map[string]float64{"function=resets kind=reset.unexplained name=db severity=count": 1}, r.points("tcpstate.finding.opened"))
}
