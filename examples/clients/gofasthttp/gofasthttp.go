// Package gofasthttp shows github.com/valyala/fasthttp with tcpstate, at both
// ends.
package gofasthttp

import (
	"context"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
)

// Hide is for Config.HideFrames: the line to open is that of the request.
const Hide = "github.com/tcpstate/tcpstate-go/examples/clients/gofasthttp.Watch"

// Watch makes client, which has not been used yet, dial through d, in the way
// it dials already. A connection belongs to the line of the request that it was
// dialed for. Nobody reads idle ones: those that the server has closed are
// inventory, as of any pool that says what it is.
func Watch(d *dialer.Dialer, client *fasthttp.Client) {
	pooled := *d
	pooled.Expect.Pooled = true
	own, dual := client.Dial, client.DialDualStack
	timed := client.DialTimeout
	if timed == nil {
		timed = func(addr string, timeout time.Duration) (net.Conn, error) {
			switch {
			case own != nil:
				return own(addr)
			case timeout <= 0: // as fasthttp does without a timeout of the request
				timeout = fasthttp.DefaultDialTimeout
			}
			if dual {
				return fasthttp.DialDualStackTimeout(addr, timeout)
			}
			return fasthttp.DialTimeout(addr, timeout)
		}
	}
	client.DialTimeout = func(addr string, timeout time.Duration) (net.Conn, error) {
		dial := func(context.Context, string, string) (net.Conn, error) { return timed(addr, timeout) }
		return pooled.Wrap(dial)(context.Background(), "tcp", addr)
	}
}

// Serve serves ln. It is not wrapped: fasthttp writes header and body of an
// answer by one system call to a *net.TCPConn only.
func Serve(srv *fasthttp.Server, cfg *listener.Config, ln net.Listener) error {
	plain := *cfg
	plain.NoWrap = true
	if srv.TLSConfig != nil {
		return srv.ServeTLS(plain.Wrap(ln), "", "")
	}
	return srv.Serve(plain.Wrap(ln))
}
