package pool_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
)

func TestADialThatFailsLeavesRoomForTheNext(t *testing.T) {
	refused := errors.New("refused")
	for name, x := range map[string]struct {
		dial func(context.Context, string, string) (net.Conn, error)
		is   func(error) bool
	}{
		"error": {
			func(context.Context, string, string) (net.Conn, error) { return nil, refused },
			func(err error) bool { return err == refused },
		},
		"panic": {
			func(context.Context, string, string) (net.Conn, error) { panic("broken") },
			func(err error) bool {
				p, ok := errors.AsType[*pool.DialPanicError](err)
				return ok && p.Value == "broken" && len(p.Stack) > 0 && err.Error() == "pool: panic in dial: broken"
			},
		},
		"end of the goroutine": {
			func(context.Context, string, string) (net.Conn, error) { runtime.Goexit(); return nil, nil },
			func(err error) bool {
				p, ok := errors.AsType[*pool.DialPanicError](err)
				return ok && p.Value == nil
			},
		},
		"a nil pointer": {
			func(context.Context, string, string) (net.Conn, error) { return (*net.TCPConn)(nil), nil },
			func(err error) bool {
				p, ok := errors.AsType[*pool.DialPanicError](err)
				return ok && p.Value != nil
			},
		},
		"nothing at all": {
			func(context.Context, string, string) (net.Conn, error) { return nil, nil },
			func(err error) bool { return err != nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr, works := startEcho(t), false
			p := newPool(t, &pool.Pool{MaxConns: 1, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if works {
					return new(net.Dialer).DialContext(ctx, network, address)
				}
				return x.dial(ctx, network, address)
			}})
			for range 3 {
				_, err := p.Get(t.Context(), "tcp", addr)
				require.True(t, x.is(err), "%v", err)
			}
			require.EqualValues(t, 3, p.Stats().DialErrors)
			works = true
			require.NoError(t, get(t, p, addr).Close())
			require.EqualValues(t, 4, p.Stats().Dials)
		})
	}
}

// The dial goes on, and what it brings serves the next.
func TestADialThatHangsKeepsNobodyBeyondHisContext(t *testing.T) {
	addr := startEcho(t)
	goOn := make(chan struct{})
	type key struct{}
	p := newPool(t, &pool.Pool{MaxConns: 1, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		<-goOn // whatever ctx says
		if ctx.Err() != nil || ctx.Value(key{}) != "first" {
			return nil, errors.New("the dial got the end of its borrower's context, or not its values")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	first, cancelFirst := context.WithCancel(context.WithValue(t.Context(), key{}, "first"))
	second, cancelSecond := context.WithCancel(t.Context())
	failed := make(chan error, 2)
	borrow := func(ctx context.Context) {
		_, err := p.Get(ctx, "tcp", addr)
		failed <- err
	}
	go borrow(first)
	tcptest.WaitUntil(t, "the dial", func() bool { return p.Stats().Constructing == 1 })
	go borrow(second)
	tcptest.WaitUntil(t, "a waiter", func() bool { return p.Stats().Waiting == 1 })
	cancelSecond()
	require.Equal(t, context.Canceled, <-failed)
	cancelFirst()
	require.Equal(t, context.Canceled, <-failed)
	require.Equal(t, 1, p.Stats().Constructing)

	third := make(chan pool.Conn)
	go func() {
		c, err := p.Get(t.Context(), "tcp", addr)
		require.NoError(t, err)
		third <- c
	}()
	tcptest.WaitUntil(t, "a waiter", func() bool { return p.Stats().Waiting == 1 })
	close(goOn)
	c := <-third
	say(t, c, "late, but there")
	require.NoError(t, c.Close())
	require.EqualValues(t, 1, p.Stats().Dials)
}

func TestADialEndsByItsOwnTimeLimit(t *testing.T) {
	p := newPool(t, &pool.Pool{DialTimeout: time.Nanosecond})
	_, err := p.Get(t.Context(), "tcp", startEcho(t))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	p = newPool(t, &pool.Pool{DialTimeout: -1, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if _, limited := ctx.Deadline(); limited {
			return nil, errors.New("limited")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	require.NoError(t, get(t, p, startEcho(t)).Close())
}

// A service that closes whatever it accepts is dialed a few times, and then its
// borrower may see for himself.
func TestAPeerThatClosesAtOnceIsNotDialedForEver(t *testing.T) {
	s := startServer(t, func(c net.Conn) { c.Close() })
	p := newPool(t, &pool.Pool{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			tcptest.WaitState(t, c.(*net.TCPConn), tcptest.CloseWait)
		}
		return c, err
	}})
	c := get(t, p, s.addr())
	require.EqualValues(t, 3, p.Stats().Dials)
	_, err := c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, c.Close())
	require.EqualValues(t, 3, p.Stats().Closed)
}

// What a server says before it hangs up is for the borrower: "too many
// connections".
func TestWhatAServerSaysBeforeItClosesReachesTheBorrower(t *testing.T) {
	s := startServer(t, func(c net.Conn) {
		c.Write([]byte("full"))
		c.Close()
	})
	p := newPool(t, &pool.Pool{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			tcptest.WaitState(t, c.(*net.TCPConn), tcptest.CloseWait)
		}
		return c, err
	}})
	c := get(t, p, s.addr())
	require.EqualValues(t, 1, p.Stats().Dials)
	b := make([]byte, 4)
	_, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "full", string(b))
	require.NoError(t, c.Close())
}

// The mean time that a connection took to make is DialTime over Opened.
func TestTheTimeOfDialsThatFailIsNotThatOfConns(t *testing.T) {
	p, addr, takes, down := new(pool.Pool), startEcho(t), time.Minute, false
	p.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		pool.Skew(p, takes)
		if down {
			return nil, errors.New("timeout")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	pool.Freeze(p)
	newPool(t, p)
	c := get(t, p, addr)
	takes, down = 1000*time.Hour, true
	_, err := p.Get(t.Context(), "tcp", addr)
	require.Error(t, err)
	n := p.Stats()
	require.EqualValues(t, 2, n.Dials)
	require.EqualValues(t, 1, n.Opened)
	require.GreaterOrEqual(t, n.DialTime, time.Minute)
	require.Less(t, n.DialTime, time.Hour)
	require.NoError(t, c.Close())
}
