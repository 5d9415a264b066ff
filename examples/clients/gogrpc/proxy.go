package gogrpc

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// Proxy says which proxy a request goes through, as http.Transport.Proxy. A
// nil URL means none. grpc has looked up the name of the server before, except
// with targets like "passthrough:///host:port", which leave that to the proxy.
type Proxy func(*http.Request) (*url.URL, error)

func (p Proxy) dial(ctx context.Context, d *dialer.Dialer, addr string) (net.Conn, error) {
	at, err := p(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}})
	if err != nil {
		return nil, err
	}
	if at == nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	c, err := d.DialContext(ctx, "tcp", at.Host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // closed already
	err = connect(c, at, addr)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
