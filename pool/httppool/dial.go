package httppool

//lint:file-ignore SA1019 Transport.Dial and DialTLS are what Base may have.

import (
	"context"
	"net"
	"net/http"
	"runtime"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// hook makes t dial through d. Each hook stays what it is, because net/http
// names it in errors.
func hook(t *http.Transport, d *dialer.Dialer) {
	switch {
	case d.NetDialer != nil:
		t.DialContext = shaking(d, d.DialContext)
	case t.DialContext != nil:
		t.DialContext = shaking(d, d.Wrap(t.DialContext))
	case t.Dial != nil:
		t.Dial = wrapOld(d, t.Dial)
	case runtime.GOOS == "js":
		// The browser makes the requests, unless there is a dial function.
	default:
		t.DialContext = shaking(d, d.DialContext)
	}
	switch {
	case t.DialTLSContext != nil:
		t.DialTLSContext = dequeuing(d.Wrap(t.DialTLSContext))
	case t.DialTLS != nil:
		t.DialTLS = wrapOld(d, t.DialTLS)
	}
}

// dequeuing returns dial for requests that then wait for it, and no longer for
// another one to return its connection.
func dequeuing(dial dialer.DialFunc) dialer.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if x, _ := ctx.Value(exchangeKey{}).(*exchange); x != nil {
			x.unqueue()
		}
		return dial(ctx, network, address)
	}
}

// wrapOld tracks the connections of a dial function that takes no context.
func wrapOld(d *dialer.Dialer, dial func(network, addr string) (net.Conn, error)) func(network, addr string) (net.Conn, error) {
	wrapped := d.Wrap(func(_ context.Context, network, addr string) (net.Conn, error) { return dial(network, addr) })
	return func(network, addr string) (net.Conn, error) { return wrapped(context.Background(), network, addr) }
}
