package rows

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"sync"

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

// clients returns plain, ours with attribution, and others. What they dial goes
// through over, if that is not nil.
func clients(ctx context.Context, over func(net.Conn) net.Conn) (all []*client, done func(), err error) {
	if over == nil {
		over = func(c net.Conn) net.Conn { return c }
	}
	through := func(dial dialer.DialFunc) *http.Transport {
		return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return over(c), nil
		}}
	}
	plain := ways.Plain(ctx).Dial
	each, closeAll, err := ways.Each(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range each {
		c := &client{column: w.Column, ctx: w.Ctx, transport: through(w.Dial)}
		if w.Ours != nil {
			dial := plain
			if over != nil {
				dial = w.Dial // a connection that is found below another one is found sooner if it is ours
			}
			c.transport = &httppool.Transport{Base: through(dial), Dialer: dialer.Dialer{Tracker: w.Ours.Tracker, Name: ways.Name}}
		}
		if w.Column != "storj" { // which does nothing that go-conntrack does not
			all = append(all, c)
		}
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(ways.Discard{}))
	traced := &client{column: "otelhttptrace", transport: through(plain)}
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
	cost := budget.WarmHTTP
	cost.Time = nil // the kernel and the scheduler vary by more than that; see "http alone"
	return requests(ctx, e, spec{row: "http", batch: 80, allocs: 500, cost: cost}, nil)
}

// httpAlone is what of it is not the kernel: net/http and ours. On one processor
// it is not the scheduler either: net/http hands a request from goroutine to
// goroutine, and whether that wakes up another thread is a matter of luck.
func httpAlone(ctx context.Context, e *row.Env) (row.Result, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	return requests(ctx, e, spec{row: "http alone", batch: 1000, allocs: 500, cost: budget.WarmHTTP}, newFromMemory)
}

func requests(ctx context.Context, e *row.Env, s spec, over func(net.Conn) net.Conn) (row.Result, error) {
	l, err := ways.Listen(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer l.Close()
	go answerAll(l)
	all, done, err := clients(ctx, over)
	if err != nil {
		return row.Result{}, err
	}
	defer done()
	var variants []pairs.Variant
	for _, c := range all {
		variants = append(variants, c.variant("http://"+l.Addr().String()+"/"))
	}
	res, err := compare(ctx, e, s, variants)
	if err != nil {
		return res, err
	}
	res.Notef("otelhttptrace makes a sampled span of each phase of a request; the others make none of a warm one.")
	return res, err
}

// answer is what every request gets.
const answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

// fromMemory is a connection that answers every Write itself. The one below is
// open, and idle, and what a tracker finds by NetConn.
type fromMemory struct {
	net.Conn
	asked, closed chan struct{}
	once          sync.Once
}

func newFromMemory(below net.Conn) net.Conn {
	return &fromMemory{Conn: below, asked: make(chan struct{}, 1), closed: make(chan struct{})}
}

func (c *fromMemory) NetConn() net.Conn { return c.Conn }

func (c *fromMemory) Write(b []byte) (int, error) {
	c.asked <- struct{}{}
	return len(b), nil
}

func (c *fromMemory) Read(b []byte) (int, error) {
	select {
	case <-c.asked:
		return copy(b, answer), nil
	case <-c.closed:
		return 0, io.EOF
	}
}

func (c *fromMemory) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// answerAll is the simplest of servers.
func answerAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 4096)
			for {
				if _, err := c.Read(b); err != nil {
					return
				}
				if _, err := io.WriteString(c, answer); err != nil {
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
