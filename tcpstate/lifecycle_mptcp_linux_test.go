package tcpstate_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// mptcpPair returns both ends of a Multipath TCP connection, the near one
// tracked in the given role and watched.
func (r *rig) mptcpPair(role tcpstate.Role) (near *tcpstate.Conn, far *net.TCPConn) {
	r.Helper()
	c, s := tcptest.Pair(r.T, tcptest.MPTCP(true))
	if role == tcpstate.Server {
		c, s = s, c
	}
	near = r.tr.Track(c, tcpstate.Origin{Role: role, Name: "mptcp"})
	r.clk.Advance(2 * time.Second)
	return near, s
}

// peerLeft waits until the kernel knows of the peer's DATA_FIN, which no state
// shows.
func peerLeft(t *testing.T, c net.Conn, unread int) {
	t.Helper()
	raw, err := c.(*tcpstate.Conn).SyscallConn()
	require.NoError(t, err)
	tcptest.WaitUntil(t, "the DATA_FIN", func() bool {
		n := 0
		require.NoError(t, raw.Control(func(fd uintptr) { n, _, _ = tcpinfo.Queues(fd) }))
		return n == unread+1
	})
}

func TestMPTCPPeerCloseIsFoundAlthoughTheStateSaysEstablished(t *testing.T) {
	for _, tt := range []struct {
		name   string
		role   tcpstate.Role
		before func(r *rig, near *tcpstate.Conn, far *net.TCPConn)
		unread int
		want   tcpstate.Kind
		at     time.Duration
	}{
		{"server never read", tcpstate.Server, func(*rig, *tcpstate.Conn, *net.TCPConn) {}, 0, tcpstate.KindCloseWaitNeverRead, 32 * time.Second},
		{"server with unread bytes", tcpstate.Server, func(r *rig, near *tcpstate.Conn, far *net.TCPConn) {
			r.say(far, "hello", near)
			_, err := far.Write([]byte("more"))
			require.NoError(r, err)
		}, 4, tcpstate.KindCloseWaitNotReading, 32 * time.Second},
		{"client awaits an answer", tcpstate.Client, func(r *rig, near *tcpstate.Conn, far *net.TCPConn) {
			r.say(near, "hello", far)
		}, 0, tcpstate.KindCloseWaitNotReading, 32 * time.Second},
		{"client idle", tcpstate.Client, func(r *rig, near *tcpstate.Conn, far *net.TCPConn) {
			r.say(near, "hello", far)
			r.say(far, "hello", near)
		}, 0, tcpstate.KindCloseWaitIdleInPool, 3 * time.Second},
	} {
		for _, way := range []string{"Close", "CloseWrite"} {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				r := newRig(t)
				near, far := r.mptcpPair(tt.role)
				tt.before(r, near, far)
				if way == "Close" {
					require.NoError(t, far.Close())
				} else {
					require.NoError(t, far.CloseWrite())
				}
				peerLeft(t, near, tt.unread)
				require.EqualValues(t, tcptest.Established, tcptest.State(t, near))
				r.clk.Advance(tt.at)

				f := r.one(tt.want)
				require.Equal(t, tcpstate.CloseWait, f.State)
				require.True(t, f.Subject.MPTCP)
				require.Equal(t, tt.unread, f.Evidence.RecvQueue, "without the DATA_FIN")
				s := near.Watch().Snapshot()
				require.Equal(t, tcpstate.CloseWait, s.State)
				require.Equal(t, tcpstate.Established, s.Info.State)
				require.True(t, s.MPTCP)
				require.Equal(t, tt.unread, s.RecvQueue)
				require.False(t, s.PeerClosed.IsZero())
				r.clears(near)
			})
		}
	}
}

// The watch by epoll may be refused: then the sweep has to see it.
func TestMPTCPPeerCloseIsFoundBySweep(t *testing.T) {
	r := newRig(t)
	tcpstate.SetSeam(r.tr, tcpstate.Seam{MaxWatches: func() (int, error) { return 0, nil }})
	near, far := r.mptcpPair(tcpstate.Server)
	require.NoError(t, far.Close())
	peerLeft(t, near, 0)
	r.clk.Advance(45 * time.Second)
	f := r.one(tcpstate.KindCloseWaitNeverRead)
	require.True(t, f.Subject.MPTCP)
	require.Zero(t, f.Evidence.RecvQueue)
}

func TestMPTCPCloseTellsWhoClosedFirst(t *testing.T) {
	closed := make(chan tcpstate.ClosedInfo, 1)
	for _, tt := range []struct {
		name  string
		young bool // the tracker has not met the connection yet
		peer  bool // closes first
		eof   bool // read
		want  tcpstate.CloseReason
	}{
		{"peer", false, true, false, tcpstate.ClosePeerFIN},
		{"peer, read", false, true, true, tcpstate.ClosePeerFIN},
		{"peer of a young one", true, true, false, tcpstate.ClosePeerFIN},
		{"peer of a young one, read", true, true, true, tcpstate.ClosePeerFIN},
		{"we", false, false, false, tcpstate.CloseLocal},
		{"we, young", true, false, false, tcpstate.CloseLocal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr, clk := clockedTracker(t)
			defer tr.Observe(&tcpstate.Observer{Closed: func(c tcpstate.ClosedInfo) { closed <- c }})()
			c, s := tcptest.Pair(t, tcptest.MPTCP(true))
			near := tr.Track(s, tcpstate.Origin{Role: tcpstate.Server})
			if !tt.young {
				clk.Advance(2 * time.Second)
			}
			if tt.peer {
				require.NoError(t, c.Close())
				peerLeft(t, near, 0)
			}
			if tt.eof {
				_, err := near.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
			}
			if !tt.young {
				clk.Settle()
			}
			require.NoError(t, near.Close())
			clk.Advance(2 * time.Second)
			got := <-closed
			require.Equal(t, tt.want, got.Reason)
			require.Zero(t, got.Unread)
			if tt.peer {
				require.Equal(t, tcpstate.CloseWait, got.State)
			}
		})
	}
}

func TestMPTCPOwnCloseReadIsNoPeerFIN(t *testing.T) {
	for _, role := range []tcpstate.Role{tcpstate.Client, tcpstate.Server} {
		r := newRig(t)
		near, _ := r.mptcpPair(role)
		require.NoError(t, near.CloseRead())
		r.clk.Advance(time.Minute)
		r.silent()
		s := near.Watch().Snapshot()
		require.Equal(t, tcpstate.Established, s.State)
		require.True(t, s.PeerClosed.IsZero())
	}
}

func TestMPTCPIdleIsSilent(t *testing.T) {
	r := newRig(t)
	near, far := r.mptcpPair(tcpstate.Server)
	r.say(far, "hello", near)
	r.say(near, "hello", far)
	r.clk.Advance(5 * time.Minute)
	r.silent()
}

// An end that falls back to TCP still calls itself MPTCP in SO_PROTOCOL.
func TestMPTCPFallback(t *testing.T) {
	dial := func(r *rig, ln *net.TCPListener, mptcp bool) (c, s *net.TCPConn) {
		var d net.Dialer
		d.SetMultipathTCP(mptcp)
		conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		require.NoError(r, err)
		s, err = ln.AcceptTCP()
		require.NoError(r, err)
		r.Cleanup(func() { conn.Close(); s.Close() })
		return conn.(*net.TCPConn), s
	}
	for name, tt := range map[string]struct{ listener, dialer bool }{
		"plain server":      {false, true},
		"plain client":      {true, false},
		"plain on both":     {false, false},
		"MPTCP on both end": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			ln := tcptest.Listen(t, tcptest.MPTCP(tt.listener))
			c, s := dial(r, ln, tt.dialer)
			client := r.tr.Track(c, tcpstate.Origin{Name: "client"})
			r.clk.Advance(2 * time.Second)
			r.say(client, "hello", s)
			_, err := s.Write([]byte("hello"))
			require.NoError(t, err)
			require.NoError(t, s.Close())
			if tt.listener && tt.dialer {
				peerLeft(t, client, 5)
			} else {
				tcptest.WaitState(t, client, tcptest.CloseWait)
			}
			// A socket that fell back makes no event while bytes are unread.
			r.clk.Advance(45 * time.Second)
			f := r.one(tcpstate.KindCloseWaitNotReading)
			require.Equal(t, tt.listener && tt.dialer, f.Subject.MPTCP)
			require.Equal(t, 5, f.Evidence.RecvQueue)
			require.Equal(t, 5, client.Watch().Snapshot().RecvQueue)
			require.Equal(t, tcpstate.CloseWait, f.State)
		})
	}
}
