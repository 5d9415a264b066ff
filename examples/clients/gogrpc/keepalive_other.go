//go:build !unix

package gogrpc

import "net"

// keepAlive returns the dialer that grpc has of its own.
func keepAlive() *net.Dialer { return new(net.Dialer) }
