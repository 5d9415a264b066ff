package pool_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestAClosedPoolSaysSo(t *testing.T) {
	p, addr := newPool(t, new(pool.Pool)), startEcho(t)
	require.NoError(t, get(t, p, addr).Close())
	require.NoError(t, p.Close())
	require.Zero(t, p.Stats().Idle)
	_, err := p.Get(t.Context(), "tcp", addr)
	require.Equal(t, pool.ErrClosed, err)
	_, err = p.Get(t.Context(), "tcp", "somewhere:1")
	require.Equal(t, pool.ErrClosed, err)
	require.NoError(t, p.Close())
	require.NoError(t, newPool(t, new(pool.Pool)).Close(), "one that was never used")
}

// leakingLine and the other one borrow, so that they are what is named.
func leakingLine(t *testing.T, p *pool.Pool, addr string) pool.Conn {
	c, err := p.Get(t.Context(), "tcp", addr)
	require.NoError(t, err)
	return c
}

func TestCloseNamesWhoHasNotReturnedAConn(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{Name: "cache", CloseTimeout: -1}), startEcho(t)
	a, b := leakingLine(t, p, addr), leakingLine(t, p, addr)
	c, err := p.Get(t.Context(), "tcp", addr)
	require.NoError(t, err)
	require.NoError(t, get(t, p, addr).Close())
	err = p.Close()
	leak, ok := errors.AsType[*pool.LeakError](err)
	require.True(t, ok, "%v", err)
	require.Len(t, leak.Loans, 3)
	require.Equal(t, addr, leak.Loans[0].Address)
	require.Positive(t, leak.Loans[0].For)
	require.Regexp(t, `^pool "cache": 3 not returned: 2 borrowed by .*\(.*close_test.go:\d+\), for up to .*; 1 borrowed by .*close_test.go:\d+\)`, err.Error())
	named := false
	for _, f := range leak.Loans[0].Site.Frames() {
		named = named || strings.Contains(f.Function, "leakingLine")
	}
	require.True(t, named, "%v", leak.Loans[0].Site.Frames())
	say(t, a, "it still works")

	require.NoError(t, a.Close())
	require.ErrorIs(t, a.Close(), net.ErrClosed)
	require.NoError(t, b.Discard())
	leak, ok = errors.AsType[*pool.LeakError](p.Close())
	require.True(t, ok)
	require.Len(t, leak.Loans, 1)
	require.NoError(t, c.Close())
	require.NoError(t, p.Close())
	require.Zero(t, p.Stats().Idle, "they were closed as they came back")
	requireBalance(t, p)
}

func TestALeakErrorRoundsTimesForReading(t *testing.T) {
	err := &pool.LeakError{Name: "cache", Loans: []pool.Loan{{For: time.Minute + 3*time.Second + 7*time.Millisecond}}}
	require.EqualError(t, err, `pool "cache": 1 not returned: 1 borrowed by an unknown line, for up to 1m3s`)
}

func TestCloseWaitsForConnsToComeBack(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{CloseTimeout: time.Hour}), startEcho(t)
	c := get(t, p, addr)
	closed := make(chan error)
	go func() { closed <- p.Close() }()
	tcptest.WaitUntil(t, "Close", func() bool { return pool.Closing(p) })
	_, err := p.Get(t.Context(), "tcp", addr)
	require.Equal(t, pool.ErrClosed, err)
	select {
	case err := <-closed:
		t.Fatal("Close did not wait", err)
	default:
	}
	require.NoError(t, c.Close())
	require.NoError(t, <-closed)
}

func TestCloseGivesUpInTime(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{CloseTimeout: time.Millisecond}), startEcho(t)
	c := get(t, p, addr)
	require.ErrorContains(t, p.Close(), "pool: 1 not returned: 1 borrowed by ")
	require.NoError(t, c.Close())
}

func TestCloseEndsWaitingAndDialing(t *testing.T) {
	addr := startEcho(t)
	p := newPool(t, &pool.Pool{MaxConns: 1, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	errs := make(chan error)
	for range 3 {
		go func() {
			_, err := p.Get(context.Background(), "tcp", addr)
			errs <- err
		}()
	}
	tcptest.WaitUntil(t, "waiters", func() bool { s := p.Stats(); return s.Waiting == 2 && s.Constructing == 1 })
	require.NoError(t, p.Close())
	for range 3 {
		require.Equal(t, pool.ErrClosed, <-errs)
	}
	require.Zero(t, p.Stats().Timeouts)
}

func TestCloseNamesADialThatDoesNotEnd(t *testing.T) {
	addr, dials, goOn := startEcho(t), make(chan struct{}), make(chan struct{})
	p := newPool(t, &pool.Pool{CloseTimeout: -1, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		close(dials)
		<-goOn
		return new(net.Dialer).Dial(network, address)
	}})
	failed := make(chan error)
	go func() {
		_, err := p.Get(context.Background(), "tcp", addr)
		failed <- err
	}()
	<-dials
	require.EqualError(t, p.Close(), "pool: 0 not returned, 1 still being dialed")
	close(goOn)
	require.Equal(t, pool.ErrClosed, <-failed)
	tcptest.WaitUntil(t, "the dial to end", func() bool { return p.Close() == nil })
	require.EqualValues(t, 1, p.Stats().Closed, "what it brought is closed")
}

// Dials run elsewhere, and are made for somebody.
func TestADialIsReportedWithItsBorrower(t *testing.T) {
	p, addr := newPool(t, new(pool.Pool)), startEcho(t)
	c := leakingLine(t, p, addr)
	site := c.Watch().Snapshot().Site
	require.Equal(t, "dial", site.Role)
	require.Contains(t, site.Frames[0].Function, "leakingLine")
	require.NoError(t, c.Close())
}

// The tracker hears of loans that last, and of those who wait for them.
func TestAConnThatIsNotReturnedIsReportedWithItsBorrower(t *testing.T) {
	tracker := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler), Config: tcpstate.Config{
		SweepInterval: 100 * time.Millisecond,
		Thresholds:    tcpstate.Thresholds{Borrowed: 2 * time.Second},
	}}
	t.Cleanup(func() { tracker.Close() })
	p, addr := &pool.Pool{Name: "cache", MaxConns: 1}, startEcho(t)
	p.Dialer.Tracker = tracker
	pool.Freeze(p)
	newPool(t, p)
	require.NoError(t, get(t, p, addr).Close())
	c := leakingLine(t, p, addr)
	pool.Advance(p, 0) // lent out
	pool.Advance(p, 0) // still
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := p.Get(ctx, "tcp", addr)
		failed <- err
	}()
	var f tcpstate.Finding
	tcptest.WaitUntil(t, "the finding", func() bool {
		for _, f = range tracker.Findings() {
			if f.Kind == tcpstate.KindLeakNotReturned {
				return true
			}
		}
		return false
	})
	require.Equal(t, "use", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "leakingLine")
	cancel()
	require.Equal(t, context.Canceled, <-failed)
	require.NoError(t, c.Close())
	tcptest.WaitUntil(t, "its end", func() bool { return len(tracker.Findings()) == 0 })
}

// slowToClose is a connection whose Close waits for proceed.
type slowToClose struct {
	net.Conn
	closing, proceed chan struct{}
}

func (c slowToClose) Close() error {
	close(c.closing)
	<-c.proceed
	return c.Conn.Close()
}

func TestCloseDoesNotWaitForAConnThatIsNotHandedOutAfterAll(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := slowToClose{near, make(chan struct{}), make(chan struct{})}
	p := &pool.Pool{
		CloseTimeout: time.Hour, MaxConnIdleTime: time.Minute,
		Dial: func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}
	pool.Freeze(p)
	newPool(t, p)
	require.NoError(t, get(t, p, "pipe").Close())
	pool.Skew(p, time.Hour)
	got, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := p.Get(context.Background(), "tcp", "pipe")
		got <- err
	}()
	<-c.closing // it has been idle for too long
	go func() { closed <- p.Close() }()
	tcptest.WaitUntil(t, "Close to begin", func() bool { return pool.Shut(p) })
	close(c.proceed)
	require.ErrorIs(t, <-got, pool.ErrClosed)
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("Close waits for a loan that never was")
	}
}
