//go:build !windows

package tcpotel_test

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/otel"
)

func TestErrnoOfADialHasANameOfItsOwn(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.ECONNRESET:    "connection_reset",
		syscall.ETIMEDOUT:     "timed_out",
		syscall.EHOSTUNREACH:  "host_unreachable",
		syscall.ENETUNREACH:   "network_unreachable",
		syscall.EADDRNOTAVAIL: "address_not_available",
		syscall.EMFILE:        "too_many_open_files",
		syscall.EINVAL:        "_OTHER",
	} {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
		require.Equal(t, want, tcpotel.ErrorType(err))
	}
}
