package harness

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// Tap remembers what dial functions return, in order.
type Tap struct {
	mu    sync.Mutex // guards following fields
	conns []net.Conn
}

// Dial returns a dial function that dials with dial.
func (tap *Tap) Dial(dial dialer.DialFunc) dialer.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err == nil {
			tap.mu.Lock()
			defer tap.mu.Unlock()
			tap.conns = append(tap.conns, c)
		}
		return c, err
	}
}

// Conns returns the connections that were dialed.
func (tap *Tap) Conns() []net.Conn {
	tap.mu.Lock()
	defer tap.mu.Unlock()
	return append([]net.Conn(nil), tap.conns...)
}

// UserTimeout is a Control hook of net.Dialer that sets TCP_USER_TIMEOUT, as an
// application does that wants to learn of dead peers.
func UserTimeout(d time.Duration) func(network, address string, c syscall.RawConn) error {
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

// Options asks the kernel for the options of c's socket, or of that below it.
func Options(t testing.TB, c net.Conn) SocketOptions {
	t.Helper()
	for {
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = below.NetConn()
	}
	sc, ok := c.(syscall.Conn)
	require.Truef(t, ok, "%T has no socket", c)
	raw, err := sc.SyscallConn()
	require.NoError(t, err)
	var o SocketOptions
	var failed error
	require.NoError(t, raw.Control(func(fd uintptr) {
		get := func(level, name int) int {
			v, err := unix.GetsockoptInt(int(fd), level, name)
			if err != nil {
				failed = err
			}
			return v
		}
		o = SocketOptions{
			KeepAlive:   get(unix.SOL_SOCKET, unix.SO_KEEPALIVE),
			Idle:        get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
			Interval:    get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL),
			Count:       get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT),
			UserTimeout: get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT),
			NoDelay:     get(unix.IPPROTO_TCP, unix.TCP_NODELAY),
		}
	}))
	require.NoError(t, failed)
	return o
}
