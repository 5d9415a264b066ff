package tcpstate_test

import (
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func stops(t *testing.T, tr *tcpstate.Tracker) {
	t.Helper()
	tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
}

func TestTheLoopRunsWhileAListenerIsOpen(t *testing.T) {
	for name, end := range map[string]func(net.Listener, *tcpstate.Listening){
		"removed": func(ln net.Listener, l *tcpstate.Listening) { l.Remove(0); ln.Close() },
		"Accept says that it is closed": func(ln net.Listener, l *tcpstate.Listening) {
			ln.Close()
			l.Accepting()
			_, err := ln.Accept()
			l.Accepted(nil, err, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTracker(t)
			ln := tcptest.Listen(t)
			l := tr.AddListener(ln, tcpstate.Origin{})
			require.True(t, tcpstate.Running(tr))
			end(ln, l)
			stops(t, tr)
			require.Empty(t, slices.Collect(tr.Listeners()))
		})
	}
	t.Run("collected", func(t *testing.T) {
		tr := newTracker(t)
		func() {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			tr.AddListener(ln, tcpstate.Origin{})
		}()
		tcptest.WaitUntil(t, "the garbage collector", func() bool { runtime.GC(); return !tcpstate.Running(tr) })
	})
	t.Run("off", func(t *testing.T) {
		tr := newTracker(t)
		off := func(off bool) {
			require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.Off = off }))
		}
		off(true)
		ln := tcptest.Listen(t)
		l := tr.AddListener(ln, tcpstate.Origin{})
		require.False(t, tcpstate.Running(tr))
		off(false)
		require.True(t, tcpstate.Running(tr))
		off(true)
		stops(t, tr)
		l.Remove(0)
		off(false)
		require.False(t, tcpstate.Running(tr))
	})
	t.Run("the tracker is closed", func(t *testing.T) {
		tr := newTracker(t)
		l := tr.AddListener(tcptest.Listen(t), tcpstate.Origin{})
		require.NoError(t, tr.Close())
		require.False(t, tcpstate.Running(tr))
		l.Remove(0)
		require.False(t, tcpstate.Running(tr))
	})
}

// waitCount counts how often the loop waits for events.
type waitCount struct {
	tcpstate.Poller
	n *atomic.Int64
}

func (w waitCount) Wait(d time.Duration, evs []epoll.Event) ([]epoll.Event, error) {
	w.n.Add(1)
	return w.Poller.Wait(d, evs)
}

func TestAListenerAloneWakesTheLoopOncePerSweep(t *testing.T) {
	tr := newTracker(t)
	const interval = 100 * time.Millisecond
	require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.SweepInterval = interval }))
	var n atomic.Int64
	tcpstate.SetSeam(tr, tcpstate.Seam{NewPoller: func() (tcpstate.Poller, error) {
		p, err := tcpstate.NewPoller()
		return waitCount{p, &n}, err
	}})
	l := tr.AddListener(tcptest.Listen(t), tcpstate.Origin{})
	start, sweeps := time.Now(), tr.Stats().Sweeps
	tcptest.WaitUntil(t, "some sweeps", func() bool { return tr.Stats().Sweeps >= sweeps+5 })
	woken, took := n.Load(), time.Since(start)
	l.Remove(0)
	// The sweep itself is never earlier than nine tenths of its interval.
	require.LessOrEqual(t, woken, int64(took/(interval*9/10))+3)
}

func TestAcceptCostsNoAllocation(t *testing.T) {
	tr := newTracker(t)
	l := tr.AddListener(tcptest.Listen(t), tcpstate.Origin{})
	defer l.Remove(0)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		l.Accepting()
		l.Accepted(nil, nil, true)
	}))
}

func BenchmarkAcceptMarks(b *testing.B) {
	tr := newTracker(b)
	l := tr.AddListener(tcptest.Listen(b), tcpstate.Origin{})
	defer l.Remove(0)
	b.ReportAllocs()
	for b.Loop() {
		l.Accepting()
		l.Accepted(nil, nil, true)
	}
}
