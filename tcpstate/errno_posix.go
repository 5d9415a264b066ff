//go:build !windows

package tcpstate

import "syscall"

func classifyErrno(e syscall.Errno) readResult {
	switch e {
	case syscall.ECONNRESET, syscall.EPIPE:
		return readReset
	case syscall.ETIMEDOUT:
		return readTimedOut
	}
	return readOther
}
