// Package httpstack shows how an HTTP client and server are put together with
// OpenTelemetry's otelhttp, so that a finding leads to the trace of the request
// and to the line of the application.
package httpstack

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// NewClient returns a client whose requests have spans. The pool is below
// otelhttp: it sees the context with the span, which a finding then links to.
func NewClient(t *tcpstate.Tracker, opts ...otelhttp.Option) *http.Client {
	pool := &httppool.Transport{
		Base:   &http.Transport{MaxIdleConnsPerHost: 32},
		Dialer: dialer.Dialer{Tracker: t, Name: "backend"},
	}
	return &http.Client{Transport: otelhttp.NewTransport(pool, opts...)}
}

// NewServer returns a server whose requests have spans. Instrument is outside,
// because only there are the connections, and Handler inside, because only there
// is the span. Handler also knows the route, which otelhttp hides.
func NewServer(h http.Handler, opts ...otelhttp.Option) *http.Server {
	srv := &http.Server{Handler: otelhttp.NewHandler(httpserver.Handler(h), "api", opts...)}
	httpserver.Instrument(srv)
	return srv
}
