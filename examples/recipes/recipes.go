// Package recipes holds the code that README.md shows, so that it compiles. A
// test compares the two.
package recipes

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// HTTPClient wraps the transport of an HTTP client.
func HTTPClient() *http.Client {
	client := &http.Client{Transport: &httppool.Transport{
		Base:   http.DefaultTransport.(*http.Transport), // cloned, not changed
		Dialer: dialer.Dialer{Name: "payments"},
	}}
	return client
}

// HTTPServer instruments an HTTP server and its listener.
func HTTPServer(mux *http.ServeMux) error {
	srv := &http.Server{Handler: mux}
	httpserver.Instrument(srv)
	cfg := listener.Config{Name: "api"}
	ln, err := cfg.Listen(context.Background(), "tcp", ":8080")
	if err != nil {
		return err
	}
	return srv.Serve(ln)
}

// RawConns dials and listens without HTTP.
func RawConns(ctx context.Context) (net.Conn, net.Listener, error) {
	d := dialer.Dialer{Name: "cache", Expect: tcpstate.Expect{Pooled: true}}
	conn, err := d.DialContext(ctx, "tcp", "cache:6379")
	if err != nil {
		return nil, nil, err
	}
	ln, err := listener.Listen("tcp", ":7000")
	return conn, ln, err
}

// OwnDialer keeps the way in which a client dials.
func OwnDialer(existing dialer.DialFunc) dialer.DialFunc {
	d := dialer.Dialer{Name: "db", NoWrap: true} // NoWrap: the client wants a *net.TCPConn
	return d.Wrap(existing)
}

// OpenTelemetry reports to the global providers.
func OpenTelemetry() (stop func(context.Context) error, err error) {
	stop, err = tcpotel.Start()
	return stop, err
}

// SlogOnly needs no set-up: without OpenTelemetry findings go to slog.Default.
func SlogOnly() *tcpstate.Tracker {
	tracker := &tcpstate.Tracker{
		Logger: slog.New(slog.NewJSONHandler(os.Stderr, nil)),
	}
	return tracker // dialer.Dialer{Tracker: tracker}
}
