package pool_test

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
)

// BenchmarkEviction is the time from the peer's FIN until it receives that of
// the pool, with a thousand idle connections.
func BenchmarkEviction(b *testing.B) {
	const idle = 1000
	s := startServer(b, func(net.Conn) {})
	p := newPool(b, &pool.Pool{MaxConns: idle})
	var ends []*net.TCPConn // of the idle connections
	fill := func() {
		var loans []pool.Conn
		for range idle {
			loans = append(loans, get(b, p, s.addr()))
		}
		for _, c := range loans {
			tcptest.WaitUntil(b, "the watch", func() bool { return pool.Watched(c) })
			require.NoError(b, c.Close())
		}
		tcptest.WaitUntil(b, "the other ends", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			ends = ends[:0]
			for _, c := range s.conns[max(len(s.conns)-idle, 0):] {
				ends = append(ends, c.(*net.TCPConn))
			}
			return len(s.conns) > 0 && len(s.conns)%idle == 0
		})
	}
	var took []time.Duration
	one := make([]byte, 1)
	for b.Loop() {
		if len(ends) == 0 {
			b.StopTimer()
			fill()
			b.StartTimer()
		}
		end := ends[0]
		ends = ends[1:]
		start := time.Now()
		if err := end.CloseWrite(); err != nil {
			b.Fatal(err)
		}
		if _, err := end.Read(one); err != io.EOF {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
		end.Close()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
