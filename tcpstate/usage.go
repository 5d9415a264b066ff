package tcpstate

import (
	"context"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Usage is one use of a connection, in progress or ended: a request, a query, a
// borrow. It lets a finding name the code that uses the connection rather than
// the code that dialed it.
//
// Instrumentation makes one with Tracker.NewUsage where the application asks
// for something, attaches it to a connection as soon as it knows which, and
// ends it. Applications use Watch.Use. Methods may be called from any goroutine
// and work on nil.
type Usage struct {
	t       *Tracker
	use     Use
	site    sites.ID
	handler sites.ID
	begun   time.Time
	tokens  *token

	// Guarded by the mu of the entry it is attached to.
	done       <-chan struct{} // of the context; nil once ended
	e          *entry
	next, prev *Usage
	ended      bool
	endedAt    time.Time
	hijacked   bool
}

// NewUsage begins a use: it remembers the calling line and what observers take
// from ctx, but not ctx.
func (t *Tracker) NewUsage(ctx context.Context, u Use) *Usage {
	return &Usage{t: t, use: u, site: sites.Capture(1), begun: time.Now(), tokens: t.takeTokens(ctx)}
}

// NewHandlerUsage begins a use by a server's handler: the line of code to open
// is that of the function handler. That its context is done is evidence: the
// handler was told that the peer left.
func (t *Tracker) NewHandlerUsage(ctx context.Context, u Use, handler any) *Usage {
	us := &Usage{t: t, use: u, handler: sites.FromFunc(handler), begun: time.Now(), tokens: t.takeTokens(ctx)}
	us.done = ctx.Done()
	return us
}

// Attach says that w's connection serves the use. A use that moves to another
// connection, as with a retried request, is attached again.
func (u *Usage) Attach(w *Watch) {
	if u == nil || w == nil {
		return
	}
	u.detach(false)
	e := w.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if u.ended || e.closed {
		return
	}
	u.e, u.prev, u.next = e, nil, e.uses
	if u.next != nil {
		u.next.prev = u
	}
	e.uses = u
	e.useCount++
}

// End ends the use. It may be called more than once.
func (u *Usage) End() {
	if u != nil {
		u.detach(true)
	}
}

// Hijacked says that the handler took the connection over.
func (u *Usage) Hijacked() {
	if u == nil || u.e == nil {
		return
	}
	u.e.mu.Lock()
	u.hijacked = true
	u.e.mu.Unlock()
}

// detach unlinks u from its connection. Attach and End of one Usage do not run
// concurrently: a request has one owner at a time.
func (u *Usage) detach(end bool) {
	e := u.e
	if e == nil {
		u.ended = u.ended || end
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if u.ended {
		return
	}
	if u.prev != nil {
		u.prev.next = u.next
	} else if e.uses == u {
		e.uses = u.next
	}
	if u.next != nil {
		u.next.prev = u.prev
	}
	u.next, u.prev = nil, nil
	if !end {
		u.e = nil
		return
	}
	u.ended, u.endedAt, u.done = true, time.Now(), nil
	e.lastUse = u
}

// oldestUse returns the use in progress that began first. The caller holds mu.
func (e *entry) oldestUseLocked() *Usage {
	u := e.uses
	for u != nil && u.next != nil {
		u = u.next
	}
	return u
}
