package tcpstate_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// option reads a socket option of the connection below c.
func option(t *testing.T, c *tcpstate.Conn, level, name int) (value int) {
	t.Helper()
	raw, err := c.NetConn().(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) })
	require.NoError(t, errors.Join(cerr, err))
	return value
}

func TestOptionsReachTheSocket(t *testing.T) {
	tr := leaktest.Tracker(t)
	inner, _ := tcptest.Pair(t)
	c := tr.Track(inner, tcpstate.Origin{})
	defer c.Close()
	keepAlive := func() [4]int {
		return [4]int{
			option(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE), option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
			option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPCNT),
		}
	}
	require.NoError(t, c.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: 31 * time.Second, Interval: 7 * time.Second, Count: 4,
	}))
	assert.Equal(t, [4]int{1, 31, 7, 4}, keepAlive())
	require.NoError(t, c.SetKeepAlivePeriod(42*time.Second))
	assert.Equal(t, [4]int{1, 42, 7, 4}, keepAlive())
	require.NoError(t, c.SetKeepAlive(false))
	assert.Equal(t, [4]int{0, 42, 7, 4}, keepAlive())

	require.NoError(t, c.SetNoDelay(false))
	assert.Zero(t, option(t, c, unix.IPPROTO_TCP, unix.TCP_NODELAY))
	require.NoError(t, c.SetReadBuffer(1<<14))
	assert.Equal(t, 2<<14, option(t, c, unix.SOL_SOCKET, unix.SO_RCVBUF)) // the kernel doubles it (socket(7))
	require.NoError(t, c.SetWriteBuffer(1<<14))
	assert.Equal(t, 2<<14, option(t, c, unix.SOL_SOCKET, unix.SO_SNDBUF))
}

func TestSetLingerReachesTheSocket(t *testing.T) {
	tr := leaktest.Tracker(t)
	inner, peer := tcptest.Pair(t)
	c := tr.Track(inner, tcpstate.Origin{})
	require.NoError(t, c.SetLinger(0))
	require.NoError(t, c.Close())
	_, err := peer.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}

func TestShutdownsReachTheSocket(t *testing.T) {
	tr := leaktest.Tracker(t)
	inner, peer := tcptest.Pair(t)
	c := tr.Track(inner, tcpstate.Origin{})
	defer c.Close()

	require.NoError(t, c.CloseWrite())
	tcptest.WaitState(t, c, tcptest.FinWait2)
	_, err := peer.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, unix.EPIPE)

	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, c.CloseRead())
	_, err = c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	assert.Equal(t, tcptest.FinWait2, tcptest.State(t, c), "the peer is not told")
}

func TestFileAndSyscallConnAreOfTheSameSocket(t *testing.T) {
	tr := leaktest.Tracker(t)
	inner, _ := tcptest.Pair(t)
	c := tr.Track(inner, tcpstate.Origin{})
	defer c.Close()
	want := tcptest.InodeOf(t, inner)
	assert.Equal(t, want, tcptest.InodeOf(t, c))
	f, err := c.File()
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, want, tcptest.InodeOf(t, f))
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	assert.Equal(t, want, tcptest.InodeOf(t, tcptest.Raw(raw)))
	// os recognises a connection by the methods of this type.
	plain, err := inner.SyscallConn()
	require.NoError(t, err)
	assert.IsType(t, plain, raw)
}
