// Package paho shows github.com/eclipse/paho.mqtt.golang with tcpstate.
package paho

import (
	"context"
	"net"
	"net/url"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/net/proxy"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// Watch makes connections of opts to brokers over TCP and TLS known to d. They
// are dialed as d.NetDialer says, else as opts.Dialer, plain ones also over the
// proxy of the environment. Not for WebSockets and Unix sockets, for TLS over a
// proxy, nor for a config that OnConnectAttempt makes: paho does not tell of it.
func Watch(d *dialer.Dialer, opts *mqtt.ClientOptions) {
	opts.SetCustomOpenConnectionFn(func(uri *url.URL, opts mqtt.ClientOptions) (net.Conn, error) {
		watched := *d
		if watched.NetDialer == nil {
			watched.NetDialer = opts.Dialer
		}
		switch uri.Scheme {
		case "mqtt", "tcp":
			return proxy.FromEnvironmentUsing(&watched).Dial("tcp", uri.Host)
		case "ssl", "tls", "mqtts", "mqtt+ssl", "tcps":
			c, err := watched.DialTLS(context.Background(), "tcp", uri.Host, opts.TLSConfig)
			if err != nil {
				return nil, err // not a nil *tls.Conn
			}
			return c, nil
		}
		return nil, net.UnknownNetworkError(uri.Scheme)
	})
}
