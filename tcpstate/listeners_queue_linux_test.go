package tcpstate_test

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// served is a listener as package listener has it.
type served struct {
	*net.TCPListener
	l  *tcpstate.Listening
	tr *tcpstate.Tracker
}

func (s *served) Accept() (net.Conn, error) {
	s.l.Accepting()
	c, err := s.TCPListener.Accept()
	return s.l.Accepted(c, err, true), err
}

func (r *rig) listens(serving bool) *served {
	r.Helper()
	ln := tcptest.Listen(r.T)
	s := &served{ln, r.tr.AddListener(ln, tcpstate.Origin{Role: tcpstate.Server, Name: "api", Target: ln.Addr().String()}), r.tr}
	if serving {
		s.l.Serving()
	}
	r.Cleanup(func() { s.l.Remove(0) })
	r.clk.Settle()
	return s
}

// queues waits until n connections are in the accept queue.
func (r *rig) queues(s *served, n int) {
	r.Helper()
	tcptest.WaitUntil(r, "the accept queue", func() bool {
		for l := range r.tr.Listeners() {
			return l.Queue == n
		}
		return false
	})
}

// queued connects n clients and waits until they are in the accept queue,
// together with those that wait there already.
func (r *rig) queued(s *served, n, all int) {
	r.Helper()
	for range n {
		tcptest.Connect(r, s.TCPListener)
	}
	r.queues(s, all)
}

// accepts takes n connections from the queue and greets their clients.
func (r *rig) accepts(s *served, n int) {
	r.Helper()
	for range n {
		c, err := s.Accept()
		require.NoError(r, err)
		r.Cleanup(func() { c.Close() })
		_, err = c.Write([]byte("hello"))
		require.NoError(r, err)
	}
}

// holds limits the accept queue: one more fits in before handshakes are dropped.
func (r *rig) holds(s *served, n int) {
	r.Helper()
	raw, err := s.SyscallConn()
	require.NoError(r, err)
	require.NoError(r, raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), n) }))
	require.NoError(r, err)
}

func TestClientsThatNobodyAcceptsAreReported(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	r.queued(ln, 2, 2)
	r.clk.Advance(10 * time.Second) // the sweep
	r.silent()
	r.clk.Advance(11 * time.Second)
	f := r.one(tcpstate.KindListenerNotAccepting)
	require.Equal(t, tcpstate.SubjectListener, f.Subject.Type)
	require.Equal(t, tcpstate.Error, f.Severity)
	require.Equal(t, "never_accepted", f.Cause)
	require.Equal(t, "listen", f.Sites[0].Role)
	require.Contains(t, f.Summary, "2 connections wait")

	r.accepts(ln, 1)
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings(), "somebody accepts, however slowly")
	require.Equal(t, "cleared", r.rec.await(t, 2)[1].what)
}

func TestAnAcceptLoopThatHangsIsReportedWithItsLine(t *testing.T) {
	r := newRig(t)
	ln := r.listens(false)
	r.queued(ln, 3, 3)
	r.clk.Advance(tripled)
	r.silent() // it may be served by somebody else, or not be served yet
	r.accepts(ln, 1)
	r.clk.Advance(13 * time.Second)
	f := r.one(tcpstate.KindListenerNotAccepting)
	require.Empty(t, f.Cause)
	require.Equal(t, "accept", f.Sites[1].Role)
	require.Contains(t, f.Sites[1].Frames[1].Function, "accepts")
	require.Contains(t, f.Summary, "the last Accept returned 13s ago")
	r.accepts(ln, 2)
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings())
}

func TestAnAcceptThatFailsIsReportedWithItsError(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	r.queued(ln, 1, 1)
	fail := func(err error) {
		ln.l.Accepting()
		ln.l.Accepted(nil, &net.OpError{Op: "accept", Net: "tcp", Addr: ln.Addr(), Err: os.NewSyscallError("accept4", err)}, true)
	}
	for range 25 {
		fail(syscall.EMFILE)
		r.clk.Advance(time.Second)
	}
	f := r.one(tcpstate.KindListenerNotAccepting)
	require.Equal(t, "accept_fails", f.Cause)
	require.Contains(t, f.Summary, "every Accept fails: accept4: too many open files.")
	for l := range r.tr.Listeners() {
		require.ErrorIs(t, l.LastError, syscall.EMFILE)
		require.Equal(t, uint64(25), l.Failed)
		require.Equal(t, []tcpstate.Kind{tcpstate.KindListenerNotAccepting}, l.Findings)
		require.Zero(t, l.Accepting)
	}
}

func TestAQueueThatIsTakenFromIsNotReported(t *testing.T) {
	t.Run("a burst", func(t *testing.T) {
		r := newRig(t)
		ln := r.listens(true)
		r.clk.Advance(9 * time.Second)
		r.queued(ln, 20, 20)
		r.clk.Advance(time.Second)
		r.accepts(ln, 20)
		r.clk.Advance(30 * time.Second)
		r.silent()
	})
	t.Run("slowly", func(t *testing.T) {
		r := newRig(t)
		ln := r.listens(true)
		r.queued(ln, 8, 8)
		for range 7 {
			r.clk.Advance(9 * time.Second)
			r.accepts(ln, 1)
		}
		r.silent()
	})
	t.Run("by a server that has nothing to do", func(t *testing.T) {
		r := newRig(t)
		ln := r.listens(true)
		done := make(chan error)
		go func() { _, err := ln.Accept(); done <- err }()
		r.clk.Advance(tripled)
		r.silent()
		require.NoError(t, ln.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
	})
	t.Run("not any more, as declared", func(t *testing.T) {
		r := newRig(t)
		ln := r.listens(true)
		r.queued(ln, 2, 2)
		ln.l.Drain(30 * time.Second)
		r.clk.Advance(tripled)
		r.silent()
		for l := range r.tr.Listeners() {
			require.True(t, l.Draining)
		}
	})
}

func TestAListenerThatDrainsOrEndsTakesItsFindingAlong(t *testing.T) {
	for name, end := range map[string]func(*served){
		"off": func(s *served) {
			require.NoError(t, s.tr.Set(func(c *tcpstate.Config) { c.Off = true }))
		},
		"drain":             func(s *served) { s.l.Drain(0) },
		"remove":            func(s *served) { s.l.Remove(0) },
		"closed underneath": func(s *served) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			ln := r.listens(true)
			r.queued(ln, 2, 2)
			r.clk.Advance(22 * time.Second)
			r.one(tcpstate.KindListenerNotAccepting)
			end(ln)
			r.clk.Advance(2 * time.Second)
			require.Empty(t, r.tr.Findings())
		})
	}
}

func TestAnAcceptQueueOverItsLimitIsReported(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	r.holds(ln, 2)
	r.queued(ln, 3, 3)
	r.clk.Advance(12 * time.Second)
	r.silent()
	r.clk.Advance(time.Second)
	f := r.one(tcpstate.KindListenerOverflow)
	require.Equal(t, tcpstate.Error, f.Severity)
	require.Contains(t, f.Summary, "3 connections wait to be accepted, the limit is 2. None was accepted")
	r.clk.Advance(10 * time.Second)
	after := r.one(tcpstate.KindListenerNotAccepting)
	require.Equal(t, f.ID, after.ID, "the reason of the same fault")
	r.accepts(ln, 1)
	r.clk.Advance(time.Second)
	r.one(tcpstate.KindListenerOverflow)
	r.clk.Advance(5 * time.Second)
	require.Empty(t, r.tr.Findings())
}

func TestAnAcceptQueueThatHasRoomIsNotReported(t *testing.T) {
	t.Run("nearly full", func(t *testing.T) {
		r := newRig(t)
		ln := r.listens(true)
		r.holds(ln, 5)
		r.queued(ln, 5, 5)
		for range 10 {
			r.clk.Advance(3 * time.Second)
			r.accepts(ln, 1)
			r.queued(ln, 1, 5)
		}
		r.silent()
	})
	t.Run("over its limit for a moment", func(t *testing.T) {
		r := newRig(t)
		ln := r.listens(true)
		r.holds(ln, 2)
		r.clk.Advance(9 * time.Second)
		r.queued(ln, 3, 3)
		r.clk.Advance(2 * time.Second)
		r.accepts(ln, 2)
		r.clk.Advance(2 * time.Second)
		r.accepts(ln, 1)
		r.clk.Advance(30 * time.Second)
		r.silent()
	})
	t.Run("while the neighbour's overflows", func(t *testing.T) {
		r := newRig(t)
		ln := r.listens(true)
		other := &served{TCPListener: tcptest.Listen(t)}
		r.holds(other, 1)
		for range 2 {
			tcptest.Connect(t, other.TCPListener)
		}
		r.queued(ln, 1, 1)
		r.accepts(ln, 1)
		r.clk.Advance(30 * time.Second)
		r.silent()
	})
}

// headerListener reads a line from each connection inside its Accept.
type headerListener struct{ net.Listener }

func (l headerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for b := []byte{0}; b[0] != '\n'; {
		if _, err := c.Read(b); err != nil {
			return c, nil
		}
	}
	return c, nil
}

func TestAnAcceptThatReadsFromASilentClientIsReported(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	outer := headerListener{ln}
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := outer.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	mute := tcptest.Connect(t, ln.TCPListener)
	tcptest.WaitUntil(t, "the Read inside Accept", func() bool { return r.tr.Stats().Open == 1 && tcpstate.Inside(ln.l) })
	behind := []*net.TCPConn{tcptest.Connect(t, ln.TCPListener), tcptest.Connect(t, ln.TCPListener)}
	r.queues(ln, 2)
	r.clk.Advance(15 * time.Second)
	r.silent()
	r.clk.Advance(3 * time.Second)
	f := r.one(tcpstate.KindListenerBlockedInAccept)
	require.Equal(t, tcpstate.Error, f.Severity)
	require.Equal(t, "read", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "headerListener.Accept")
	require.Equal(t, mute.LocalAddr().String(), f.Subject.Remote)
	require.Contains(t, f.Summary, "2 connections wait behind it")
	require.NotContains(t, f.Summary, "127.0.0.1", "the address of a client is for the terminal only")

	require.NoError(t, mute.Close())
	for _, c := range behind {
		require.NoError(t, c.Close())
	}
	for range 3 {
		require.NoError(t, (<-accepted).Close())
	}
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings())
	require.NoError(t, ln.Close())
	_, ok := <-accepted
	require.False(t, ok)
}

func TestAServerThatReadsOutsideOfAcceptIsNotBlockedInIt(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	c := tcptest.Connect(t, ln.TCPListener)
	s, err := ln.Accept()
	require.NoError(t, err)
	go s.Read(make([]byte, 1)) // its client is silent
	r.queued(ln, 1, 1)
	r.clk.Advance(16 * time.Second)
	r.silent()
	r.clk.Advance(6 * time.Second)
	r.one(tcpstate.KindListenerNotAccepting)
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
}
