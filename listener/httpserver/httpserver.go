// Package httpserver tells the connections of an http.Server which requests
// they serve, so that a handler that goes on after its client has left is
// reported with its route, its function and its line.
package httpserver

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"reflect"
	"strings"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// An Option changes what Instrument and Handler do.
type Option func(*config)

type config struct {
	route   func(*http.Request) string
	expect  func(*http.Request) tcpstate.Expect
	routes  []routeExpect
	tracker *tcpstate.Tracker
}

// routeExpect is what is normal for a route, of one method or of all.
type routeExpect struct {
	pattern       string // as declared
	method, route string
	expect        tcpstate.Expect
}

// covers reports whether a request of that method and route is meant. As in
// http.ServeMux, GET stands for HEAD, too.
func (e *routeExpect) covers(method, route string) bool {
	if route == e.pattern {
		return true
	}
	return route == e.route && (method == e.method || method == http.MethodHead && e.method == http.MethodGet)
}

// WithRoute names the route of a request, for routers other than http.ServeMux.
// It is called before the handler. The name must come from the program, as a
// pattern does; a path holds what users sent. The empty string leaves the
// question to the mux.
func WithRoute(route func(*http.Request) string) Option {
	return func(c *config) { c.route = route }
}

// WithExpect declares what is normal while a request is served: that a route of
// server-sent events is LongLived, or that a long poll may leave the client's
// close unnoticed. It is called before the handler; what it returns holds until
// the handler returns, on top of what the listener declares.
func WithExpect(expect func(*http.Request) tcpstate.Expect) Option {
	return func(c *config) { c.expect = expect }
}

// WithRouteExpect declares what is normal while requests of a route are served,
// as WithExpect does for requests that only a function can tell apart:
//
//	httpserver.WithRouteExpect("GET /events", tcpstate.Expect{LongLived: true})
//
// The pattern is one of http.ServeMux, or what WithRoute returns; without a
// method it stands for all of them. What several options declare for a request
// adds up.
func WithRouteExpect(pattern string, x tcpstate.Expect) Option {
	route := withoutMethod(pattern)
	method := strings.TrimRight(strings.TrimSuffix(pattern, route), " \t")
	return func(c *config) { c.routes = append(c.routes, routeExpect{pattern, method, route, x}) }
}

// WithTracker is needed only where the connections are watched by a tracker of
// one's own without being wrapped, as by a listener with NoWrap. Connections
// that are wrapped know their tracker. Nil means tcpstate.Default().
func WithTracker(t *tcpstate.Tracker) Option {
	return func(c *config) { c.tracker = t }
}

// Instrument prepares srv, before it serves: each request becomes a use of the
// connection it came over, for as long as its handler runs, and the connection's
// watch is found in the context of the request by tcpstate.FromContext. The
// listener does the tracking; connections that are not tracked are served as if
// Instrument had not been called.
//
// It replaces srv.Handler by one that calls it, and ConnContext and ConnState
// by functions that call them: whoever sets these fields does so before. A nil
// Handler goes on being http.DefaultServeMux.
// The ResponseWriter and the Request reach the handler untouched, and a panic
// passes through. Instrumenting a server again changes nothing.
//
// A report names the pattern of the route and the function that handles it, as
// far as they can be known before the handler runs: through every http.ServeMux
// in a row, up to the first handler that only its author can see into. It shows
// the trace that the context of the request belongs to at this point. A tracing
// middleware that is part of srv.Handler begins its span later; put [Handler]
// below it.
func Instrument(srv *http.Server, opts ...Option) {
	if h, ok := srv.Handler.(*handler); ok && h.server == srv {
		return
	}
	h := newHandler(srv.Handler, opts)
	srv.Handler, h.server = h, srv

	connContext := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if connContext != nil {
			if ctx = connContext(ctx, c); ctx == nil {
				return nil // net/http has something to say about that
			}
		}
		return tcpstate.NewContext(ctx, h.watch(c))
	}

	connState := srv.ConnState
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		h.connState(c, state)
		if connState != nil {
			connState(c, state)
		}
	}
}

// Handler returns a handler that calls next and says what it knows of the
// request: its route, the function that handles it, its trace. It is meant for
// places that a server's Instrument cannot see: below tracing middleware,
//
//	srv.Handler = otelhttp.NewHandler(httpserver.Handler(mux), "")
//	httpserver.Instrument(srv)
//
// or around the handlers of another router. What the innermost one knows is
// shown. It works on servers with Instrument only.
func Handler(next http.Handler, opts ...Option) http.Handler {
	return newHandler(next, opts)
}

type handler struct {
	config
	next   http.Handler // nil: http.DefaultServeMux, as in http.Server
	server *http.Server // whose Handler this is; nil: made by Handler
}

func newHandler(next http.Handler, opts []Option) *handler {
	h := &handler{next: next}
	for _, o := range opts {
		o(&h.config)
	}
	return h
}

// watch returns the watch of a connection that was accepted, if it has one.
func (h *handler) watch(c net.Conn) *tcpstate.Watch {
	if h.tracker != nil {
		return h.tracker.Of(c)
	}
	return tcpstate.Of(c)
}

// connState tells the watch of c what its server does.
func (h *handler) connState(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		_, encrypted := c.(*tls.Conn)
		h.watch(c).AwaitRequests(encrypted)
	case http.StateHijacked:
		w := h.watch(c)
		w.AwaitNoRequests()
		w.Hijacked()
	}
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	next := h.next
	if next == nil {
		next = http.DefaultServeMux
	}
	ctx := r.Context()
	if watch := tcpstate.FromContext(ctx); watch != nil {
		if r.ProtoMajor > 1 {
			watch.AwaitNoRequests() // they come in frames, among others
		}
		use := tcpstate.Use{Method: r.Method}
		var f any
		use.Name, f = resolve(next, r)
		if h.route != nil {
			if route := ask(h.route, r); route != "" {
				use.Name = route
			}
		}
		for i := range h.routes {
			if e := &h.routes[i]; e.covers(r.Method, use.Name) {
				use.Expect = use.Expect.Merge(e.expect)
			}
		}
		if h.expect != nil {
			use.Expect = use.Expect.Merge(ask(h.expect, r))
		}
		defer watch.HandleAs(ctx, identity(r), use, f).End()
	}
	next.ServeHTTP(w, r)
}

// identity tells requests in progress apart. Middleware that changes a request
// passes a copy on, and the copy has the same map of headers.
func identity(r *http.Request) uintptr { return reflect.ValueOf(r.Header).Pointer() }

// ask calls a function of the application. A request must not fail because it
// cannot be described.
func ask[T any](f func(*http.Request) T, r *http.Request) (answer T) {
	defer func() { _ = recover() }()
	return f(r)
}
