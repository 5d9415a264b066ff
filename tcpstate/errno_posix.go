//go:build !windows

package tcpstate

import "syscall"

func classifyErrno(e syscall.Errno) readResult {
	switch e {
	case syscall.ECONNRESET, syscall.EPIPE:
		return readReset
	case syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH:
		// The kernel gave up; in place of the timeout it reports an ICMP
		// message that came meanwhile, if any (tcp_write_err).
		return readTimedOut
	}
	return readOther
}

// isNoPort reports whether no local address was left to connect from (connect(2)).
func isNoPort(e syscall.Errno) bool { return e == syscall.EADDRNOTAVAIL }
