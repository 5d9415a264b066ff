package harness

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// userTimeout is a Control hook of net.Dialer that sets TCP_USER_TIMEOUT, as an
// application does that wants to learn of dead peers.
func userTimeout(d time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if failed := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		}); failed != nil {
			return failed
		}
		return err
	}
}

// SocketOptions is what a client may have set on its socket: times in seconds,
// UserTimeout in milliseconds.
type SocketOptions struct {
	KeepAlive, Idle, Interval, Count, UserTimeout, NoDelay int
}

// NetDialer returns a dialer with settings of its own, and what is then to be
// found on its sockets.
func NetDialer() (*net.Dialer, SocketOptions) {
	return &net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 42 * time.Second, Interval: 7 * time.Second, Count: 5},
			Control:         userTimeout(33 * time.Second),
		}, SocketOptions{
			KeepAlive: 1, Idle: 42, Interval: 7, Count: 5, UserTimeout: 33000, NoDelay: 1,
		}
}

// Options asks the kernel for the options of the client's socket, which the test
// process has, whoever holds it there.
func (l *Link) Options(t testing.TB) SocketOptions {
	t.Helper()
	fd, open := l.socket(t)
	require.True(t, open, "no socket of this process is the client of %v", l.Client())
	defer unix.Close(fd)
	return options(t, fd)
}

// socket returns a duplicate of the client's socket, if the client has not closed
// it.
func (l *Link) socket(t testing.TB) (fd int, open bool) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		require.NoError(t, err)
		if !l.isClient(fd) {
			continue
		}
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if l.isClient(fd) { // still: the number may be another's any moment
			return fd, true
		}
		unix.Close(fd)
	}
	return -1, false
}

// isClient reports whether fd is the client's end of the connection.
func (l *Link) isClient(fd int) bool {
	own, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	peer, err := unix.Getpeername(fd)
	return err == nil && isAddr(own, l.client.RemoteAddr()) && isAddr(peer, l.client.LocalAddr())
}

func isAddr(got unix.Sockaddr, want net.Addr) bool {
	v4, ok := got.(*unix.SockaddrInet4)
	return ok && netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), uint16(v4.Port)) == want.(*net.TCPAddr).AddrPort()
}

func options(t testing.TB, fd int) SocketOptions {
	get := func(level, name int) int {
		v, err := unix.GetsockoptInt(fd, level, name)
		require.NoError(t, err)
		return v
	}
	return SocketOptions{
		KeepAlive:   get(unix.SOL_SOCKET, unix.SO_KEEPALIVE),
		Idle:        get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
		Interval:    get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL),
		Count:       get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT),
		UserTimeout: get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT),
		NoDelay:     get(unix.IPPROTO_TCP, unix.TCP_NODELAY),
	}
}
