// Package amqp shows github.com/rabbitmq/amqp091-go with tcpstate.
package amqp

import (
	"context"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// timeout is that of amqp.Dial, for the connection and for the handshakes.
const timeout = 30 * time.Second

// Dial connects to url with cfg. The connection is dialed by cfg.Dial, else as
// amqp091-go does it, also for each recovery, and watched by d; amqp091-go makes
// TLS on top.
func Dial(d *dialer.Dialer, url string, cfg amqp.Config) (*amqp.Connection, error) {
	dial := cfg.Dial
	if dial == nil {
		dial = amqp.DefaultDial(timeout)
	}
	watched := d.Wrap(func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) })
	cfg.Dial = func(network, addr string) (net.Conn, error) { return watched(context.Background(), network, addr) }
	return amqp.DialConfig(url, cfg)
}
