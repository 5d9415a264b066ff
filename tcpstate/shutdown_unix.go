//go:build unix

package tcpstate

import (
	"os"
	"syscall"
)

func shutdownBoth(fd uintptr) error {
	return os.NewSyscallError("shutdown", syscall.Shutdown(int(fd), syscall.SHUT_RDWR))
}
