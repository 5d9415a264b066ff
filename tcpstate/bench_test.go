package tcpstate_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// How a connection comes to be tracked, or not.
var waysToTrack = []struct {
	name   string
	allocs float64 // at most, beyond plain
	track  func(tr *tcpstate.Tracker, c *net.TCPConn) net.Conn
}{
	{"plain", 0, func(_ *tcpstate.Tracker, c *net.TCPConn) net.Conn { return c }},
	{"Track", 5, func(tr *tcpstate.Tracker, c *net.TCPConn) net.Conn {
		return tr.Track(c, tcpstate.Origin{Role: tcpstate.Server, Name: "bench"})
	}},
	// Its Close is noticed when the descriptor's number comes back: by an error of
	// package net.
	{"Attach", 6, func(tr *tcpstate.Tracker, c *net.TCPConn) net.Conn {
		tr.Attach(c, tcpstate.Origin{Role: tcpstate.Server, Name: "bench"})
		return c
	}},
	{"BeginDial", 5, func(tr *tcpstate.Tracker, c *net.TCPConn) net.Conn {
		d := tr.BeginDial(context.Background(), "tcp", tcpstate.Origin{Name: "bench", Target: "127.0.0.1:1"})
		return d.Done(c, nil, true)
	}},
}

// shortLife returns a function that makes a connection, tracks it and closes
// both ends: a dialed one, or with accepted the other end.
func shortLife(t testing.TB, tr *tcpstate.Tracker, accepted bool, track func(*tcpstate.Tracker, *net.TCPConn) net.Conn) func() {
	ln := tcptest.Listen(t)
	var d net.Dialer
	d.SetMultipathTCP(false)
	return func() {
		dialed, err := d.DialContext(context.Background(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		near, far := dialed.(*net.TCPConn), peer
		if accepted {
			near, far = far, near
		}
		far.SetLinger(0) // no TIME-WAIT
		far.Close()
		if err := track(tr, near).Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// mallocs returns the mean of allocations of f, exactly, other than
// testing.AllocsPerRun. What f makes only once is not counted.
func mallocs(f func()) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f()
	const n = 500
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n
}

func TestTrackingCostsAFewAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	for _, accepted := range []bool{false, true} {
		plain := mallocs(shortLife(t, nil, accepted, waysToTrack[0].track))
		for _, w := range waysToTrack[1:] {
			t.Run(fmt.Sprintf("accepted=%v/%s", accepted, w.name), func(t *testing.T) {
				tr := leaktest.Tracker(t, leaktest.IgnoreFindings())
				live := shortLife(t, tr, accepted, w.track)
				more := mallocs(live) - plain
				// What else runs in the process only adds to it.
				for tries := 0; more >= w.allocs+0.5 && tries < 5; tries++ {
					more = min(more, mallocs(live)-plain)
				}
				t.Logf("%.2f allocations beyond the %.2f of net", more, plain)
				require.Less(t, more, w.allocs+0.5) // the loop runs, too
			})
		}
	}
}

func TestALiveConnectionCostsFewBytes(t *testing.T) {
	const conns = 2500
	ln := tcptest.Listen(t)
	var d net.Dialer
	d.SetMultipathTCP(false)
	heap := func() uint64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	// perConn returns the live heap of one connection, and what is left of all
	// after Close. Both ends are tracked.
	perConn := func(tr *tcpstate.Tracker) (live, left float64) {
		open := make([]net.Conn, 0, 2*conns)
		before := heap()
		for range conns {
			c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
			require.NoError(t, err)
			s, err := ln.AcceptTCP()
			require.NoError(t, err)
			s.SetLinger(0)
			if tr == nil {
				open = append(open, c, s)
				continue
			}
			open = append(open, tr.Track(c.(*net.TCPConn), tcpstate.Origin{}), tr.Track(s, tcpstate.Origin{}))
		}
		if tr != nil {
			tcptest.WaitUntil(t, "all connections to be watched", func() bool { return tr.Stats().Watched == 2*conns })
		}
		live = float64(int64(heap()-before)) / (2 * conns)
		for i := len(open) - 1; i >= 0; i-- {
			open[i].Close()
		}
		clear(open)
		if tr != nil {
			tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
		}
		left = float64(int64(heap() - before))
		runtime.KeepAlive(open)
		return live, left
	}
	perConn(nil) // the first time fills the pools of net
	tr := leaktest.Tracker(t, leaktest.IgnoreFindings())
	perConn(tr)
	plain, plainLeft := perConn(nil)
	tracked, trackedLeft := perConn(tr)
	t.Logf("entry %d B; live heap per connection: %.0f B plain, %.0f B more tracked; left after Close: %.0f B plain, %.0f B tracked",
		tcpstate.EntrySize, plain, tracked-plain, plainLeft, trackedLeft)
	require.LessOrEqual(t, tracked-plain, 400.0)
	require.Less(t, trackedLeft-plainLeft, 64<<10+0.0)
}

func BenchmarkShortLife(b *testing.B) {
	for _, end := range []string{"dialed", "accepted"} {
		for _, w := range waysToTrack {
			b.Run(end+"/"+w.name, func(b *testing.B) {
				tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
				f := shortLife(b, tr, end == "accepted", w.track)
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
	}
}

// BenchmarkTrack is the cost of tracking alone: the connection is tracked and
// let go of again and again.
func BenchmarkTrack(b *testing.B) {
	c, _ := tcptest.Pair(b)
	tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
	o := tcpstate.Origin{Name: "bench"}
	b.ReportAllocs()
	for b.Loop() {
		tcpstate.Forget(tr.Track(c, o))
	}
}
