package pool_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// get borrows a connection, which must succeed.
func get(tb testing.TB, p *pool.Pool, addr string) pool.Conn {
	tb.Helper()
	c, err := p.Get(tb.Context(), "tcp", addr)
	require.NoError(tb, err)
	return c
}

// say exchanges a word with the echo at the other end.
func say(tb testing.TB, c net.Conn, word string) {
	tb.Helper()
	_, err := io.WriteString(c, word)
	require.NoError(tb, err)
	b := make([]byte, len(word))
	_, err = io.ReadFull(c, b)
	require.NoError(tb, err)
	require.Equal(tb, word, string(b))
}

func TestAConnThatIsReturnedIsLentAgain(t *testing.T) {
	p, addr := newPool(t, new(pool.Pool)), startEcho(t)
	c := get(t, p, addr)
	say(t, c, "hello")
	local := c.LocalAddr()
	require.NoError(t, c.Close())
	require.Equal(t, 1, p.Stats().Idle)

	c = get(t, p, addr)
	require.Equal(t, local, c.LocalAddr())
	say(t, c, "again")
	require.NoError(t, c.Close())
	s := p.Stats()
	require.EqualValues(t, 2, s.Gets)
	require.EqualValues(t, 1, s.Hits)
	require.EqualValues(t, 1, s.Dials)
	require.Positive(t, s.UseTime)
	require.Positive(t, s.DialTime)
}

func TestThePoolOfAnAddressIsItsOwn(t *testing.T) {
	p, one, two := newPool(t, &pool.Pool{MaxConns: 1}), startEcho(t), startEcho(t)
	for range 3 {
		a, b := get(t, p, one), get(t, p, two)
		require.Equal(t, one, a.RemoteAddr().String())
		require.Equal(t, two, b.RemoteAddr().String())
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	}
	require.EqualValues(t, 2, p.Stats().Dials)
	c, err := p.Get(t.Context(), "tcp4", one)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.EqualValues(t, 3, p.Stats().Dials, "another network")
}

func TestIdleConnsAreLentInTheOrderThatIsAskedFor(t *testing.T) {
	for name, fifo := range map[string]bool{"newest first": false, "oldest first": true} {
		t.Run(name, func(t *testing.T) {
			p, addr := newPool(t, &pool.Pool{FIFO: fifo}), startEcho(t)
			a, b := get(t, p, addr), get(t, p, addr)
			want := b.LocalAddr()
			if fifo {
				want = a.LocalAddr()
			}
			require.NoError(t, a.Close())
			require.NoError(t, b.Close())
			c := get(t, p, addr)
			require.Equal(t, want, c.LocalAddr())
			require.NoError(t, c.Close())
		})
	}
}

func TestALoanEndsForEveryCopy(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{MaxConns: 1}), startEcho(t)
	old := get(t, p, addr)
	kept := old
	local := old.LocalAddr()
	require.NoError(t, old.Close())
	require.ErrorIs(t, old.Close(), net.ErrClosed)
	require.ErrorIs(t, kept.Close(), net.ErrClosed)
	require.Equal(t, 1, p.Stats().Idle, "it was returned once")

	c := get(t, p, addr)
	require.Equal(t, local, c.LocalAddr(), "it is the same connection")
	require.NotEqual(t, c, kept)
	for name, call := range map[string]func(pool.Conn) error{
		"Read":             func(c pool.Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"Write":            func(c pool.Conn) error { _, err := c.Write([]byte("x")); return err },
		"Close":            pool.Conn.Close,
		"Discard":          pool.Conn.Discard,
		"Hijack":           func(c pool.Conn) error { _, err := c.Hijack(); return err },
		"CloseRead":        pool.Conn.CloseRead,
		"CloseWrite":       pool.Conn.CloseWrite,
		"SetDeadline":      func(c pool.Conn) error { return c.SetDeadline(time.Now()) },
		"SetReadDeadline":  func(c pool.Conn) error { return c.SetReadDeadline(time.Now()) },
		"SetWriteDeadline": func(c pool.Conn) error { return c.SetWriteDeadline(time.Now()) },
		"SetNoDelay":       func(c pool.Conn) error { return c.SetNoDelay(true) },
		"SetLinger":        func(c pool.Conn) error { return c.SetLinger(0) },
		"SetReadBuffer":    func(c pool.Conn) error { return c.SetReadBuffer(1 << 12) },
		"SetWriteBuffer":   func(c pool.Conn) error { return c.SetWriteBuffer(1 << 12) },
		"SetKeepAlive":     func(c pool.Conn) error { return c.SetKeepAlive(false) },
		"SetKeepAliveP…":   func(c pool.Conn) error { return c.SetKeepAlivePeriod(time.Second) },
		"SetKeepAliveC…":   func(c pool.Conn) error { return c.SetKeepAliveConfig(net.KeepAliveConfig{}) },
		"MultipathTCP":     func(c pool.Conn) error { _, err := c.MultipathTCP(); return err },
		"File":             func(c pool.Conn) error { _, err := c.File(); return err },
		"SyscallConn":      func(c pool.Conn) error { _, err := c.SyscallConn(); return err },
		"ReadFrom":         func(c pool.Conn) error { _, err := c.ReadFrom(nil); return err },
		"WriteTo":          func(c pool.Conn) error { _, err := c.WriteTo(io.Discard); return err },
	} {
		require.ErrorIs(t, call(kept), net.ErrClosed, name)
		var op *net.OpError
		require.ErrorAs(t, call(kept), &op, name)
		require.ErrorIs(t, call(pool.Conn{}), net.ErrClosed, "the zero Conn: %s", name)
	}
	require.Nil(t, kept.NetConn())
	require.Nil(t, kept.Watch())
	say(t, c, "not disturbed")
	require.NoError(t, c.Close())
	require.Equal(t, 1, p.Stats().Idle)
}

func TestALentConnIsWhatItLends(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{Name: "db"}), startEcho(t)
	c := get(t, p, addr)
	require.IsType(t, (*tcpstate.Conn)(nil), c.NetConn())
	require.Equal(t, "db", c.Watch().Snapshot().Name)
	require.Equal(t, addr, c.RemoteAddr().String())
	require.NoError(t, c.SetNoDelay(false))
	require.NoError(t, c.SetLinger(3))
	require.NoError(t, c.SetReadBuffer(1<<16))
	require.NoError(t, c.SetWriteBuffer(1<<16))
	require.NoError(t, c.SetKeepAlive(true))
	require.NoError(t, c.SetKeepAlivePeriod(time.Minute))
	require.NoError(t, c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}))
	on, err := c.MultipathTCP()
	require.NoError(t, err)
	require.False(t, on)
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(uintptr) {}))
	say(t, c, "hello")
	require.NoError(t, c.Close())
	require.Equal(t, 1, p.Stats().Idle, "options do not keep it from coming back")
	require.Nil(t, pool.Conn{}.LocalAddr())
	require.Nil(t, pool.Conn{}.RemoteAddr())
}

func TestDeadlinesEndWithTheLoan(t *testing.T) {
	past := time.Now().Add(-time.Second)
	for name, set := range map[string]func(pool.Conn) error{
		"both":          func(c pool.Conn) error { return c.SetDeadline(past) },
		"read":          func(c pool.Conn) error { return c.SetReadDeadline(past) },
		"write":         func(c pool.Conn) error { return c.SetWriteDeadline(past) },
		"past the pool": func(c pool.Conn) error { return c.NetConn().SetDeadline(past) },
	} {
		t.Run(name, func(t *testing.T) {
			p, addr := newPool(t, new(pool.Pool)), startEcho(t)
			c := get(t, p, addr)
			require.NoError(t, set(c))
			require.NoError(t, c.Close())
			c = get(t, p, addr)
			require.EqualValues(t, 1, p.Stats().Hits)
			say(t, c, "in time")
			require.NoError(t, c.Close())
		})
	}
}

// What a borrower left in the middle of something has no next borrower.
func TestAConnThatMayBeInTheMiddleOfSomethingIsClosed(t *testing.T) {
	timeout := func(c pool.Conn) {
		c.SetReadDeadline(time.Now())
		c.Read(make([]byte, 1))
	}
	for name, x := range map[string]struct {
		do  func(*testing.T, pool.Conn)
		why func(pool.Discards) uint64
	}{
		"CloseWrite": {do: func(t *testing.T, c pool.Conn) { require.NoError(t, c.CloseWrite()) }},
		"CloseRead":  {do: func(t *testing.T, c pool.Conn) { require.NoError(t, c.CloseRead()) }},
		"timeout":    {do: func(t *testing.T, c pool.Conn) { timeout(c) }},
		"timeout of a write": {do: func(t *testing.T, c pool.Conn) {
			c.SetWriteDeadline(time.Now())
			_, err := c.Write([]byte("x"))
			require.Error(t, err)
		}},
		"File": {do: func(t *testing.T, c pool.Conn) {
			f, err := c.File()
			require.NoError(t, err)
			f.Close()
		}},
		"closed past the pool": {do: func(t *testing.T, c pool.Conn) { c.NetConn().Close() }},
		"a failed copy":        {do: func(t *testing.T, c pool.Conn) { c.ReadFrom(failing{}) }},
		"unread bytes": {
			do: func(t *testing.T, c pool.Conn) {
				_, err := c.Write([]byte("more than is read"))
				require.NoError(t, err)
				_, err = io.ReadFull(c, make([]byte, 4))
				require.NoError(t, err)
				tcptest.WaitUntil(t, "the rest", func() bool { return c.Watch().Snapshot().RecvQueue > 0 })
			},
			why: func(d pool.Discards) uint64 { return d.UnreadData },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, addr := newPool(t, new(pool.Pool)), startEcho(t)
			c := get(t, p, addr)
			x.do(t, c)
			c.Close()
			s := p.Stats()
			require.Zero(t, s.Idle)
			require.EqualValues(t, 1, s.Closed)
			if x.why == nil {
				x.why = func(d pool.Discards) uint64 { return d.Caller }
			}
			require.EqualValues(t, 1, x.why(s.Discarded), "%+v", s)
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("failed") }

func TestACloseInterruptsWhatIsInProgress(t *testing.T) {
	p, addr := newPool(t, new(pool.Pool)), startEcho(t)
	c := get(t, p, addr)
	failed := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		failed <- err
	}()
	tcptest.WaitUntil(t, "the Read", func() bool { return pool.Busy(c) })
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-failed, net.ErrClosed)
	require.Zero(t, p.Stats().Idle)
	require.EqualValues(t, 1, p.Stats().Discarded.Caller)
}

func TestDiscardAndHijackEndALoan(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{MaxConns: 1}), startEcho(t)
	c := get(t, p, addr)
	require.NoError(t, c.Discard())
	require.ErrorIs(t, c.Discard(), net.ErrClosed)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.EqualValues(t, 1, p.Stats().Discarded.Caller)

	c = get(t, p, addr)
	mine, err := c.Hijack()
	require.NoError(t, err)
	_, err = c.Hijack()
	require.ErrorIs(t, err, net.ErrClosed)
	requireBalance(t, p)
	again := get(t, p, addr) // there is room
	require.NoError(t, again.Close())
	say(t, mine, "still there")
	require.NoError(t, mine.Close())
}

func TestAnEndedContextGetsNothing(t *testing.T) {
	p, addr := newPool(t, new(pool.Pool)), startEcho(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Get(ctx, "tcp", addr)
	require.Equal(t, context.Canceled, err)
	require.Zero(t, p.Stats().Dials)
}

func TestGetWaitsForAConnToComeBack(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{MaxConns: 1}), startEcho(t)
	c := get(t, p, addr)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := p.Get(ctx, "tcp", addr)
		failed <- err
	}()
	tcptest.WaitUntil(t, "a waiter", func() bool { return p.Stats().Waiting == 1 })
	cancel()
	require.Equal(t, context.Canceled, <-failed)
	require.EqualValues(t, 1, p.Stats().Timeouts)

	got := make(chan pool.Conn)
	go func() {
		c, err := p.Get(t.Context(), "tcp", addr)
		require.NoError(t, err)
		got <- c
	}()
	tcptest.WaitUntil(t, "a waiter", func() bool { return p.Stats().Waiting == 1 })
	local := c.LocalAddr()
	require.NoError(t, c.Close())
	c = <-got
	require.Equal(t, local, c.LocalAddr())
	require.NoError(t, c.Close())
	s := p.Stats()
	require.Zero(t, s.Waiting)
	require.EqualValues(t, 2, s.WaitCount)
	require.Positive(t, s.WaitTime)
	require.EqualValues(t, 1, s.Dials)
}
