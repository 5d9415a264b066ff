// Package natsgo shows github.com/nats-io/nats.go with tcpstate.
package natsgo

import (
	"net"

	"github.com/nats-io/nats.go"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// Watch makes connections of opts known to d. They are dialed as d.NetDialer
// says, else as opts.Dialer, else with the timeout of opts; NATS makes TLS of
// them, if it does. It takes the place of a CustomDialer.
//
// The peer is heard once per opts.PingInterval, which d.Expect may declare: a
// server that hangs is then found before NATS gives it up, which takes
// MaxPingsOut intervals more.
func Watch(d *dialer.Dialer, opts *nats.Options) {
	watched := *d
	if watched.NetDialer == nil {
		watched.NetDialer = opts.Dialer
	}
	if watched.NetDialer == nil {
		watched.NetDialer = &net.Dialer{Timeout: opts.Timeout}
	}
	opts.CustomDialer = &watched
}
