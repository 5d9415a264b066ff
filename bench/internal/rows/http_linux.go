package rows

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"

	"go.opentelemetry.io/contrib/instrumentation/net/http/httptrace/otelhttptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/pairs"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
)

// transport is how a column makes its requests.
type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// client is a column of the rows about requests.
type client struct {
	column    string
	ctx       context.Context
	transport transport
	perCall   func(context.Context) context.Context
}

// clients returns plain, ours with attribution, and others.
func clients(ctx context.Context) (all []*client, done func(), err error) {
	each, closeAll, err := ways.Each(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range each {
		c := &client{column: w.Column, ctx: w.Ctx, transport: &http.Transport{DialContext: w.Dial}}
		if w.Ours != nil {
			c.transport = &httppool.Transport{Base: new(http.Transport), Dialer: dialer.Dialer{Tracker: w.Ours.Tracker, Name: ways.Name}}
		}
		if w.Column != "storj" { // which does nothing that go-conntrack does not
			all = append(all, c)
		}
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(ways.Discard{}))
	traced := &client{column: "otelhttptrace", transport: new(http.Transport)}
	traced.perCall = func(ctx context.Context) context.Context {
		return httptrace.WithClientTrace(ctx, otelhttptrace.NewClientTrace(ctx, otelhttptrace.WithTracerProvider(tp)))
	}
	var end func()
	tracedCtx, span := tp.Tracer("bench").Start(ctx, "request")
	traced.ctx, end = tracedCtx, func() { span.End(); _ = tp.Shutdown(ctx) }
	all = append(all, traced)
	return all, func() {
		for _, c := range all {
			c.transport.CloseIdleConnections()
		}
		end()
		_ = closeAll()
	}, nil
}

// variant makes requests for url one after the other.
func (c *client) variant(url string) pairs.Variant {
	hc := http.Client{Transport: c.transport}
	return pairs.Variant{Name: c.column, Run: times(func() error {
		ctx := c.ctx
		if c.perCall != nil {
			ctx = c.perCall(ctx)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := hc.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	})}
}

// warmHTTP makes a request over a connection that is there. The server does as
// little as it can: it writes the same answer whenever something arrives.
func warmHTTP(ctx context.Context, e *row.Env) (row.Result, error) {
	l, err := ways.Listen(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer l.Close()
	go answerAll(l)
	all, done, err := clients(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer done()
	var variants []pairs.Variant
	for _, c := range all {
		variants = append(variants, c.variant("http://"+l.Addr().String()+"/"))
	}
	res, err := compare(ctx, e, spec{row: "http", batch: 80, allocs: 500, cost: budget.WarmHTTP}, variants)
	res.Notef("otelhttptrace makes a sampled span of each phase of a request; the others make none of a warm one.")
	return res, err
}

func answerAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			answer, b := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), make([]byte, 4096)
			for {
				if _, err := c.Read(b); err != nil {
					return
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// servedHTTP is a warm request to a server whose requests are attributed to
// connections. The client is plain.
func servedHTTP(ctx context.Context, e *row.Env) (row.Result, error) {
	each, closeAll, err := ways.Each(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer closeAll()
	var variants []pairs.Variant
	for _, w := range each {
		srv, url, err := serve(ctx, func(l net.Listener, srv *http.Server) net.Listener {
			if w.Ours != nil {
				httpserver.Instrument(srv)
			}
			return w.Wrap(l)
		})
		if err != nil {
			return row.Result{}, err
		}
		defer srv.Close()
		t := new(http.Transport)
		defer t.CloseIdleConnections()
		c := &client{column: w.Column, ctx: ctx, transport: t}
		variants = append(variants, c.variant(url))
	}
	return compare(ctx, e, spec{row: "http server", batch: 80, allocs: 300}, variants)
}

// serve serves a short answer. prepare may instrument the server, and wrap the
// listener.
func serve(ctx context.Context, prepare func(net.Listener, *http.Server) net.Listener) (*http.Server, string, error) {
	l, err := ways.Listen(ctx)
	if err != nil {
		return nil, "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	srv := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(prepare(l, srv))
	return srv, fmt.Sprintf("http://%s/", l.Addr()), nil
}
