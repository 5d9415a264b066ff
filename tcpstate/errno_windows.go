package tcpstate

import (
	"syscall"

	"golang.org/x/sys/windows"
)

func classifyErrno(e syscall.Errno) readResult {
	switch e {
	case windows.WSAECONNRESET, windows.WSAECONNABORTED:
		return readReset
	case windows.WSAETIMEDOUT:
		return readTimedOut
	}
	return readOther
}

// isNoPort reports whether no local address was left to connect from.
func isNoPort(e syscall.Errno) bool {
	return e == windows.WSAEADDRNOTAVAIL || e == windows.WSAEADDRINUSE || e == windows.WSAENOBUFS
}
