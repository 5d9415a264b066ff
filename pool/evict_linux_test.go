package pool_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// idle waits until p has n idle connections.
func idle(t *testing.T, p *pool.Pool, n int) {
	t.Helper()
	tcptest.WaitUntil(t, "idle connections to go", func() bool { return p.Stats().Idle == n })
}

// used returns a connection over which something was said, and the server's end.
func used(t *testing.T, p *pool.Pool, s *server) (pool.Conn, *net.TCPConn) {
	t.Helper()
	c := get(t, p, s.addr())
	say(t, c, "hello")
	return c, s.end(t, c)
}

func TestAnIdleConnWhosePeerClosesIsClosedAtOnce(t *testing.T) {
	for name, hangUp := range map[string]func(*net.TCPConn){
		"FIN": func(c *net.TCPConn) { c.Close() },
		"RST": func(c *net.TCPConn) { tcptest.Reset(t, c) },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, echo)
			p := newPool(t, new(pool.Pool))
			c, end := used(t, p, s)
			other, _ := used(t, p, s)
			local, remote := c.LocalAddr(), c.RemoteAddr()
			require.NoError(t, c.Close())
			require.NoError(t, other.Close())
			tcptest.WaitUntil(t, "the watch", func() bool { return pool.Watched(c) })
			hangUp(end)
			idle(t, p, 1)
			require.EqualValues(t, 1, p.Stats().Discarded.PeerClosed)
			// It does not lie in CLOSE-WAIT.
			tcptest.WaitTable(t, local, remote, tcptest.Absent)
			again := get(t, p, s.addr())
			require.Equal(t, other.LocalAddr(), again.LocalAddr())
			require.NoError(t, again.Close())
			requireBalance(t, p)
		})
	}
}

func TestAPeerThatClosesDuringALoanIsNoticedWhenItEnds(t *testing.T) {
	s := startServer(t, echo)
	p := newPool(t, new(pool.Pool))
	c, end := used(t, p, s)
	end.Close()
	tcptest.WaitUntil(t, "the end", func() bool { closed, _ := c.Watch().PeerClosed(); return closed })
	require.EqualValues(t, 1, p.Stats().Used, "it is the borrower's")
	require.NoError(t, c.Close())
	require.Zero(t, p.Stats().Idle)
	require.EqualValues(t, 1, p.Stats().Discarded.PeerClosed)
}

func TestAPeerThatClosesWhileALoanEndsIsNoticed(t *testing.T) {
	s := startServer(t, echo)
	p := newPool(t, new(pool.Pool))
	c, end := used(t, p, s)
	end.Close()
	tcptest.WaitUntil(t, "the end", func() bool { closed, _ := c.Watch().PeerClosed(); return closed })
	pool.CloseUnseen(c)
	idle(t, p, 0)
	require.EqualValues(t, 1, p.Stats().Discarded.PeerClosed)
}

// Where there are no events, Get asks the socket.
func TestWithoutEventsAClosedPeerIsNoticedByGet(t *testing.T) {
	for name, change := range map[string]func(*pool.Pool){
		"tracker off":   func(p *pool.Pool) { switchOff(t, p.Dialer.Tracker) },
		"other tracker": func(p *pool.Pool) { p.Dial = trackedElsewhere(t) },
		"TLS":           nil,
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, echo)
			tracker := leaktest.Tracker(t, leaktest.IgnoreFindings())
			p := &pool.Pool{MaxConns: 1}
			p.Dialer.Tracker = tracker
			if change == nil {
				switchOff(t, tracker)
				s, p.Dial = echoTLS(t)
			} else {
				change(p)
			}
			newPool(t, p)
			c, end := used(t, p, s)
			require.NoError(t, c.Close())
			c = get(t, p, s.addr())
			require.EqualValues(t, 1, p.Stats().Hits)
			fd := socket(c)
			require.NoError(t, c.Close())
			end.Close()
			tcptest.WaitState(t, fd, tcptest.CloseWait)
			c = get(t, p, s.addr())
			require.EqualValues(t, 1, p.Stats().Discarded.PeerClosed)
			require.EqualValues(t, 2, p.Stats().Dials)
			say(t, c, "on a new one")
			require.NoError(t, c.Close())
		})
	}
}

func switchOff(t *testing.T, tr *tcpstate.Tracker) {
	require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.Off = true }))
}

// The tracker is telemetry: without it the pool goes on.
func TestATrackerThatEndsTakesNoConnAlong(t *testing.T) {
	for name, end := range map[string]func(*tcpstate.Tracker) error{
		"closed":       (*tcpstate.Tracker).Close,
		"switched off": func(tr *tcpstate.Tracker) error { return tr.Set(func(c *tcpstate.Config) { c.Off = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, echo)
			p := newPool(t, new(pool.Pool))
			c, peer := used(t, p, s)
			tcptest.WaitUntil(t, "the watch", func() bool { return pool.Watched(c) })
			require.NoError(t, c.Close())
			require.NoError(t, end(p.Dialer.Tracker))
			c = get(t, p, s.addr())
			require.EqualValues(t, 1, p.Stats().Hits)
			say(t, c, "still there")
			fd := socket(c)
			require.NoError(t, c.Close())
			peer.Close()
			tcptest.WaitState(t, fd, tcptest.CloseWait)
			c = get(t, p, s.addr())
			require.EqualValues(t, 1, p.Stats().Discarded.PeerClosed)
			say(t, c, "on a new one")
			require.NoError(t, c.Close())
		})
	}
}

// socket returns the TCP connection that c lends.
func socket(c pool.Conn) *net.TCPConn {
	nc := c.NetConn()
	for {
		switch v := nc.(type) {
		case *net.TCPConn:
			return v
		case interface{ NetConn() net.Conn }:
			nc = v.NetConn()
		}
	}
}

func trackedElsewhere(t *testing.T) dialFunc {
	other := leaktest.Tracker(t, leaktest.IgnoreFindings())
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return other.Wrap(c, tcpstate.Origin{}), err
	}
}

// echoTLS returns an echo over TLS and who dials it.
func echoTLS(t *testing.T) (*server, dialFunc) {
	serves, dials := tcptest.TLSConfigs(t)
	s := startServer(t, func(c net.Conn) {
		tc := tls.Server(c, serves)
		io.Copy(tc, tc)
	})
	return s, func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&tls.Dialer{Config: dials}).DialContext(ctx, network, address)
	}
}

func TestATLSConnIsKeptAndEvictedLikeOthers(t *testing.T) {
	s, dial := echoTLS(t)
	p := newPool(t, &pool.Pool{Dial: dial})
	c, end := used(t, p, s)
	require.IsType(t, (*tls.Conn)(nil), c.NetConn())
	require.NoError(t, c.Close())
	c = get(t, p, s.addr())
	require.EqualValues(t, 1, p.Stats().Hits)
	say(t, c, "again")
	require.ErrorContains(t, c.SetNoDelay(true), "unsupported")
	require.NoError(t, c.Close())
	tcptest.WaitUntil(t, "the watch", func() bool { return pool.Watched(c) })
	end.Close()
	idle(t, p, 0)
	require.EqualValues(t, 1, p.Stats().Discarded.PeerClosed)
	c = get(t, p, s.addr())
	require.NoError(t, c.CloseWrite())
	require.NoError(t, c.Close())
	require.EqualValues(t, 1, p.Stats().Discarded.Caller)
}

func TestBytesThatNobodyExpectsEndAnIdleConn(t *testing.T) {
	s := startServer(t, echo)
	p := new(pool.Pool)
	pool.Freeze(p)
	newPool(t, p)
	c, end := used(t, p, s)
	w := c.Watch()
	require.NoError(t, c.Close())
	_, err := end.Write([]byte("shutting down"))
	require.NoError(t, err)
	tcptest.WaitUntil(t, "the bytes", func() bool { return w.Snapshot().RecvQueue > 0 })
	pool.Advance(p, time.Second)
	c = get(t, p, s.addr())
	require.EqualValues(t, 1, p.Stats().Discarded.UnreadData)
	require.NoError(t, c.Close())
}

func TestAGreetingIsNotUnexpected(t *testing.T) {
	s := startServer(t, func(c net.Conn) {
		io.WriteString(c, "220 ready")
		echo(c)
	})
	p := &pool.Pool{MinIdleConns: 1}
	pool.Freeze(p)
	newPool(t, p)
	c := get(t, p, s.addr())
	pool.Advance(p, 0)
	idle(t, p, 1) // it was never lent
	pool.Advance(p, 5*time.Second)
	ready := get(t, p, s.addr())
	require.NotEqual(t, c.LocalAddr(), ready.LocalAddr())
	for _, c := range []pool.Conn{c, ready} {
		b := make([]byte, 9)
		_, err := io.ReadFull(c, b)
		require.NoError(t, err)
		require.Equal(t, "220 ready", string(b))
		require.NoError(t, c.Close())
	}
	require.Zero(t, p.Stats().Discarded)
}

// The peer is a black hole: no event tells, and a borrower would wait for long.
func TestAPeerThatVanishedIsFoundByAProbe(t *testing.T) {
	s := startServer(t, echo)
	p := &pool.Pool{ProbeAfter: time.Minute}
	pool.Freeze(p)
	newPool(t, p)
	c, end := used(t, p, s)
	w := c.Watch()
	gone := c.LocalAddr()
	require.NoError(t, c.Close())
	tcptest.Deafen(t, end)
	// A peer that was heard of in the last second is not probed, by the kernel's clock.
	tcptest.WaitUntil(t, "silence", func() bool { return w.Snapshot().Info.LastAckReceived > 1100*time.Millisecond })
	pool.Advance(p, 30*time.Second)
	c = get(t, p, s.addr())
	require.Equal(t, gone, c.LocalAddr(), "not idle for long enough")
	require.NoError(t, c.Close())
	pool.Advance(p, time.Minute)
	c = get(t, p, s.addr())
	require.NotEqual(t, gone, c.LocalAddr())
	require.EqualValues(t, 1, p.Stats().Discarded.ProbeFailed)
	say(t, c, "hello")
	w = c.Watch()
	alive := c.LocalAddr()
	require.NoError(t, c.Close())
	tcptest.WaitUntil(t, "silence", func() bool { return w.Snapshot().Info.LastAckReceived > 1100*time.Millisecond })
	pool.Advance(p, time.Minute)
	c = get(t, p, s.addr())
	require.Equal(t, alive, c.LocalAddr(), "its peer answers")
	require.NoError(t, c.Close())
}

// leaver is the context of a borrower who leaves as soon as he has got a
// connection that has to be checked.
type leaver struct {
	context.Context
	p *pool.Pool
}

func (l leaver) Err() error {
	if l.p.Stats().Used > 0 {
		return context.Canceled
	}
	return nil
}

func (l leaver) Done() <-chan struct{} {
	done := make(chan struct{})
	if l.Err() != nil {
		close(done)
	}
	return done
}

func TestAConnWhoseBorrowerLeavesDuringTheProbeIsProvedForTheNext(t *testing.T) {
	for name, dead := range map[string]bool{"its peer answers": false, "its peer has vanished": true} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, echo)
			p := &pool.Pool{ProbeAfter: time.Minute}
			pool.Freeze(p)
			newPool(t, p)
			c, end := used(t, p, s)
			w, at := c.Watch(), c.LocalAddr()
			require.NoError(t, c.Close())
			if dead {
				tcptest.Deafen(t, end)
			}
			tcptest.WaitUntil(t, "silence", func() bool { return w.Snapshot().Info.LastAckReceived > 1100*time.Millisecond })
			pool.Advance(p, 2*time.Minute)
			_, err := p.Get(leaver{t.Context(), p}, "tcp", s.addr())
			require.Equal(t, context.Canceled, err)
			tcptest.WaitUntil(t, "the probe", func() bool { return p.Stats().Used == 0 })
			n := p.Stats()
			require.EqualValues(t, 1, n.Gets)
			require.Zero(t, n.Hits)
			if dead {
				require.EqualValues(t, 1, n.Discarded.ProbeFailed)
				return
			}
			require.Equal(t, 1, n.Idle)
			requireBalance(t, p)
			tcptest.Deafen(t, end) // it need not be asked again so soon
			tcptest.WaitUntil(t, "silence", func() bool { return w.Snapshot().Info.LastAckReceived > 1100*time.Millisecond })
			c = get(t, p, s.addr())
			require.Equal(t, at, c.LocalAddr())
			require.NoError(t, c.Discard())
		})
	}
}

// Of a socket with SO_LINGER, close(2) waits until the peer has acknowledged
// everything, also for Go's sockets that never block.
func TestASocketThatLingersKeepsNoOtherOpen(t *testing.T) {
	s := startServer(t, echo)
	p := newPool(t, &pool.Pool{CloseTimeout: time.Hour})
	slow, slowEnd := used(t, p, s)
	quick, quickEnd := used(t, p, s)
	for _, c := range []pool.Conn{slow, quick} {
		tcptest.WaitUntil(t, "the watch", func() bool { return pool.Watched(c) })
		require.NoError(t, c.SetLinger(600))
	}
	slowAt, slowTo, quickAt, quickTo := slow.LocalAddr(), slow.RemoteAddr(), quick.LocalAddr(), quick.RemoteAddr()
	require.NoError(t, slow.Close())
	require.NoError(t, quick.Close())
	heal := tcptest.Deafen(t, slowEnd)
	require.NoError(t, slowEnd.CloseWrite())
	idle(t, p, 1)
	tcptest.WaitTable(t, slowAt, slowTo, tcptest.LastAck) // it is being closed, and nobody answers
	require.NoError(t, quickEnd.CloseWrite())
	idle(t, p, 0)
	tcptest.WaitTable(t, quickAt, quickTo, tcptest.Absent)
	tcptest.WaitTable(t, slowAt, slowTo, tcptest.LastAck)
	heal()
}
