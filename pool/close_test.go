package pool_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
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
	leaktest.Check(t, tracker, leaktest.IgnoreFindings())
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

// blocked is a connection that keeps those waiting who ask for its socket or
// close it, once these channels are there.
type blocked struct {
	*net.TCPConn
	asked, answer chan struct{}
	closing, end  chan struct{}
}

func (c *blocked) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.TCPConn.SyscallConn()
	return blockedRaw{raw, c}, err
}

type blockedRaw struct {
	syscall.RawConn
	c *blocked
}

func (r blockedRaw) Control(f func(uintptr)) error {
	if r.c.asked != nil {
		select {
		case r.c.asked <- struct{}{}:
		case <-r.c.answer:
		}
		<-r.c.answer
	}
	return r.RawConn.Control(f)
}

func (c *blocked) Close() error {
	if c.closing != nil {
		select {
		case c.closing <- struct{}{}:
		case <-c.end:
		}
		<-c.end
	}
	return c.TCPConn.Close()
}

// dialBlocked dials connections of that kind and notes them.
func dialBlocked(made *[]*blocked) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		b := &blocked{TCPConn: c.(*net.TCPConn)}
		*made = append(*made, b)
		return b, nil
	}
}

func (c *blocked) blockAsking()  { c.answer, c.asked = make(chan struct{}), make(chan struct{}) }
func (c *blocked) blockClosing() { c.end, c.closing = make(chan struct{}), make(chan struct{}) }

func TestCloseDoesNotWaitForAConnThatIsNotHandedOutAfterAll(t *testing.T) {
	var made []*blocked
	p, addr := &pool.Pool{CloseTimeout: time.Hour, ProbeAfter: -1, Dial: dialBlocked(&made)}, startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	require.NoError(t, get(t, p, addr).Close())
	made[0].blockAsking()
	pool.Skew(p, 30*time.Second)
	got, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := p.Get(context.Background(), "tcp", addr)
		got <- err
	}()
	<-made[0].asked // it has been idle for some time
	go func() { closed <- p.Close() }()
	tcptest.WaitUntil(t, "Close to begin", func() bool { return pool.Shut(p) })
	require.NoError(t, made[0].TCPConn.Close()) // and now has no peer
	close(made[0].answer)
	require.ErrorIs(t, <-got, pool.ErrClosed)
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("Close waits for a loan that never was")
	}
}

// The number of the loan before has not gone, nor have its line and its time.
func TestCloseTellsALoanFromAGetThatGoesOn(t *testing.T) {
	var made []*blocked
	p := &pool.Pool{CloseTimeout: -1, ProbeAfter: -1, MaxConnLifetime: -1, Dial: dialBlocked(&made)}
	addr := startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	c := leakingLine(t, p, addr)
	pool.Skew(p, time.Hour)
	require.NoError(t, c.Close())
	made[0].blockAsking()
	pool.Skew(p, time.Minute)
	got := make(chan error, 1)
	go func() {
		c, err := p.Get(context.Background(), "tcp", addr)
		c.Close()
		got <- err
	}()
	<-made[0].asked
	leak, ok := errors.AsType[*pool.LeakError](p.Close())
	require.True(t, ok)
	require.Empty(t, leak.Loans)
	require.Equal(t, 1, leak.Checks)
	require.EqualError(t, leak, "pool: 0 not returned, 1 still being checked")
	close(made[0].answer)
	require.NoError(t, <-got, "it was before Close")
}

// Closing takes long with SO_LINGER or TLS, if the peer takes nothing.
func TestASocketThatTakesLongToCloseHoldsNobodyUp(t *testing.T) {
	var made []*blocked
	p := &pool.Pool{MaxConns: 3, CloseTimeout: time.Millisecond, MaxConnIdleTime: time.Minute, Dial: dialBlocked(&made)}
	addr := startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	a, b := get(t, p, addr), get(t, p, addr)
	require.NoError(t, a.Close())
	pool.Skew(p, 30*time.Second)
	require.NoError(t, b.Close())
	made[0].blockClosing()
	pool.Advance(p, 30*time.Second)
	<-made[0].closing
	require.Equal(t, 1, p.Stats().Idle, "maintenance does not wait")
	pool.Advance(p, 30*time.Second)
	tcptest.WaitUntil(t, "the other one to be closed", func() bool { return made[1].SetDeadline(time.Time{}) != nil })

	c := get(t, p, addr)
	made[2].blockClosing()
	require.NoError(t, c.Close())
	pool.Skew(p, time.Minute)
	c = get(t, p, addr)
	<-made[2].closing
	require.EqualValues(t, 3, p.Stats().Discarded.IdleTimeout, "nor does Get")
	made[3].blockClosing()
	require.NoError(t, c.Close())
	require.EqualError(t, p.Close(), "pool: 0 not returned, 3 still being closed", "nor Close, for ever")
	<-made[3].closing
	requireBalance(t, p)
	for _, i := range []int{0, 2, 3} {
		close(made[i].end)
	}
	tcptest.WaitUntil(t, "the rest to be closed", func() bool { return p.Close() == nil })
}
