// Package coderws shows github.com/coder/websocket with tcpstate, at both ends.
package coderws

import (
	"context"
	"net"
	"net/http"

	"github.com/coder/websocket"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
)

// NewClient returns the client for DialOptions.HTTPClient. It is made once. A
// websocket that it opens belongs to the line of the dial until it is closed.
func NewClient(d *dialer.Dialer, base *http.Transport) *http.Client {
	return &http.Client{Transport: &httppool.Transport{Base: base, Dialer: *d}}
}

// Dial opens a websocket by that client.
func Dial(ctx context.Context, client *http.Client, url string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	return conn, err
}

// Serve serves with srv, whose handlers call websocket.Accept. A websocket
// belongs to the handler that accepted it.
func Serve(srv *http.Server, cfg *listener.Config, ln net.Listener) error {
	httpserver.Instrument(srv)
	if srv.TLSConfig != nil {
		return srv.ServeTLS(cfg.Wrap(ln), "", "")
	}
	return srv.Serve(cfg.Wrap(ln))
}
