// Package httppool watches the pool that most Go programs run on: the
// connections of an http.Transport. A connection that gets stuck, such as under
// a response body that nobody closes, is reported with the line of code that
// made the request.
//
// Transport.Stats tells of the pool as a whole. One that keeps fewer idle
// connections than its requests need, and dials again and again, is reported as
// pool.churn, with the MaxIdleConnsPerHost to set.
package httppool

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Transport is an http.RoundTripper that does what Base does, with connections
// that are tracked. The zero value behaves like http.DefaultTransport and
// tracks with tcpstate.Default.
//
// Each request is a use of the connection that serves it, from RoundTrip until
// the response body is read to the end or closed. The use is described by
// method and host, never by path or query, or by what tcpstate.WithUse left in
// the request's context, and belongs to the line of code that called the
// client.
//
// Like an http.Transport, a Transport is a pool: it is made once, and used by
// many goroutines. It must not be copied, and the fields must not change, after
// first use.
type Transport struct {
	// Base is cloned at first use and itself left alone: it keeps its own
	// connections, and what is changed in it later does not count here. The
	// clone has its settings, hooks and protocols, except for those registered by
	// Base.RegisterProtocol, as http.Transport.Clone says. Nil means
	// http.DefaultTransport.
	Base *http.Transport

	// Dialer names the connections and says what is normal for them. Dial
	// functions of Base are called by it, as by Dialer.Wrap. When its NetDialer
	// is set, that dials in place of Base.DialContext and Base.Dial, and dials in
	// progress are seen more clearly, as Dialer.Wrap says.
	Dialer dialer.Dialer

	once    sync.Once
	inner   *http.Transport
	tracker *tcpstate.Tracker
	watch   *tcpstate.Pool // nil: no connection is used twice
	told    sync.Once      // see served
	hosts   hosts
	h2c     bool // HTTP/2 may be spoken without TLS
}

func (t *Transport) init() {
	t.inner = clone(t.Base)
	t.h2c = t.inner.Protocols != nil && t.inner.Protocols.UnencryptedHTTP2()
	hook(t.inner, &t.Dialer)
	t.tracker = t.Dialer.Tracker
	if t.tracker == nil {
		t.tracker = tcpstate.Default()
	}
	if !t.inner.DisableKeepAlives {
		t.watch = t.tracker.NewPool(tcpstate.Origin{Name: t.Dialer.Name})
	}
}

// RoundTrip implements http.RoundTripper, as http.Transport does.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.once.Do(t.init)
	ctx := req.Context()
	use := t.tracker.NewUsage(ctx, describe(req, ctx))
	if use == nil {
		return t.inner.RoundTrip(req)
	}
	x := newExchange(req, t, use)
	inner := req.WithContext(x.context())
	if t.inner.MaxConnsPerHost > 0 {
		x.queue()
	}
	resp, err := t.inner.RoundTrip(inner)
	x.unqueue()
	if resp == nil {
		x.failed(err)
		return nil, err
	}
	if resp.Request == inner {
		resp.Request = req
	}
	x.follow(req, resp)
	return resp, err
}

// CloseIdleConnections closes the connections that no request uses, as that of
// http.Transport does. http.Client.CloseIdleConnections calls it.
func (t *Transport) CloseIdleConnections() {
	t.once.Do(t.init)
	t.inner.CloseIdleConnections()
}

// describe says what req is, in words that a report may show.
func describe(req *http.Request, ctx context.Context) tcpstate.Use {
	use, _ := tcpstate.UseFromContext(ctx)
	if use.Method == "" {
		use.Method = req.Method
		if use.Method == "" {
			use.Method = http.MethodGet
		}
	}
	if use.Name == "" && req.URL != nil {
		use.Name = req.URL.Host
	}
	return use
}

// clone returns a copy of base that speaks the protocols base speaks.
func clone(base *http.Transport) *http.Transport {
	if base == nil {
		base, _ = http.DefaultTransport.(*http.Transport)
	}
	if base == nil {
		// Somebody put something else in its place. What was there is gone, so
		// this repeats its settings.
		base = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:     true,
			MaxIdleConns:          100,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
		}
	}
	t := base.Clone()
	// A Transport offers HTTP/2 by itself only while no dial function and no
	// TLS configuration is set. The clone has both: one from us, the other from
	// Clone, which has made base decide. If it decided for HTTP/2, that stands
	// in its TLSNextProto. If its owner put something there, then the clone has
	// it too, and nothing is to be decided.
	if t.TLSNextProto == nil && base.TLSNextProto["h2"] != nil {
		t.ForceAttemptHTTP2 = true
	}
	return t
}
