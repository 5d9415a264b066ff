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
		{"zero", 8, (&dialer.Dialer{Tracker: tr}).DialContext},
		{"NetDialer", 8, (&dialer.Dialer{Tracker: tr, NetDialer: nd}).DialContext},
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
		c.Close()
		peer.SetLinger(0) // no TIME-WAIT
		peer.Close()
	}
}

// TestADialCostsAFewAllocations counts them: 5 of package net for a hook (the
// RawConn, and the address in words), less one that it saves where there is but
// one address; the connection, which is the context of its dial, too; the entry;
// and 2 of runtime.AddCleanup.
func TestADialCostsAFewAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	tr := leaktest.Tracker(t, leaktest.IgnoreFindings())
	ln := tcptest.Listen(t)
	ways := shortLives(tr)
	plain := costOf(shortLife(t, ln, ways[0].dial))
	for _, w := range ways[1:] {
		more := costOf(shortLife(t, ln, w.dial)).beyond(plain)
		// What else runs in the process only adds to it.
		for tries := 0; (more.allocs >= w.allocs+0.5 || more.bytes > maxBytes) && tries < 10; tries++ {
			more = more.least(costOf(shortLife(t, ln, w.dial)).beyond(plain))
		}
		t.Logf("%s: %.2f allocations, %.0f bytes beyond the %.2f, %.0f of net", w.name, more.allocs, more.bytes, plain.allocs, plain.bytes)
		require.Less(t, more.allocs, w.allocs+0.5)
		require.LessOrEqual(t, more.bytes, maxBytes)
	}
}

// maxBytes is 420 of each connection, and some of the loop's, by how often it
// happens to begin and end meanwhile.
const maxBytes = 500.0

// cost is what one call allocates.
type cost struct{ allocs, bytes float64 }

func costOf(f func()) cost {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f()
	const n = 500
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		f()
	}
	runtime.ReadMemStats(&after)
	return cost{float64(after.Mallocs-before.Mallocs) / n, float64(after.TotalAlloc-before.TotalAlloc) / n}
}

func (c cost) beyond(other cost) cost { return cost{c.allocs - other.allocs, c.bytes - other.bytes} }

func (c cost) least(other cost) cost {
	return cost{min(c.allocs, other.allocs), min(c.bytes, other.bytes)}
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
