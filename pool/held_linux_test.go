package pool_test

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// loans is a pool and its tracker, whose time is moved by hand.
type loans struct {
	*testing.T
	tr     *tcpstate.Tracker
	clk    *testclock.Clock
	p      *pool.Pool
	server *server

	mu   sync.Mutex // guards following field
	told []string   // what happened to findings, of which kind, and why
}

// newLoans makes them; loans are reported after held, unless that is 0.
func newLoans(t *testing.T, p *pool.Pool, held time.Duration) *loans {
	t.Parallel() // the clock's pace is a waste of time
	l := &loans{T: t, p: p, server: startServer(t, echo)}
	l.tr = &tcpstate.Tracker{
		Logger: slog.New(slog.DiscardHandler),
		Config: tcpstate.Config{Thresholds: tcpstate.Thresholds{Held: held}},
	}
	l.clk = testclock.Install(l.tr)
	l.clk.Pace(100)
	t.Cleanup(func() {
		require.NoError(t, l.tr.Close())
		testclock.Remove(l.tr)
	})
	leaktest.Check(t, l.tr, leaktest.IgnoreFindings()) // tests look at them
	note := func(what string) func(tcpstate.Finding) {
		return func(f tcpstate.Finding) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.told = append(l.told, what+" "+string(f.Kind)+" "+f.Cause)
		}
	}
	t.Cleanup(l.tr.Observe(&tcpstate.Observer{Opened: note("opened"), Changed: note("changed"), Cleared: note("cleared")}))
	p.Name, p.Dialer.Tracker = "cache", l.tr
	pool.Freeze(p)
	newPool(t, p)
	return l
}

// advance moves the time of both.
func (l *loans) advance(d time.Duration) {
	for ; d > 0; d -= time.Second {
		pool.Advance(l.p, min(d, time.Second))
		l.clk.Advance(min(d, time.Second))
	}
}

// silent asks for no finding, now or before.
func (l *loans) silent() {
	l.Helper()
	for _, f := range l.tr.Findings() {
		l.Fatalf("reported: %s", f.String())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(l, l.told)
}

// clears asks for the end of the one finding there was.
func (l *loans) clears() {
	l.Helper()
	l.advance(2 * time.Second)
	require.Empty(l, l.tr.Findings())
	want := []string{"opened leak.not_returned held", "cleared leak.not_returned held"}
	tcptest.WaitUntil(l, "the end of the finding", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.told) >= len(want)
	})
	l.advance(2 * time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Equal(l, want, l.told)
}

// The one who holds a connection is named though nobody waits; those who use
// theirs all the time, or return them in time, are not.
func TestAConnThatIsHeldForTooLongIsReportedUntilItComesBack(t *testing.T) {
	for name, end := range map[string]func(*loans, pool.Conn){
		"Close":   func(l *loans, c pool.Conn) { require.NoError(l, c.Close()) },
		"Discard": func(l *loans, c pool.Conn) { require.NoError(l, c.Discard()) },
		"Hijack": func(l *loans, c pool.Conn) {
			mine, err := c.Hijack()
			require.NoError(l, err)
			l.Cleanup(func() { mine.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoans(t, new(pool.Pool), time.Minute)
			held, busy := leakingLine(t, l.p, l.server.addr()), get(t, l.p, l.server.addr())
			say(t, held, "hello")
			healthy := func(d time.Duration) {
				for ; d > 0; d -= 5 * time.Second {
					say(t, busy, "still at it")
					c := get(t, l.p, l.server.addr())
					say(t, c, "in and out")
					l.advance(5 * time.Second)
					require.NoError(t, c.Close())
				}
			}
			healthy(55 * time.Second)
			l.silent()
			healthy(15 * time.Second)
			fs := l.tr.Findings()
			require.Len(t, fs, 1)
			f := fs[0]
			require.Equal(t, tcpstate.KindLeakNotReturned, f.Kind)
			require.Equal(t, "held", f.Cause)
			require.Equal(t, tcpstate.Warning, f.Severity)
			require.Equal(t, "cache", f.Subject.Name)
			require.Equal(t, held.Watch().ID(), f.Subject.ID)
			require.Equal(t, "use", f.Sites[0].Role)
			require.Contains(t, f.Sites[0].Frames[0].Function, "leakingLine")
			require.Contains(t, f.Summary, "was taken out of its pool 1m")
			require.NotContains(t, f.Summary, "others wait")
			end(l, held)
			l.clears()
			require.NoError(t, busy.Close())
		})
	}
}

// Whoever waits misses a connection: that is another finding, of Borrowed.
func TestALoanThatLastsIsNobodysBusinessUnlessItIsDeclared(t *testing.T) {
	l := newLoans(t, new(pool.Pool), 0)
	c := leakingLine(t, l.p, l.server.addr())
	say(t, c, "hello")
	l.advance(10 * time.Minute)
	l.silent()
	require.NoError(t, c.Close())
}

// The time between two loans is nobody's: a connection that is lent out again
// and again was never held for long.
func TestTheTimeOfALoanBeginsWithIt(t *testing.T) {
	l := newLoans(t, new(pool.Pool), time.Minute)
	for range 4 {
		c := get(t, l.p, l.server.addr())
		l.advance(40 * time.Second)
		require.NoError(t, c.Close())
		l.advance(20 * time.Second)
	}
	require.EqualValues(t, 1, l.p.Stats().Dials)
	l.silent()
}

// A borrower may tell what he uses the connection for, beside.
func TestAConnThatIsHeldIsReportedThoughItIsInUse(t *testing.T) {
	l := newLoans(t, new(pool.Pool), time.Minute)
	c := leakingLine(t, l.p, l.server.addr())
	say(t, c, "hello")
	l.clk.Advance(time.Second) // the tracker is told of the loan later
	done := c.Watch().Use(t.Context(), tcpstate.Use{Name: "report"})
	l.advance(70 * time.Second)
	fs := l.tr.Findings()
	require.Len(t, fs, 1)
	require.Contains(t, fs[0].Sites[0].Frames[0].Function, "leakingLine")
	done()
	require.NoError(t, c.Close())
	l.clears()
}

// A byte is a sign of life, however long the loan.
func TestAHeldConnThatMovesAgainIsClearedAndJudgedAnew(t *testing.T) {
	l := newLoans(t, new(pool.Pool), time.Minute)
	c := leakingLine(t, l.p, l.server.addr())
	l.advance(70 * time.Second)
	require.Len(t, l.tr.Findings(), 1)
	say(t, c, "hello")
	l.clears()
	l.advance(70 * time.Second)
	require.Len(t, l.tr.Findings(), 1)
	require.NoError(t, c.Close())
}

// What its borrower has taken over is no inventory of the pool.
func TestAHijackedConnWhosePeerClosesIsALeak(t *testing.T) {
	l := newLoans(t, new(pool.Pool), 0)
	c := leakingLine(t, l.p, l.server.addr())
	say(t, c, "hello")
	end := l.server.end(t, c)
	mine, err := c.Hijack()
	require.NoError(t, err)
	defer mine.Close()
	l.advance(2 * time.Second)
	_, err = mine.Write([]byte("a request without an answer"))
	require.NoError(t, err)
	require.NoError(t, end.CloseWrite())
	require.NoError(t, end.CloseRead())
	tcptest.WaitState(t, mine.(*tcpstate.Conn), tcptest.CloseWait)
	l.advance(40 * time.Second)
	fs := l.tr.Findings()
	require.Len(t, fs, 1)
	require.NotEqual(t, tcpstate.KindCloseWaitIdleInPool, fs[0].Kind, "%s", fs[0].String())
	require.Equal(t, tcpstate.Warning, fs[0].Severity)
}
