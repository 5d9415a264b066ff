package tcpstate

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Role is the end of a connection that this program is.
type Role uint8

// The roles. The zero value counts as Client.
const (
	Client Role = iota // dialed
	Server             // accepted
)

// String returns "client" or "server", as on metrics.
func (r Role) String() string {
	if r == Server {
		return "server"
	}
	return "client"
}

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText accepts the String forms.
func (r *Role) UnmarshalText(text []byte) error {
	switch string(text) {
	case "client":
		*r = Client
	case "server":
		*r = Server
	default:
		return fmt.Errorf("tcpstate: unknown role %q", text)
	}
	return nil
}

// Origin says where a connection comes from.
type Origin struct {
	Role Role

	// Name is the owner's name for the dialer, listener or pool: "payments",
	// "api". It is the dimension of metrics, so it must come from a small
	// fixed set: never an address, a user or a request.
	Name string

	// Target is the address as it was dialed or listened on ("db:5432"),
	// before resolution.
	Target string

	Expect Expect

	listener *Listening // that accepted the connection
}

// Expect declares what is normal for a connection, so that it is not reported.
// The zero value declares nothing.
type Expect struct {
	// Silence is how long the peer may be silent while an answer is awaited:
	// peer.no_response is reported after that, and no deadline counts. Zero
	// leaves it to the deadline of the use's context, if it has one. Without a
	// use, a request that follows an answer within a tick of the kernel's clock,
	// up to 10 ms, passes for answered itself.
	Silence time.Duration

	// Heartbeat is the longest time between two messages of the peer.
	// peer.silent is reported when one and a half times as long has passed
	// without a byte from it. Zero: the peer may be silent for ever.
	Heartbeat time.Duration

	// Pooled: the connection may lie idle in a pool that does not read it.
	// A peer's close is then inventory, at once.
	Pooled bool

	// HalfClose: after the peer's FIN the connection goes on being used. The
	// close_wait family stays silent.
	HalfClose bool

	// LongLived: the connection is meant to stay open with little traffic.
	LongLived bool

	// Ignore lists kinds, or families such as "close_wait", that are not
	// reported for this connection.
	Ignore []Kind
}

func (e *Expect) isZero() bool {
	return e.Silence == 0 && e.Heartbeat == 0 && !e.Pooled && !e.HalfClose && !e.LongLived && len(e.Ignore) == 0
}

// Merge returns e with every declaration of over on top.
func (e Expect) Merge(over Expect) Expect {
	if over.Silence != 0 {
		e.Silence = over.Silence
	}
	if over.Heartbeat != 0 {
		e.Heartbeat = over.Heartbeat
	}
	e.Pooled = e.Pooled || over.Pooled
	e.HalfClose = e.HalfClose || over.HalfClose
	e.LongLived = e.LongLived || over.LongLived
	if len(over.Ignore) > 0 {
		e.Ignore = append(slices.Clip(e.Ignore), over.Ignore...)
	}
	return e
}

func (e *Expect) ignores(k Kind) bool {
	for _, i := range e.Ignore {
		if i.covers(k) {
			return true
		}
	}
	return false
}

// Use describes one use of a connection: a request, a query, a borrow.
type Use struct {
	// Method is the operation: "GET", "PUBLISH". Optional.
	Method string

	// Name is the route, host, queue or query class. It appears in reports
	// and on spans, never on metrics. Leave out paths with identifiers,
	// queries and anything secret.
	Name string

	// Expect holds for the time of this use, on top of what the connection
	// declares.
	Expect Expect
}

// String returns method and name.
func (u Use) String() string {
	if u.Method != "" && u.Name != "" {
		return u.Method + " " + u.Name
	}
	return u.Method + u.Name
}

type useKey struct{}
type watchKey struct{}

// WithUse returns a context whose requests are described by u. It is read by
// what starts a use with a context: httppool.Transport, Watch.Use.
func WithUse(ctx context.Context, u Use) context.Context {
	return context.WithValue(ctx, useKey{}, u)
}

// UseFromContext returns the description that WithUse left in ctx.
func UseFromContext(ctx context.Context) (u Use, ok bool) {
	u, ok = ctx.Value(useKey{}).(Use)
	return u, ok
}

// NewContext returns a context that carries w for FromContext. A server calls
// it for the context of an accepted connection.
func NewContext(ctx context.Context, w *Watch) context.Context {
	if w == nil {
		return ctx
	}
	return context.WithValue(ctx, watchKey{}, w)
}

// FromContext returns the watch of the connection that ctx belongs to, as set
// by httpserver.Instrument or NewContext, else nil. Every method of a nil
// *Watch works.
func FromContext(ctx context.Context) *Watch {
	w, _ := ctx.Value(watchKey{}).(*Watch)
	return w
}
