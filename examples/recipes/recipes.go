// Package recipes holds the code that README.md shows, so that it compiles. A
// test compares the two.
package recipes

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
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

// Lend uses a connection of a pool, which belongs to the whole program.
func Lend(ctx context.Context, use func(net.Conn) error) error {
	p := &pool.Pool{Name: "cache", MaxConns: 10} // made once, when the program starts
	defer p.Close()
	conn, err := p.Get(ctx, "tcp", "cache:6379")
	if err != nil {
		return err
	}
	defer conn.Close() // gives it back
	return use(conn)
}

// Database watches the pool of db while serve runs.
func Database(db *sql.DB, serve func() error) error {
	stop, err := pool.WatchDB(db, "orders")
	if err != nil {
		return err
	}
	defer stop()
	return serve()
}

// Quick dials so that the kernel gives up on a dead peer in 30 seconds.
func Quick(ctx context.Context, address string) (net.Conn, error) {
	d := dialer.Dialer{Name: "queue", DetectWithin: 30 * time.Second}
	return d.DialContext(ctx, "tcp", address)
}

var errStale = errors.New("the server is gone")

// Checkout refuses a connection whose peer no longer answers.
func Checkout(ctx context.Context, conn net.Conn) error {
	switch tcpstate.Of(conn).Probe(ctx).Outcome {
	case tcpstate.ProbeNoAnswer, tcpstate.ProbeEnded:
		return errStale
	}
	return nil
}

// TCPProxy joins a client's connection with one to a backend. With connections
// that are tracked the copies are spliced as they are without.
func TCPProxy(ctx context.Context, client net.Conn, d *dialer.Dialer, backend string) error {
	defer client.Close()
	upstream, err := d.DialContext(ctx, "tcp", backend)
	if err != nil {
		return err
	}
	defer upstream.Close()
	tcpstate.Pair(client, upstream) // until both are closed
	both := make(chan error, 2)
	go func() { both <- pass(upstream, client) }()
	go func() { both <- pass(client, upstream) }()
	return errors.Join(<-both, <-both)
}

// pass copies one direction, and passes its end on.
func pass(dst, src net.Conn) error {
	_, err := io.Copy(dst, src)
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		err = errors.Join(err, c.CloseWrite())
	}
	return err
}

// HTTPProxy serves with a reverse proxy. While a request is made on behalf of a
// client, the connections of both are judged together.
func HTTPProxy(backend *url.URL) *http.Server {
	proxy := httputil.NewSingleHostReverseProxy(backend)
	proxy.Transport = &httppool.Transport{Dialer: dialer.Dialer{Name: "backend"}}
	srv := &http.Server{Handler: proxy}
	httpserver.Instrument(srv)
	return srv
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

// ATest has a tracker of its own, which is checked when the test is over.
func ATest(t leaktest.TB) *dialer.Dialer {
	tracker := leaktest.Tracker(t) // first; then dial, listen and serve with it
	return &dialer.Dialer{Tracker: tracker}
}

// SlogOnly needs no set-up: without OpenTelemetry findings go to slog.Default.
func SlogOnly() *tcpstate.Tracker {
	tracker := &tcpstate.Tracker{
		Logger: slog.New(slog.NewJSONHandler(os.Stderr, nil)),
	}
	return tracker // dialer.Dialer{Tracker: tracker}
}
