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
