package pool_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/pool"
)

// Borrowers, peers and time do what they like. Whatever happens, no connection
// has two borrowers, the limit holds, and none is lost count of.
func TestWhateverHappensTheNumbersAreRight(t *testing.T) {
	for _, fifo := range []bool{false, true} {
		const limit = 5
		s := startServer(t, echo)
		p := &pool.Pool{
			MaxConns: limit, MinIdleConns: 2, FIFO: fifo,
			MaxConnIdleTime: time.Minute, MaxConnLifetime: 5 * time.Minute, ProbeAfter: -1,
		}
		pool.Freeze(p)
		newPool(t, p)
		var mu sync.Mutex
		borrowed := make(map[string]bool)
		var stop, wg sync.WaitGroup
		ended, end := context.WithCancel(context.Background())
		for seed := range uint64(8) {
			stop.Go(func() {
				r := rand.New(rand.NewPCG(seed, 1))
				for range 400 {
					borrowOnce(t, p, s.addr(), r, func(c net.Conn, taken bool) {
						mu.Lock()
						defer mu.Unlock()
						at := c.LocalAddr().String()
						if borrowed[at] == taken {
							t.Errorf("%s is lent twice", at)
						}
						borrowed[at] = taken
					})
				}
			})
		}
		wg.Go(func() { // peers that leave
			r := rand.New(rand.NewPCG(1, 2))
			for ended.Err() == nil {
				s.mu.Lock()
				if n := len(s.conns); n > 0 {
					s.conns[r.IntN(n)].Close()
				}
				s.mu.Unlock()
				time.Sleep(100 * time.Microsecond)
			}
		})
		wg.Go(func() { // time, and somebody who looks on
			r := rand.New(rand.NewPCG(3, 4))
			for ended.Err() == nil {
				pool.Advance(p, time.Duration(r.IntN(20))*time.Second)
				n := p.Stats()
				if open := n.Idle + n.Used + n.Constructing; open > limit {
					t.Errorf("%d connections: %+v", open, n)
				}
				if n.Opened != n.Closed+uint64(n.Idle+n.Used) {
					t.Errorf("lost count: %+v", n)
				}
				time.Sleep(50 * time.Microsecond)
			}
		})
		stop.Wait()
		end()
		wg.Wait()
		n := p.Stats()
		require.Zero(t, n.Used)
		require.Zero(t, n.Waiting)
		t.Logf("%+v", n)
	}
}

// borrowOnce takes a connection and does something with it. Of each event,
// borrowed is told while the loan lasts.
func borrowOnce(t *testing.T, p *pool.Pool, addr string, r *rand.Rand, borrowed func(c net.Conn, taken bool)) {
	ctx := context.Background()
	if r.IntN(10) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(200))*time.Microsecond)
		defer cancel()
	}
	c, err := p.Get(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() == nil {
			t.Error(err)
		}
		return
	}
	borrowed(c, true)
	switch r.IntN(8) {
	case 0:
		c.Write([]byte("x")) // unread, perhaps
	case 1:
		c.CloseWrite()
	case 2:
		c.SetDeadline(time.Now().Add(-time.Second))
	case 3, 4:
		if _, err := c.Write([]byte("x")); err == nil {
			c.Read(make([]byte, 1))
		}
	}
	borrowed(c, false)
	switch r.IntN(6) {
	case 0:
		c.Discard()
	case 1:
		if mine, err := c.Hijack(); err == nil {
			mine.Close()
		}
	default:
		c.Close()
	}
	c.Close()
	c.Write([]byte("to a stranger"))
}
