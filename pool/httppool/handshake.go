package httppool

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// net/http dials for one request, which may be served by another connection in
// the end, while the handshake goes on. So a handshake belongs to the
// connection. The hooks of the trace that tell of it do not say which one it
// is, but are called on the way from one dial function to the next.

type exchangeKey struct{}

// shakes are the handshakes of the connections that were dialed for one
// request. There is more than one when net/http tries again.
type shakes struct {
	dialed []*tcpstate.Watch // whose handshake has not begun
	done   []func(error)     // of those that go on, oldest first
}

// shaking returns dial with handshakes that are told of.
func shaking(d *dialer.Dialer, dial dialer.DialFunc) dialer.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		x, _ := ctx.Value(exchangeKey{}).(*exchange)
		if x == nil {
			return dial(ctx, network, address)
		}
		x.unqueue()
		x.hookShakes()
		conn, err := dial(ctx, network, address)
		if err == nil {
			w := watchOf(conn, d.Tracker)
			x.mu.Lock()
			x.shakes.dialed = append(x.shakes.dialed[:min(len(x.shakes.dialed), maxShakes-1)], w)
			x.mu.Unlock()
		}
		return conn, err
	}
}

// maxShakes bounds the connections of one request that wait for a handshake.
// Those without TLS wait for ever.
const maxShakes = 8

// hookShakes sets the hooks of the trace, which most requests do without: they
// use a connection that is there. net/http has the trace by now, and looks at
// these hooks after the dial.
func (x *exchange) hookShakes() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.shakes != nil {
		return
	}
	x.shakes = new(shakes)
	start, done := x.trace.TLSHandshakeStart, x.trace.TLSHandshakeDone
	x.trace.TLSHandshakeStart = func() {
		x.shakeBegins()
		if start != nil {
			start()
		}
	}
	x.trace.TLSHandshakeDone = func(state tls.ConnectionState, err error) {
		x.shakeEnds(err)
		if done != nil {
			done(state, err)
		}
	}
}

// watchOf finds a connection that t, or by default the default tracker, has
// just been given.
func watchOf(c net.Conn, t *tcpstate.Tracker) *tcpstate.Watch {
	if t == nil {
		t = tcpstate.Default()
	}
	return t.Of(c)
}

func (x *exchange) shakeBegins() {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := len(x.shakes.dialed)
	if n == 0 {
		return
	}
	w := x.shakes.dialed[n-1]
	x.shakes.dialed = x.shakes.dialed[:n-1]
	x.shakes.done = append(x.shakes.done, w.Handshaking(tcpstate.ProtocolTLS))
}

func (x *exchange) shakeEnds(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.shakes.done) == 0 {
		return
	}
	x.shakes.done[0](err)
	x.shakes.done = x.shakes.done[1:]
}
