package tcpstate_test

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestAServerThatDoesNotReadIsToldThatItsClientLeft(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.say(c, "hello", s)
	_, err := io.WriteString(c, "more")
	require.NoError(t, err)
	r.closes(c, s.TCPConn)
	f := r.opens(tcpstate.KindCloseWaitNotReading)
	require.Equal(t, 4, f.Evidence.RecvQueue)
	require.Equal(t, uint64(9), f.Evidence.BytesIn)
	require.Equal(t, tcpstate.CloseWait, f.State)
	require.Equal(t, "accept", f.Sites[0].Role)
	require.False(t, f.Evidence.EOFRead)
	r.clears(s)
}

func TestAnMPTCPConnectionThatIsNotReadIsReportedAlthoughItsStateSaysEstablished(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted(tcptest.MPTCP(true))
	r.say(c, "hello", s)
	require.NoError(t, c.Close())
	tcptest.WaitUntil(t, "the FIN", func() bool {
		r.clk.Settle()
		return !(tcpstate.Of(s).Snapshot().PeerClosed.IsZero())
	})
	f := r.opens(tcpstate.KindCloseWaitNotReading)
	require.Equal(t, tcpstate.CloseWait, f.State)
	require.True(t, f.Subject.MPTCP)
	r.clears(s)
}

func TestAReadLoopThatEndsWithoutCloseIsReportedAtItsLine(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.say(c, "hello", s)
	r.closes(c, s.TCPConn)
	_, err := s.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	f := r.opens(tcpstate.KindCloseWaitEOFSeen)
	require.Equal(t, "eof", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "TestAReadLoopThatEndsWithoutClose")
	require.True(t, f.Evidence.EOFRead)
	r.clears(s)
}

func TestAConnectionGivenUpAfterADeadlineIsReportedAtItsLine(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.say(c, "hello", s)
	require.NoError(t, s.SetReadDeadline(time.Unix(1, 0)))
	_, err := s.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	r.clk.Advance(100 * time.Second)
	r.silent() // the peer is there
	r.closes(c, s.TCPConn)
	f := r.opens(tcpstate.KindCloseWaitErrorPath)
	require.Equal(t, "error", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "TestAConnectionGivenUpAfterADeadline")
	require.Greater(t, time.Duration(f.Evidence.AppRead), 2*time.Minute, "the age of the Read, not of the FIN")
	r.clears(s)
}

func TestACopyThatFailedInItsDestinationLeavesItsSourceToBeClosed(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	dst, dstPeer := tcptest.Pair(t)
	tcptest.Reset(t, dstPeer)
	tcptest.WaitState(t, dst, tcptest.Closed)
	_, err := io.WriteString(c, "for the destination")
	require.NoError(t, err)
	_, err = io.Copy(dst, s)
	require.Error(t, err)
	r.closes(c, s.TCPConn)
	f := r.opens(tcpstate.KindCloseWaitErrorPath)
	require.Contains(t, f.Sites[0].Frames[0].Function, "TestACopyThatFailed")
	r.clears(s)
}

func TestAnAcceptedConnectionThatNobodyTouchedIsReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
	require.NoError(t, err)
	r.closes(c, s.TCPConn)
	f := r.opens(tcpstate.KindCloseWaitNeverRead)
	require.Equal(t, 18, f.Evidence.RecvQueue)
	require.False(t, f.Evidence.EverRead)
	require.Equal(t, "accept", f.Sites[0].Role)
	r.clears(s)
}

func TestABodyThatNobodyClosesIsReportedAtItsRequest(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{})
	u := r.tr.NewUsage(context.Background(), tcpstate.Use{Method: "GET", Name: "orders"})
	u.Attach(c.Watch())
	r.say(c, "GET /orders\r\n", s)
	r.say(s, "HTTP/1.1 200 OK", c)
	_, err := s.Write(make([]byte, 16060))
	require.NoError(t, err)
	r.closes(s, c.TCPConn)
	f := r.opens(tcpstate.KindCloseWaitUnreadBody)
	require.Equal(t, 16060, f.Evidence.RecvQueue)
	require.Equal(t, "GET orders", f.Subject.Use)
	require.Equal(t, "request", f.Sites[0].Role)
	require.Contains(t, f.Summary, "16,060 bytes")
	u.End()
	r.clears(c)
}

func TestAPooledConnectionThatItsServerClosesIsInventory(t *testing.T) {
	for name, expect := range map[string]tcpstate.Expect{"declared": {Pooled: true}, "undeclared": {}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c, s := r.dialed(expect)
			r.say(c, "PING", s)
			time.Sleep(2 * time.Millisecond) // the kernel's ages are in milliseconds
			r.say(s, "PONG", c)
			r.closes(s, c.TCPConn)
			r.clk.Advance(3 * time.Second)
			f := r.one(tcpstate.KindCloseWaitIdleInPool)
			require.Equal(t, tcpstate.Inventory, f.Severity)
			require.Empty(t, f.Consequence)
			r.clk.Advance(95 * time.Second)
			require.Equal(t, f.ID, r.one(tcpstate.KindCloseWaitIdleInPool).ID, "it never becomes an alarm by itself")

			u := r.tr.NewUsage(context.Background(), tcpstate.Use{}) // and is found dead when it is taken out
			u.Attach(c.Watch())
			r.clk.Advance(11 * time.Second)
			require.Empty(t, r.tr.Findings())
			u.End()
			require.NoError(t, c.Close())
		})
	}
}

func TestADeadSocketIsReportedWithWhatKilledIt(t *testing.T) {
	t.Run("reset", func(t *testing.T) {
		r := newRig(t)
		s, c := r.accepted()
		r.say(c, "hello", s)
		tcptest.Reset(t, c)
		tcptest.WaitState(t, s, tcptest.Closed)
		f := r.opens(tcpstate.KindLeakDeadSocket)
		require.Equal(t, "reset", f.Cause)
		require.Equal(t, tcpstate.Closed, f.State)
		require.Negative(t, f.Evidence.PeerFIN)
		r.clears(s)
	})
	t.Run("a reset that a parked reader takes", func(t *testing.T) {
		r := newRig(t)
		s, c := r.accepted()
		require.NoError(t, s.CloseWrite())
		got := make(chan error)
		go func() { _, err := s.Read(make([]byte, 1)); got <- err }()
		time.Sleep(10 * time.Millisecond) // until it is parked; if it is not, it reads the same
		tcptest.Reset(t, c)
		require.ErrorIs(t, <-got, unix.ECONNRESET)
		_, err := s.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err, "what the kernel says the second time")
		f := r.opens(tcpstate.KindLeakDeadSocket)
		require.Equal(t, "reset", f.Cause)
		r.clears(s)
	})
	t.Run("timeout", func(t *testing.T) {
		r := newRig(t)
		s, c := r.accepted()
		tcptest.SetTimers(t, s, tcptest.Timers{UserTimeout: 700 * time.Millisecond})
		tcptest.Deafen(t, c)
		_, err := io.WriteString(s, "is anybody there?")
		require.NoError(t, err)
		tcptest.WaitState(t, s, tcptest.Closed)
		f := r.opens(tcpstate.KindLeakDeadSocket)
		require.Equal(t, "timeout", f.Cause)
		r.clears(s)
	})
	t.Run("clean end", func(t *testing.T) {
		r := newRig(t)
		s, c := r.accepted()
		require.NoError(t, s.CloseWrite())
		require.NoError(t, c.Close())
		_, err := s.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		tcptest.WaitState(t, s, tcptest.Closed)
		f := r.opens(tcpstate.KindLeakDeadSocket)
		require.Equal(t, "clean_end", f.Cause)
		r.clears(s)
	})
}

// TestTheLeakThatVanishesFromSSStaysOneFinding: when the peer's FIN-WAIT-2 ends,
// the next keepalive probe draws a reset, and the socket is in no table any
// more. It is the same leak.
func TestTheLeakThatVanishesFromSSStaysOneFinding(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.say(c, "hello", s)
	tcptest.SetTimers(t, s, tcptest.Timers{Idle: time.Second, Interval: time.Second, Count: 9})
	setLinger2(t, c, 1)
	r.closes(c, s.TCPConn)
	before := r.opens(tcpstate.KindCloseWaitNotReading)

	tcptest.WaitState(t, s, tcptest.Closed)
	r.clk.Advance(time.Second)
	after := r.one(tcpstate.KindLeakDeadSocket)
	require.Equal(t, before.ID, after.ID)
	require.Equal(t, before.Since, after.Since)
	require.Equal(t, before.Group.ID, after.Group.ID)
	require.Equal(t, "reset", after.Cause)
	require.Contains(t, after.Summary, "CLOSE-WAIT")

	events := r.rec.await(t, 3)
	require.Equal(t, "opened", events[0].what)
	require.Equal(t, "cleared", events[1].what)
	require.Equal(t, tcpstate.KindLeakDeadSocket, events[1].Became)
	require.Equal(t, "changed", events[2].what)
	require.Equal(t, tcpstate.KindCloseWaitNotReading, events[2].Was)
	require.Equal(t, before.ID, events[2].ID)
	r.clears(s)
}

// setLinger2 shortens how long the kernel keeps c in FIN-WAIT-2 after Close.
func setLinger2(t *testing.T, c *net.TCPConn, seconds int) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	var serr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_LINGER2, seconds)
	}))
	require.NoError(t, serr)
}

func TestWithoutTheWrapperTheKernelIsEvidenceEnough(t *testing.T) {
	attached := func(r *rig) (s, c *net.TCPConn) {
		c, s = tcptest.Pair(r.T)
		require.True(r, r.tr.Attach(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"}))
		r.clk.Advance(2 * time.Second)
		return s, c
	}
	t.Run("a close that nobody answers", func(t *testing.T) {
		r := newRig(t)
		s, c := attached(r)
		r.closes(c, s)
		f := r.opens(tcpstate.KindCloseWaitNotReading)
		require.False(t, f.Evidence.ReadsSeen)
		require.Contains(t, f.Summary, "not known")
		require.NoError(t, s.Close())
		r.clk.Advance(12 * time.Second) // noticed by the sweep
		require.Empty(t, r.tr.Findings())
	})
	t.Run("a reset", func(t *testing.T) {
		r := newRig(t)
		s, c := attached(r)
		tcptest.Reset(t, c)
		tcptest.WaitState(t, s, tcptest.Closed)
		require.Equal(t, "reset", r.opens(tcpstate.KindLeakDeadSocket).Cause)
	})
	t.Run("a reset that a parked reader takes", func(t *testing.T) {
		r := newRig(t)
		s, c := attached(r)
		got := make(chan error)
		go func() { _, err := s.Read(make([]byte, 1)); got <- err }()
		time.Sleep(10 * time.Millisecond) // until it is parked; if it is not, the cause is known
		tcptest.Reset(t, c)
		require.ErrorIs(t, <-got, unix.ECONNRESET)
		require.Contains(t, []string{"unknown", "reset"}, r.opens(tcpstate.KindLeakDeadSocket).Cause)
	})
	t.Run("our CloseRead is no close of the peer", func(t *testing.T) {
		r := newRig(t)
		s, _ := attached(r)
		require.NoError(t, s.CloseRead())
		r.clk.Advance(95 * time.Second)
		r.silent()
	})
}

func TestAConnectionDroppedWithoutCloseIsReported(t *testing.T) {
	r := newRig(t)
	lose(r)
	r.collects()
	f := r.one(tcpstate.KindLeakCollected)
	require.Equal(t, "accept", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[1].Function, "lose")
	require.Equal(t, "opened", r.rec.await(t, 1)[0].what)
}

func TestALeakThatIsCollectedAtLastIsTheSameFinding(t *testing.T) {
	r := newRig(t)
	before := leakAndDrop(r)
	r.collects()
	after := r.one(tcpstate.KindLeakCollected)
	require.Equal(t, before.ID, after.ID)
	require.Equal(t, before.Since, after.Since)
	events := r.rec.await(t, 3)
	require.Equal(t, []string{"opened", "cleared", "changed"}, []string{events[0].what, events[1].what, events[2].what})
	require.Equal(t, tcpstate.KindLeakCollected, events[1].Became)
}

func TestManyLeaksFromOneLineAreOneReport(t *testing.T) {
	r := newRig(t)
	const n = 200
	ln := tcptest.Listen(t)
	for range n {
		c := tcptest.Connect(t, ln)
		s, err := ln.AcceptTCP()
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		r.tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
		require.NoError(t, c.Close())
		tcptest.WaitState(t, s, tcptest.CloseWait)
	}
	r.clk.Advance(35 * time.Second)
	require.Len(t, r.tr.Findings(), n)
	require.Equal(t, "opened", r.rec.await(t, 1)[0].what)
	require.Equal(t, []tcpstate.FindingCount{{
		Kind: tcpstate.KindCloseWaitNeverRead, Severity: tcpstate.Warning, Name: "api", Role: tcpstate.Server,
		Frame: r.tr.Findings()[0].Sites[0].Frames[0], Open: n, Opened: n, ID: r.tr.Findings()[0].Group.ID,
	}}, r.tr.FindingCounts())
	r.clk.Advance(3 * time.Minute)
	require.LessOrEqual(t, len(r.rec.all()), 2)
	require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Off = true }))
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings())
	tcptest.WaitUntil(t, "the end", func() bool { all := r.rec.all(); return all[len(all)-1].what == "cleared" })
	require.LessOrEqual(t, len(r.rec.all()), 3)
}

// unheld is accepted, but for that nothing in the test holds the connection:
// tcptest.Pair would.
//
//go:noinline
func (r *rig) unheld() (server *tcpstate.Conn, client *net.TCPConn) {
	r.Helper()
	ln := tcptest.Listen(r)
	client = tcptest.Connect(r, ln)
	s, err := ln.AcceptTCP()
	require.NoError(r, err)
	server = r.tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
	r.clk.Advance(2 * time.Second)
	return server, client
}

//go:noinline
func lose(r *rig) { r.unheld() }

//go:noinline
func leakAndDrop(r *rig) tcpstate.Finding {
	s, c := r.unheld()
	r.say(c, "hello", s)
	r.closes(c, s.TCPConn)
	return r.opens(tcpstate.KindCloseWaitNotReading)
}
