package pool_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/hangup"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
)

// cycles is a million where the machine is there for it.
func cycles() int {
	switch {
	case testing.Short(), raceEnabled:
		return 50_000
	case os.Getenv("TCPSTATE_CI") == "1":
		return 1_000_000
	}
	return 200_000
}

func startHangUp(t *testing.T) *hangup.Server {
	s, err := hangup.Start()
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

// A connection whose peer closed it a millisecond ago is not handed out, which
// the server itself bears witness to. The engine alone hands out hundreds.
func TestNoConnThatThePeerHasClosedIsHandedOut(t *testing.T) {
	for name, fifo := range map[string]bool{"LIFO": false, "FIFO": true} {
		t.Run(name, func(t *testing.T) {
			s := startHangUp(t)
			p := newPool(t, &pool.Pool{Dial: hangup.Dial, FIFO: fifo})
			var sum hangup.Tally
			hangup.Run(cycles()/2, s.Table, &sum, func() (hangup.Loan, error) {
				c, err := p.Get(context.Background(), "tcp", s.Addr)
				got := hangup.Now()
				if err != nil {
					return hangup.Loan{}, err
				}
				l := hangup.Loan{Conn: c, Got: got, GiveBack: func(bool) { c.Close() }}
				if at, ok := pool.LookedAt(c); ok {
					l.Looked = hangup.At(at)
				}
				return l, nil
			})
			n := p.Stats()
			t.Logf("%d cycles in %v: %d stale (%d while held up at its end, the worst %v), %d closed within the last millisecond, %d failed",
				sum.Cycles, sum.Took.Round(time.Millisecond), sum.Stale.Load(), sum.Stalled.Load(), time.Duration(sum.Worst.Load()),
				sum.Recent.Load(), sum.Failed.Load())
			t.Logf("%d dials, %d of %d evictions by event or by Get, %d times behind the events",
				n.Dials, n.Discarded.PeerClosed, n.Closed, n.Behind)
			// A Get that the machine stops for as long after its last look at the
			// clock, or a borrower before his, cannot know. Whatever else takes
			// that long is for Get to notice, but for a dial.
			require.Zero(t, sum.Stale.Load()-sum.Stalled.Load())
			require.Positive(t, n.Discarded.PeerClosed)
			requireBalance(t, p)
			s.Stop()
			tcptest.WaitUntil(t, "the rest to be closed, without a Get", func() bool { return p.Stats().Idle == 0 })
		})
	}
	t.Run("puddle", func(t *testing.T) {
		s := startHangUp(t)
		p := newPuddle(t, func(ctx context.Context) (net.Conn, error) { return hangup.Dial(ctx, "tcp", s.Addr) })
		var sum hangup.Tally
		hangup.Run(50_000, s.Table, &sum, func() (hangup.Loan, error) {
			r, err := p.Acquire(context.Background())
			got := hangup.Now()
			if err != nil {
				return hangup.Loan{}, err
			}
			return hangup.Loan{Conn: r.Value(), Got: got, GiveBack: func(broken bool) {
				if broken {
					r.Destroy()
				} else {
					r.Release()
				}
			}}, nil
		})
		t.Logf("%d of %d stale, the worst after %v", sum.Stale.Load(), sum.Cycles, time.Duration(sum.Worst.Load()))
		require.Positive(t, sum.Stale.Load()-sum.Stalled.Load(), "the test finds stale connections where there are any")
	})
}
