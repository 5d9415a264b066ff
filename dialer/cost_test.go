package dialer_test

import (
	"context"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// shortLives are ways to dial to and close a connection at once.
func shortLives(tr *tcpstate.Tracker) []struct {
	name   string
	allocs float64 // at most, beyond the first
	dial   dialer.DialFunc
} {
	nd := new(net.Dialer)
	nd.SetMultipathTCP(false)
	return []struct {
		name   string
		allocs float64
		dial   dialer.DialFunc
	}{
		{"net", 0, new(net.Dialer).DialContext},
		{"zero", 10, (&dialer.Dialer{Tracker: tr}).DialContext},
		{"NetDialer", 11, (&dialer.Dialer{Tracker: tr, NetDialer: nd}).DialContext},
	}
}

func shortLife(t testing.TB, ln *net.TCPListener, dial dialer.DialFunc) func() {
	addr := ln.Addr().String()
	return func() {
		c, err := dial(context.Background(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		peer.SetLinger(0) // no TIME-WAIT
		peer.Close()
		c.Close()
	}
}

func TestADialCostsAFewAllocations(t *testing.T) {
	tr := leaktest.Tracker(t, leaktest.IgnoreFindings())
	ln := tcptest.Listen(t)
	mallocs := func(f func()) float64 {
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
	var plain float64
	for i, w := range shortLives(tr) {
		n := mallocs(shortLife(t, ln, w.dial))
		if i == 0 {
			plain = n
		}
		t.Logf("%s: %.2f allocations beyond the %.2f of net", w.name, n-plain, plain)
		if !raceEnabled {
			require.Less(t, n-plain, w.allocs+0.5)
		}
	}
}

func BenchmarkShortLife(b *testing.B) {
	ln := tcptest.Listen(b)
	tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
	for _, w := range shortLives(tr) {
		b.Run(w.name, func(b *testing.B) {
			f := shortLife(b, ln, w.dial)
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
