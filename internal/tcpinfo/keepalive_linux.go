package tcpinfo

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func setKeepAlive(fd uintptr, on bool) error {
	v := 0
	if on {
		v = 1
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, v))
}

func keepIdle(fd uintptr) (time.Duration, error) {
	v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
	return time.Duration(v) * time.Second, os.NewSyscallError("getsockopt", err)
}

func setKeepIdle(fd uintptr, d time.Duration) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(d/time.Second)))
}

func setUserTimeout(fd uintptr, d time.Duration) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d/time.Millisecond)))
}
