package tcpstate_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// Every state, against ss, is in internal/ssagree.

func socketState(t testing.TB, local, remote net.Addr) tcpstate.State {
	t.Helper()
	s, err := tcpstate.SocketState(local, remote)
	require.NoError(t, err)
	return s
}

func TestSocketStateOfListeners(t *testing.T) {
	listen := func(network, address string) net.Listener {
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	at := func(ip string, ln net.Listener) net.Addr {
		return &net.TCPAddr{IP: net.ParseIP(ip), Port: ln.Addr().(*net.TCPAddr).Port}
	}
	one, v4, both := listen("tcp", "127.0.0.1:0"), listen("tcp4", ":0"), listen("tcp", "[::]:0")
	for name, tt := range map[string]struct {
		local, remote net.Addr
		want          tcpstate.State
	}{
		"itself":             {one.Addr(), nil, tcpstate.Listen},
		"nil remote":         {one.Addr(), (*net.TCPAddr)(nil), tcpstate.Listen},
		"empty remote":       {one.Addr(), &net.TCPAddr{}, tcpstate.Listen},
		"any remote":         {one.Addr(), &net.TCPAddr{IP: net.IPv4zero}, tcpstate.Listen},
		"as text":            {textAddr(one.Addr().String()), textAddr("[::]:0"), tcpstate.Listen},
		"another address":    {at("127.0.0.2", one), nil, tcpstate.Closed},
		"all addresses":      {at("0.0.0.0", one), nil, tcpstate.Closed},
		"all IPv4":           {v4.Addr(), nil, tcpstate.Listen},
		"one of all IPv4":    {at("127.0.0.2", v4), nil, tcpstate.Listen},
		"IPv6 of all IPv4":   {at("::1", v4), nil, tcpstate.Closed},
		"both families":      {both.Addr(), nil, tcpstate.Listen},
		"IPv4 of both":       {at("127.0.0.1", both), nil, tcpstate.Listen},
		"IPv6 of both":       {at("::1", both), nil, tcpstate.Listen},
		"not the connection": {one.Addr(), at("127.0.0.1", v4), tcpstate.Closed},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, socketState(t, tt.local, tt.remote)) })
	}
	require.NoError(t, one.Close())
	require.Equal(t, tcpstate.Closed, socketState(t, one.Addr(), nil))
}

func TestSocketStateOfASocketBoundToADevice(t *testing.T) {
	bind := func(_, _ string, raw syscall.RawConn) (err error) {
		e := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") })
		return errors.Join(e, err)
	}
	lc := net.ListenConfig{Control: bind}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("no binding to the loopback device: %v", err) // allowed since Linux 5.7
	}
	defer ln.Close()
	d := net.Dialer{Control: bind}
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	require.Equal(t, tcpstate.Listen, socketState(t, ln.Addr(), nil))
	require.Equal(t, tcpstate.Established, socketState(t, c.LocalAddr(), c.RemoteAddr()))
	require.Equal(t, tcpstate.Closed, socketState(t, c.LocalAddr(), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9), Port: 9}))
}

// An MPTCP socket's own end shows although its path stays ESTABLISHED, tracked
// with the wrapper or closed.
func TestSnapshotOfMPTCPShowsOurOwnEnd(t *testing.T) {
	r := newRig(t)
	near, far := r.mptcpPair(tcpstate.Client)
	s := near.Watch().Snapshot()
	require.True(t, s.MPTCP)
	require.Equal(t, tcpstate.Established, s.State)

	require.NoError(t, near.CloseWrite())
	tcptest.WaitUntil(t, "the acknowledgement", func() bool { return near.Watch().Snapshot().State == tcpstate.FinWait2 })
	require.Equal(t, tcpstate.PhaseActiveClose, near.Watch().Snapshot().Phase)
	require.NoError(t, far.Close())
	tcptest.WaitUntil(t, "the end", func() bool { return near.Watch().Snapshot().State == tcpstate.Closed })
}

func BenchmarkSocketState(b *testing.B) {
	client, _ := tcptest.Pair(b)
	local, remote := client.LocalAddr(), client.RemoteAddr()
	nowhere := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9), Port: 9}
	b.Run("found", func(b *testing.B) {
		for b.Loop() {
			_, _ = tcpstate.SocketState(local, remote)
		}
	})
	b.Run("closed", func(b *testing.B) {
		for b.Loop() {
			_, _ = tcpstate.SocketState(local, nowhere)
		}
	})
	b.Run("listener", func(b *testing.B) {
		for b.Loop() {
			_, _ = tcpstate.SocketState(local, nil)
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	for name, mptcp := range map[string]bool{"TCP": false, "MPTCP": true} {
		b.Run(name, func(b *testing.B) {
			c, _ := tcptest.Pair(b, tcptest.MPTCP(mptcp))
			tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
			tracked := tr.Track(c, tcpstate.Origin{})
			defer tracked.Close()
			w := tracked.Watch()
			for b.Loop() {
				_ = w.Snapshot()
			}
		})
	}
}
