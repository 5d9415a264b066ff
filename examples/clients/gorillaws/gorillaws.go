// Package gorillaws shows github.com/gorilla/websocket with tcpstate, at both
// ends.
package gorillaws

import (
	"net"
	"net/http"

	"github.com/gorilla/websocket"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
)

// NewDialer returns a dialer with the settings of base, such as
// *websocket.DefaultDialer, which stays as it is: its proxy and its TLS are
// above the connection that d dials. A websocket belongs to the line of the
// dial.
func NewDialer(d *dialer.Dialer, base *websocket.Dialer) *websocket.Dialer {
	own := *base
	own.NetDialContext = d.DialContext
	if base.NetDialContext != nil {
		own.NetDialContext = d.Wrap(base.NetDialContext)
	}
	return &own
}

// Serve serves with srv, whose handlers upgrade. A websocket belongs to the
// route and the handler that it was upgraded in, also after that has returned.
func Serve(srv *http.Server, cfg *listener.Config, ln net.Listener) error {
	httpserver.Instrument(srv)
	if srv.TLSConfig != nil {
		return srv.ServeTLS(cfg.Wrap(ln), "", "")
	}
	return srv.Serve(cfg.Wrap(ln))
}
