package tcpotel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
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

// handshakeError returns the error.type of a failed TLS handshake.
func handshakeError(err error) string {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "certificate_invalid"
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return "tls_alert"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return "tls_alert" // that the peer has sent
	}
	if errors.Is(err, io.EOF) {
		return "connection_closed"
	}
	return errorType(err)
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
