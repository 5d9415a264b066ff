package tcpstate_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// lingering waits, with the clock standing still but for the looks, until the
// kernel has sent the FIN of the one closed socket again so often.
func (r *rig) lingering(retries int) tcpstate.ClosingSnapshot {
	r.Helper()
	var last tcpstate.ClosingSnapshot
	tcptest.WaitUntil(r, "a socket that lingers", func() bool {
		r.clk.Advance(1100 * time.Millisecond) // so that it is looked at
		for s := range r.tr.Closing() {
			last = s
		}
		return last.ID != 0 && last.Retries >= retries
	})
	return last
}

// goneSoon waits until no closed socket is followed.
func (r *rig) goneSoon() {
	r.Helper()
	tcptest.WaitUntil(r, "the sockets to be gone", func() bool {
		r.clk.Advance(5 * time.Second)
		return r.tr.Stats().Closing == 0
	})
}

func TestAFINThatNobodyAcknowledgesIsReported(t *testing.T) {
	for _, tt := range []struct {
		name  string
		state tcpstate.State
		enter func(r *rig, c *tcpstate.Conn, s *net.TCPConn)
	}{
		{"FIN-WAIT-1", tcpstate.FinWait1, func(*rig, *tcpstate.Conn, *net.TCPConn) {}},
		{"LAST-ACK", tcpstate.LastAck, func(r *rig, c *tcpstate.Conn, s *net.TCPConn) {
			require.NoError(r, s.CloseWrite())
			tcptest.WaitState(r, c, tcptest.CloseWait)
			r.clk.Settle()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.FINUnacked = time.Hour }))
			c, s := r.dialed(tcpstate.Expect{Pooled: true})
			r.say(c, "hello", s)
			tt.enter(r, c, s)
			heal := tcptest.Deafen(t, s)
			require.NoError(t, c.Close())
			at := r.clk.Now()

			l := r.lingering(3)
			require.Equal(t, c.Watch().ID(), l.ID)
			require.Equal(t, tt.state, l.State)
			require.Equal(t, 1, l.SendQueue)
			require.Equal(t, "db", l.Name)
			require.Equal(t, "dial", l.Site.Role)
			require.Equal(t, at, l.Closed)
			require.Empty(t, r.tr.Findings())

			require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.FINUnacked = 0 }))
			r.clk.Advance(10 * time.Second)
			f := r.one(tcpstate.KindClosingFINUnacked)
			require.Equal(t, tt.state, f.State)
			require.Equal(t, tcpstate.Warning, f.Severity)
			require.Equal(t, c.Watch().ID(), f.Subject.ID)
			require.Equal(t, 1, f.Evidence.SendQueue)
			require.GreaterOrEqual(t, f.Evidence.Timeouts, uint8(3))
			require.Equal(t, uint64(5), f.Evidence.BytesOut)
			require.Equal(t, at, f.Since)
			require.False(t, f.Subject.Conn.Open())

			heal()
			tcptest.Reset(t, s)
			r.goneSoon()
			require.Empty(t, r.tr.Findings())
			require.Equal(t, "cleared", r.rec.await(t, 2)[1].what)
		})
	}
}

func TestAnOrdinaryCloseIsFollowedNoFurther(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{})
	r.say(c, "hello", s)
	require.NoError(t, c.Close())
	tcptest.WaitTable(t, c.LocalAddr(), c.RemoteAddr(), tcptest.FinWait2)
	_, err := s.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	r.clk.Advance(3 * time.Second)
	require.Zero(t, r.tr.Stats().Closing)
	require.False(t, tcpstate.Running(r.tr))
	r.silent()
}

func TestBytesThatThePeerDoesNotTakeAfterCloseAreReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted(tcptest.SmallBuffers())
	written := tcptest.FillWindow(t, s.TCPConn)
	require.NoError(t, s.Close())
	l := r.lingering(0)
	require.True(t, l.NoWindow)
	require.Equal(t, tcpstate.FinWait1, l.State)
	require.Equal(t, "close", l.Site.Role)
	require.Contains(t, l.Site.Frames[0].Function, "TestBytesThatThePeerDoesNotTake")
	require.Greater(t, l.SendQueue, 1)

	r.clk.Advance(26 * time.Second)
	require.Empty(t, r.tr.Findings())
	r.clk.Advance(5 * time.Second)
	f := r.one(tcpstate.KindClosingDataUndelivered)
	require.Equal(t, "close", f.Sites[0].Role)
	require.Equal(t, l.SendQueue, f.Evidence.SendQueue)
	require.True(t, f.Evidence.NoWindow)

	rest := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, c)
		rest <- n
	}()
	require.EqualValues(t, written, <-rest, "a peer that reads after all gets everything")
	r.goneSoon()
	require.Empty(t, r.tr.Findings())
}

// What drains slowly after Close is delivered: the clock starts again.
func TestBytesThatThePeerTakesSlowlyAfterCloseAreNotReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	tcptest.FillWindow(t, s.TCPConn)
	require.NoError(t, s.Close())
	before := r.lingering(0).SendQueue
	for range 5 {
		r.clk.Advance(20 * time.Second)
		require.Empty(t, r.tr.Findings())
		_, err := io.ReadFull(c, make([]byte, 2<<20))
		if err != nil {
			break
		}
		tcptest.WaitUntil(t, "the queue to move", func() bool {
			r.clk.Advance(time.Second)
			for l := range r.tr.Closing() {
				moved := l.SendQueue < before
				before = min(before, l.SendQueue)
				return moved
			}
			return true
		})
	}
	r.silent()
}

// ss and the library agree on which sockets wait for their peer.
func TestClosingIsWhatTheKernelTells(t *testing.T) {
	r := newRig(t)
	keep, _ := r.accepted()
	want := make(map[string]uint8)
	for i := range 12 {
		c, s := r.dialed(tcpstate.Expect{})
		switch i % 4 {
		case 0: // FIN-WAIT-1
			tcptest.Deafen(t, s)
		case 1: // LAST-ACK
			require.NoError(t, s.CloseWrite())
			tcptest.WaitState(t, c, tcptest.CloseWait)
			tcptest.Deafen(t, s)
		case 2: // FIN-WAIT-2
		case 3: // TIME-WAIT
			require.NoError(t, s.Close())
		}
		require.NoError(t, c.Close())
		if i%4 < 2 {
			want[c.LocalAddr().String()] = map[int]uint8{0: tcptest.FinWait1, 1: tcptest.LastAck}[i%4]
		} else {
			tcptest.WaitUntil(t, "the FIN to be acknowledged", func() bool {
				st := tcptest.TableState(t, c.LocalAddr(), c.RemoteAddr())
				return st == tcptest.FinWait2 || st == tcptest.TimeWait || st == tcptest.Absent
			})
		}
	}
	r.clk.Advance(3 * time.Second)
	got := make(map[string]uint8)
	for l := range r.tr.Closing() {
		got[l.Local.String()] = uint8(l.State)
		require.Equal(t, tcptest.TableState(t, l.Local, l.Remote), uint8(l.State))
	}
	require.Equal(t, want, got)
	require.Equal(t, len(want), r.tr.Stats().Closing)
	require.NoError(t, keep.Close())
	require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Off = true }))
	r.clk.Advance(2 * time.Second)
	require.Zero(t, r.tr.Stats().Closing)
	require.False(t, tcpstate.Running(r.tr))
}

func TestWithoutLookupsOnlyWhatFollowsCloseIsMissing(t *testing.T) {
	r := newRig(t)
	lost := errors.New("a sandbox")
	tcpstate.SetSeam(r.tr, tcpstate.Seam{
		Diag:    func() (tcpstate.Diagnoser, error) { return nil, lost },
		Orphans: func() (int, error) { return 1, nil },
	})
	keep, peer := r.accepted()
	c, s := r.accepted()
	tcptest.Deafen(t, s)
	require.NoError(t, c.Close())
	r.clk.Advance(5 * time.Second)
	require.Zero(t, r.tr.Stats().Closing)
	r.degraded("sock_diag", "a sandbox")
	require.ElementsMatch(t, facility(t, r.tr, "sock_diag").Kinds, []tcpstate.Kind{
		tcpstate.KindClosingFINUnacked, tcpstate.KindClosingDataUndelivered, tcpstate.KindPeerKeepsHalfOpen,
	})
	r.closes(peer, keep.TCPConn)
	r.opens(tcpstate.KindCloseWaitNeverRead)
	require.NoError(t, keep.Close())
}

// Without sockstat every closed socket is looked up.
func TestWithoutSockstatSocketsAreFollowedAllTheSame(t *testing.T) {
	r := newRig(t)
	tcpstate.SetSeam(r.tr, tcpstate.Seam{Orphans: func() (int, error) { return 0, errors.New("no proc") }})
	keep, _ := r.accepted()
	c, s := r.dialed(tcpstate.Expect{})
	tcptest.Deafen(t, s)
	require.NoError(t, c.Close())
	require.Equal(t, c.Watch().ID(), r.lingering(1).ID)
	r.degraded("sockstat", "no proc")
	require.NoError(t, keep.Close())
}

// Lookups that fail are tried again later: descriptors may run out for a while.
func TestLookupsAreTriedAgain(t *testing.T) {
	r := newRig(t)
	var fails atomic.Bool
	fails.Store(true)
	tcpstate.SetSeam(r.tr, tcpstate.Seam{Diag: func() (tcpstate.Diagnoser, error) {
		if fails.Load() {
			return nil, errors.New("too many open files")
		}
		return tcpstate.OpenDiag()
	}, Orphans: func() (int, error) { return 1, nil }})
	keep, _ := r.accepted()
	closes := func() {
		c, s := r.dialed(tcpstate.Expect{})
		tcptest.Deafen(t, s)
		require.NoError(t, c.Close())
		r.clk.Advance(3 * time.Second)
	}
	closes()
	fails.Store(false)
	closes()
	require.Zero(t, r.tr.Stats().Closing, "not so soon")
	r.clk.Advance(time.Minute)
	closes()
	require.Equal(t, 1, r.tr.Stats().Closing)
	require.True(t, facility(t, r.tr, "sock_diag").OK)
	require.NoError(t, keep.Close())
}

// Go's listeners make sockets for MPTCP, and their connections with plain
// clients are TCP.
func TestSocketsOfEveryMakeAreFollowed(t *testing.T) {
	for name, listen := range map[string]func(t *testing.T) net.Listener{
		"IPv6": func(t *testing.T) net.Listener { return tcptest.Listen(t, tcptest.IPv6()) },
		"the default of Go": func(t *testing.T) net.Listener {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			return ln
		},
		"IPv4 in a socket of IPv6": func(t *testing.T) net.Listener {
			ln, err := net.Listen("tcp", ":0")
			require.NoError(t, err)
			return ln
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			ln := listen(t)
			t.Cleanup(func() { ln.Close() })
			address := ln.Addr().String()
			if strings.HasPrefix(address, "[::]") {
				address = strings.Replace(address, "[::]", "127.0.0.1", 1)
			}
			var d net.Dialer
			d.SetMultipathTCP(false)
			c, err := d.DialContext(t.Context(), "tcp", address)
			require.NoError(t, err)
			t.Cleanup(func() { tcptest.Reset(t, c.(*net.TCPConn)) })
			s, err := ln.Accept()
			require.NoError(t, err)
			w := r.tr.Track(s.(*net.TCPConn), tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
			tcptest.Deafen(t, c.(*net.TCPConn))
			require.NoError(t, w.Close())
			l := r.lingering(1)
			require.Equal(t, w.Watch().ID(), l.ID)
			require.Equal(t, tcpstate.FinWait1, l.State)
		})
	}
}
