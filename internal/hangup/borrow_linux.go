package hangup

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time of CLOCK_MONOTONIC, which all processes share. It goes by
// Go's clock, which is the same and no system call, from one comparison.
func Now() int64 { return atZero() + int64(time.Since(zero)) }

// At is what Now has said at t.
func At(t time.Time) int64 { return atZero() + int64(t.Sub(zero)) }

var (
	zero   = time.Now()
	atZero = sync.OnceValue(func() int64 {
		best, at := time.Hour, int64(0)
		for range 1000 { // the quickest is the most exact
			var ts unix.Timespec
			before := time.Since(zero)
			if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
				panic(err)
			}
			if took := time.Since(zero) - before; took < best {
				best, at = took, ts.Nano()-int64(before)
			}
		}
		return at
	})
)

// Dial dials and waits for the greeting.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Loan is a connection that a pool has handed out.
type Loan struct {
	Conn     net.Conn // nil: the pool keeps it to itself, and says with See what it hands out
	Got      int64    // when, as Now says
	Looked   int64    // when the pool has made sure of it last; 0: not known, in the call that has got it
	GiveBack func(broken bool)
	Use      func() error // says something; nil: Conn does
}

// Tally is what the borrowers saw.
type Tally struct {
	Cycles  int
	Took    time.Duration
	Failed  atomic.Int64 // of the pool, or in use
	Recent  atomic.Int64 // closed within the last millisecond
	Stale   atomic.Int64 // closed a millisecond before it was handed out
	Stalled atomic.Int64 // of these, by a pool that was itself held up for as long after it had looked
	Worst   atomic.Int64 // nanoseconds since it was closed
}

// Limit is how long before it is handed out a connection may have been closed.
// A pool in another process needs some time to know.
const Limit = time.Millisecond

// See notes that the connection with this address at the client was handed out
// at got, by a pool that looked at it at asked or later.
func (s *Tally) See(t *Table, client net.Addr, asked, got int64) {
	at := t.of(client).Load()
	age := got - at
	switch {
	case at == 0:
	case age < int64(Limit):
		s.Recent.Add(1)
	default:
		s.Stale.Add(1)
		if at > asked-int64(Limit) && got-asked >= int64(Limit) {
			s.Stalled.Add(1)
		}
		for w := s.Worst.Load(); age > w && !s.Worst.CompareAndSwap(w, age); w = s.Worst.Load() {
		}
	}
}

// Ping is a word of the server's protocol, Pong the answer.
const (
	Ping = "*1\r\n$4\r\nPING\r\n"
	Pong = "+PONG\r\n"
)

// Run has 64 borrowers take n connections together. Some use theirs, some wait
// before they ask again, so that connections get idle.
func Run(n int, t *Table, s *Tally, get func() (Loan, error)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 64 {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				// From here on the goroutine has its whole share of time, so that
				// it is not stopped between the answer and the clock.
				runtime.Gosched()
				asked := Now()
				l, err := get()
				if err != nil {
					s.Failed.Add(1)
					continue
				}
				if l.Looked != 0 {
					asked = l.Looked
				}
				if l.Conn != nil {
					s.See(t, l.Conn.LocalAddr(), asked, l.Got)
				}
				use := l.Use
				if use == nil {
					use = func() error { return ping(l.Conn) }
				}
				var failed error
				what := rand.IntN(16)
				if what < 2 {
					if failed = use(); failed != nil {
						s.Failed.Add(1)
					}
				}
				l.GiveBack(failed != nil)
				if what == 2 {
					time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	s.Cycles, s.Took = n, time.Since(start)
}

func ping(c net.Conn) error {
	if _, err := io.WriteString(c, Ping); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len(Pong)))
	return err
}
