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
