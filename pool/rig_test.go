package pool_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// newPool closes p at the end of the test, which must have returned everything,
// and checks that no connection was lost count of. A pool without a tracker gets
// one of its own.
func newPool(tb testing.TB, p *pool.Pool) *pool.Pool {
	tb.Helper()
	if p.Dialer.Tracker == nil {
		p.Dialer.Tracker = leaktest.Tracker(tb, leaktest.IgnoreFindings())
	}
	tb.Cleanup(func() {
		require.NoError(tb, p.Close())
		requireBalance(tb, p)
		s := p.Stats()
		require.Zero(tb, s.Idle+s.Used+s.Constructing, "after Close: %+v", s)
		require.Zero(tb, s.Waiting)
		if p.Dial == nil { // else it may be attached, and its end is noticed later
			numbers := p.Dialer.Tracker.Stats()
			require.Equal(tb, numbers.Opened, numbers.Closed, "the tracker agrees")
		}
	})
	return p
}

// requireBalance checks that every connection is either open or closed.
func requireBalance(tb testing.TB, p *pool.Pool) {
	tb.Helper()
	s := p.Stats()
	require.EqualValues(tb, s.Opened, s.Closed+uint64(s.Idle+s.Used), "%+v", s)
}

type dialFunc = func(context.Context, string, string) (net.Conn, error)

// server is a server whose ends of the connections a test has in hand.
type server struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	ended bool
}

// startServer serves each connection with serve, until the test ends.
func startServer(tb testing.TB, serve func(net.Conn)) *server {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	s := &server{Listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			if s.ended {
				c.Close() // it was in the queue
			}
			s.mu.Unlock()
			wg.Go(func() { serve(c) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		s.ended = true
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

// end returns the server's end of c.
func (s *server) end(tb testing.TB, c net.Conn) *net.TCPConn {
	tb.Helper()
	var found net.Conn
	require.Eventually(tb, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, sc := range s.conns {
			if sc.RemoteAddr().String() == c.LocalAddr().String() {
				found = sc
			}
		}
		return found != nil
	}, 10*time.Second, time.Millisecond)
	return found.(*net.TCPConn)
}

func (s *server) addr() string { return s.Addr().String() }

func echo(c net.Conn) { io.Copy(c, c) }

// startEcho starts a server that sends back what it gets.
func startEcho(tb testing.TB) string { return startServer(tb, echo).addr() }
