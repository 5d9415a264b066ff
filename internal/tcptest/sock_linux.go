package tcptest

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// State returns the state of c as the kernel sees it (tcpi_state).
func State(t testing.TB, c syscall.Conn) uint8 {
	t.Helper()
	return info(t, c).State
}

// InodeOf returns the inode of the socket, as in /proc/net/tcp and fdinfo.
func InodeOf(t testing.TB, c syscall.Conn) uint64 {
	t.Helper()
	var st unix.Stat_t
	control(t, c, "fstat", func(fd int) error { return unix.Fstat(fd, &st) })
	return st.Ino
}

// SetTimers makes c notice a silent peer quickly. A UserTimeout alone serves a
// connection with unacknowledged data; an idle one needs Idle too, which turns
// keepalive on.
func SetTimers(t testing.TB, c syscall.Conn, timers Timers) {
	t.Helper()
	set := func(level, option, value int) {
		t.Helper()
		if value > 0 {
			control(t, c, "setsockopt", func(fd int) error { return unix.SetsockoptInt(fd, level, option, value) })
		}
	}
	set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(timers.Idle/time.Second))
	set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(timers.Interval/time.Second))
	set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, timers.Count)
	set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timers.UserTimeout/time.Millisecond))
	if timers.Idle > 0 {
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	}
}

// FillWindow writes to c, whose peer does not read, until the peer's window is
// closed and data waits behind it, and returns the number of bytes written.
// With [SmallBuffers] that is some kilobytes, otherwise megabytes.
func FillWindow(t testing.TB, c *net.TCPConn) (written int) {
	t.Helper()
	chunk := make([]byte, 64<<10)
	WaitUntil(t, "a closed window", func() bool {
		control(t, c, "write", func(fd int) error {
			for {
				n, err := unix.Write(fd, chunk)
				if errors.Is(err, unix.EAGAIN) {
					return nil
				}
				if err != nil {
					return err
				}
				written += n
			}
		})
		i := info(t, c)
		return i.Unacked == 0 && i.Notsent_bytes > 0 && i.Snd_wnd < i.Snd_mss
	})
	return written
}

// LocalAddr returns the local address of a socket that is not a net.Conn yet,
// such as that of [Dialing]. The kernel chooses it when the SYN is sent.
func LocalAddr(t testing.TB, c syscall.Conn) *net.TCPAddr {
	t.Helper()
	var sa unix.Sockaddr
	control(t, c, "getsockname", func(fd int) (err error) {
		sa, err = unix.Getsockname(fd)
		return err
	})
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	}
	t.Fatalf("tcptest: %T is not a TCP address", sa)
	return nil
}

// Queues returns how many bytes wait to be read by the application, and how
// many to be acknowledged by the peer (SIOCINQ and SIOCOUTQ of tcp(7)).
func Queues(t testing.TB, c syscall.Conn) (recv, send int) {
	t.Helper()
	control(t, c, "ioctl", func(fd int) (err error) {
		if recv, err = unix.IoctlGetInt(fd, unix.SIOCINQ); err == nil {
			send, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		}
		return err
	})
	return recv, send
}

// SetBacklog changes the length of the accept queue of ln. The kernel admits
// one connection more.
func SetBacklog(t testing.TB, ln syscall.Conn, n int) {
	t.Helper()
	// listen(2) on a listening socket changes the length of the queue.
	control(t, ln, "listen", func(fd int) error { return unix.Listen(fd, n) })
}

// DeferAccept makes ln wait for the first byte of a client, for about d, before
// it takes the handshake for complete (TCP_DEFER_ACCEPT of tcp(7)): until then
// the client is ESTABLISHED, the server in SYN-RECEIVED.
func DeferAccept(t testing.TB, ln syscall.Conn, d time.Duration) {
	t.Helper()
	control(t, ln, "setsockopt", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, int(d/time.Second))
	})
}

// SetFinWait changes how long the kernel keeps c in FIN-WAIT-2 after its Close,
// in whole seconds (TCP_LINGER2 of tcp(7)). What the peer sends later draws an
// RST.
func SetFinWait(t testing.TB, c syscall.Conn, d time.Duration) {
	t.Helper()
	control(t, c, "setsockopt", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_LINGER2, int(d/time.Second))
	})
}

// PortRangeControl returns a Control hook for a net.Dialer that leaves the
// socket the local ports from lo to hi only (IP_LOCAL_PORT_RANGE of ip(7),
// Linux 6.3). When they are taken the dial fails with EADDRNOTAVAIL.
func PortRangeControl(lo, hi uint16) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return inControl(c, func(fd int) error {
			return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipLocalPortRange, int(lo)|int(hi)<<16))
		})
	}
}

const ipLocalPortRange = 51 // include/uapi/linux/in.h

// SmallBufferControl is a Control hook that does to the socket of a net.Dialer
// or net.ListenConfig what [SmallBuffers] does.
func SmallBufferControl(_, _ string, c syscall.RawConn) error { return shrinkBuffers(c) }

func shrinkBuffers(raw syscall.RawConn) error {
	return inControl(raw, func(fd int) error {
		// The kernel raises 1 to its minimum (socket(7): 2048 and 256, doubled).
		return errors.Join(
			os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)),
			os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1)),
		)
	})
}

func info(t testing.TB, c syscall.Conn) *unix.TCPInfo {
	t.Helper()
	var i *unix.TCPInfo
	control(t, c, "read tcp_info", func(fd int) (err error) {
		i, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return i
}

// control runs f with the fd of c and fails the test when that is not possible.
func control(t testing.TB, c syscall.Conn, what string, f func(fd int) error) {
	t.Helper()
	if err := inControl(rawOf(t, c), f); err != nil {
		t.Fatalf("tcptest: %s: %v", what, err)
	}
}

func rawOf(t testing.TB, c syscall.Conn) syscall.RawConn {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatalf("tcptest: %v", err)
	}
	return raw
}

func inControl(raw syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
