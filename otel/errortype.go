package tcpotel

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// errorType returns the error.type of a failed dial. The list is short and
// fixed: a message or a type name would be one series per address, or say
// nothing.
func errorType(err error) string {
	var (
		dns     *net.DNSError
		errno   syscall.Errno
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "host_not_found"
	case dns != nil && dns.IsTimeout:
		return "dns_timed_out"
	case dns != nil:
		return "dns_error"
	case errors.As(err, &errno) && errnoTypes[errno] != "":
		return errnoTypes[errno]
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed_out"
	}
	return valueOther
}

// closeError returns the error.type of a connection that ended for r.
func closeError(r tcpstate.CloseReason) string {
	switch r {
	case tcpstate.CloseReset:
		return "connection_reset"
	case tcpstate.CloseTimeout:
		return "timed_out"
	case tcpstate.CloseCollected:
		return string(tcpstate.KindLeakCollected)
	}
	return ""
}
