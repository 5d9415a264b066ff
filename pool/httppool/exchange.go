package httppool

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// exchange is one request and its response. It is three things in one
// allocation: the context of the request, the trace that learns which
// connection serves it, and the body of the response. The registry keeps only
// the use, which does not point back here.
type exchange struct {
	ctx         context.Context // as it came with the request
	pool        *Transport
	host        *host
	use         *tcpstate.Usage
	trace       httptrace.ClientTrace
	gotConnNext func(httptrace.GotConnInfo) // of the trace that the request has already
	inner       io.ReadCloser               // the body as net/http made it
	multiplexed bool                        // HTTP/2: the connection outlives the exchange
	onUsed      bool                        // the connection at hand had served before
	ended       atomic.Bool                 // the body was read to its end, or closed
	queued      atomic.Bool                 // counted among those that wait for one

	mu     sync.Mutex // guards following fields
	shakes *shakes    // nil until net/http dials for this request
}

// newExchange takes on the trace that the request has: its hooks are called as
// they were, GotConn after ours.
func newExchange(req *http.Request, pool *Transport, use *tcpstate.Usage) *exchange {
	ctx := req.Context()
	x := &exchange{ctx: ctx, pool: pool, use: use, host: pool.hosts.of(pool, req.URL)}
	x.host.part.Lend(use)
	x.trace.PutIdleConn = x.host.put
	if old := httptrace.ContextClientTrace(ctx); old != nil && traceKey.Load() != nil {
		x.trace = *old
		x.gotConnNext = old.GotConn
		x.trace.PutIdleConn = both(x.host.put, old.PutIdleConn)
	}
	x.trace.GotConn = x.gotConn
	return x
}

// both returns a hook that calls first and, unless it is nil, next.
func both(first, next func(error)) func(error) {
	if next == nil {
		return first
	}
	return func(err error) {
		first(err)
		next(err)
	}
}

// context returns the context to make the request with. It is x itself, unless
// httptrace no longer works as it did.
func (x *exchange) context() context.Context {
	if traceKey.Load() == nil {
		return httptrace.WithClientTrace(context.WithValue(x.ctx, exchangeKey{}, x), &x.trace)
	}
	return x
}

// Deadline, Done, Err and Value implement context.Context.
func (x *exchange) Deadline() (time.Time, bool) { return x.ctx.Deadline() }
func (x *exchange) Done() <-chan struct{}       { return x.ctx.Done() }
func (x *exchange) Err() error                  { return x.ctx.Err() }
func (x *exchange) Value(key any) any {
	if k := traceKey.Load(); k != nil && key == *k {
		return &x.trace
	}
	if key == (exchangeKey{}) {
		return x
	}
	return x.ctx.Value(key)
}

// traceKey is the key under which package httptrace looks for its trace in a
// context, nil if that is not known. httptrace.WithClientTrace would do, at the price of another
// allocation for the context and of reflection where there are two traces.
var traceKey atomic.Pointer[any]

func init() { traceKey.Store(learnTraceKey()) }

// learnTraceKey lets httptrace ask a context that writes down what it is asked.
func learnTraceKey() *any {
	var p probe
	httptrace.ContextClientTrace(&p)
	p.answer = new(httptrace.ClientTrace)
	if httptrace.ContextClientTrace(&p) != p.answer {
		return nil
	}
	return &p.key
}

type probe struct {
	context.Context
	key    any
	answer *httptrace.ClientTrace
}

func (p *probe) Value(key any) any {
	p.key = key
	return p.answer
}

// gotConn runs on the goroutine of RoundTrip. It runs again when net/http tries
// again on another connection.
func (x *exchange) gotConn(info httptrace.GotConnInfo) {
	x.unqueue()
	if x.onUsed {
		x.host.stale.Add(1) // the one before
	}
	h2 := x.attach(info.Conn) || x.pool.h2c
	x.onUsed = info.Reused && !h2
	var waited time.Duration
	if !info.WasIdle && !(info.Reused && h2) {
		waited = max(x.use.Age(), 1)
	}
	x.host.served(info.Reused, waited)
	if info.Reused {
		x.pool.served()
	} else {
		x.host.reached(x.pool.tracker.Of(info.Conn))
	}
	if x.gotConnNext != nil {
		x.gotConnNext(info)
	}
}

// attach says that c serves the use, and reports whether c was agreed to be one
// of HTTP/2. Where our connection is, or lies below, c, it is found without the
// allocation of Tracker.Of.
func (x *exchange) attach(c net.Conn) (h2 bool) {
	if tc, ok := c.(*tls.Conn); ok {
		if h2 = tc.ConnectionState().NegotiatedProtocol == "h2"; h2 {
			x.use.Shared()
		}
	}
	below := c
	for range maxUnwrap {
		switch v := below.(type) {
		case *tcpstate.Conn:
			x.use.Attach(v.Watch())
			return h2
		case interface{ NetConn() net.Conn }:
			below = v.NetConn()
		default:
			x.use.Attach(x.pool.tracker.Of(c))
			return h2
		}
	}
	return h2
}

// maxUnwrap bounds the walk down NetConn methods, which may be a circle.
const maxUnwrap = 16

// queue counts the request among those that wait for a connection of their
// host, until it has one or net/http dials for it.
func (x *exchange) queue() {
	x.queued.Store(true)
	x.host.waiting.Add(1)
	x.host.part.Waits()
}

func (x *exchange) unqueue() {
	if x.queued.Load() && x.queued.CompareAndSwap(true, false) {
		x.host.waiting.Add(-1)
		x.host.part.Waited()
	}
}

// failed ends the use of a request that got no answer.
func (x *exchange) failed(err error) {
	if x.onUsed && x.ctx.Err() == nil && endedBy(err) {
		x.host.stale.Add(1)
		x.use.Failed()
	}
	x.use.End()
}

// endedBy reports whether err is how a request fails whose connection ended
// before anything of an answer came. The text is that of an error of net/http
// that is not exported.
func endedBy(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return (op.Op == "read" || op.Op == "write") && !op.Timeout() && !errors.Is(err, net.ErrClosed)
	}
	return err == io.EOF || err.Error() == "http: server closed idle connection"
}

// follow ends the use together with the body of resp.
func (x *exchange) follow(req *http.Request, resp *http.Response) {
	if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
		x.use.Upgraded()
		resp.Body = tunnelOf(rwc, x.use)
		return
	}
	// HTTP/2 does not say http.NoBody.
	if resp.Body == nil || resp.Body == http.NoBody || resp.ContentLength == 0 || req.Method == http.MethodHead {
		x.use.End()
		return
	}
	x.use.Answered()
	x.inner, x.multiplexed = resp.Body, resp.ProtoMajor >= 2
	if x.multiplexed {
		x.use.Shared() // HTTP/2 without TLS
	}
	resp.Body = (*body)(x)
}

// body is the body of a response.
type body exchange

// Read reads as the body below does. The end of the body is the end of the use.
// So is an error of HTTP/2, where it ends the stream but not the connection. In
// HTTP/1 net/http closes the connection after an error, or else, as after one
// of gzip, still waits for Close.
func (b *body) Read(p []byte) (int, error) {
	b.use.Waits()
	n, err := b.inner.Read(p)
	b.use.Waited()
	if n > 0 {
		b.use.Progress() // it may come from a buffer
	}
	if err == io.EOF || err != nil && b.multiplexed {
		b.ended.Store(true)
		b.use.End()
	}
	return n, err
}

// Close closes the body below.
func (b *body) Close() error {
	err := b.inner.Close()
	if b.ended.Swap(true) {
		return err
	}
	if !b.multiplexed {
		b.host.cut.Add(1)
	}
	b.use.End()
	return err
}

// tunnel is the body of a response that switched protocols. The use lasts until
// Close: after the peer's end of stream there may still be something to say.
type tunnel struct {
	io.ReadWriteCloser
	use *tcpstate.Usage
}

// Close closes the body below.
func (t *tunnel) Close() error {
	err := t.ReadWriteCloser.Close()
	t.use.End()
	return err
}

// halfTunnel is a tunnel that can be closed one way.
type halfTunnel struct {
	tunnel
	closeWriter
}

type closeWriter interface{ CloseWrite() error }

func tunnelOf(rwc io.ReadWriteCloser, use *tcpstate.Usage) io.ReadWriteCloser {
	t := tunnel{rwc, use}
	if cw, ok := rwc.(closeWriter); ok {
		return &halfTunnel{t, cw}
	}
	return &t
}
