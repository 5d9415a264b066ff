package tcpstate

import (
	"context"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// CallSite is a line of code with the calls that led to it, remembered in four
// bytes. It is valid for the life of the process. The zero value is none.
type CallSite uint32

// CaptureSite remembers the call of its caller, with skip 0, or that of the
// caller's callers. It takes about a microsecond and allocates nothing but the
// first time.
func CaptureSite(skip int) CallSite { return CallSite(sites.Capture(skip + 1)) }

// Frames returns what reports show of the call: the line of the program that
// is responsible, and at most two callers. There are none for the zero value.
func (s CallSite) Frames() []Frame { return publicFrames(sites.ID(s).Owner(nil)) }

// WithCallSite returns a context for a dial that is made on behalf of the code at
// s, by a goroutine that does not show it. The dial, and the connection that
// comes of it, are reported with s.
func WithCallSite(ctx context.Context, s CallSite) context.Context {
	return context.WithValue(ctx, callSiteKey{}, s)
}

type callSiteKey struct{}

// siteOfDial returns the line that a dial with ctx is made for: that of
// WithCallSite, or the call of the function that calls siteOfDial.
func siteOfDial(ctx context.Context) sites.ID {
	if ctx != nil {
		if s, _ := ctx.Value(callSiteKey{}).(CallSite); s != 0 {
			return sites.ID(s)
		}
	}
	return sites.Capture(2)
}

// BorrowAt is Borrow for a pool that says later who has borrowed the
// connection, and when: only of those that are not returned soon, because most
// are. ctx is that of the borrower and may have ended.
func (w *Watch) BorrowAt(ctx context.Context, p *Pool, u Use, site CallSite, since time.Time) (done func()) {
	if w == nil {
		return func() {}
	}
	us := w.e.t.NewUsage(ctx, u)
	if us != nil {
		us.site, us.begun = sites.ID(site), int64(since.Sub(w.e.t.base))
	}
	return us.borrows(w, p)
}
