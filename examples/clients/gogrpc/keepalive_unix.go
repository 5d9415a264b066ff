//go:build unix

package gogrpc

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// keepAlive returns the dialer that grpc has of its own: keepalive is on, in
// the times of the system.
func keepAlive() *net.Dialer {
	return &net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1) // as grpc does
		})
	}}
}
