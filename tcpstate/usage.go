package tcpstate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Usage is one use of a connection, in progress or ended: a request, a query, a
// borrow. It lets a finding name the code that uses the connection rather than
// the code that dialed it.
//
// Instrumentation makes one with Tracker.NewUsage where the application asks
// for something, attaches it to a connection as soon as it knows which, and
// ends it. Applications use Watch.Use. A Usage holds neither a context nor a
// connection. Methods may be called from any goroutine and work on nil.
type Usage struct {
	site  sites.ID
	begun int64 // by the loop's clock, from 0
	until int64 // when its context ends; 0: not known to end

	pool  *Pool        // that it was borrowed from; nil: none. Immutable once attached
	id    uintptr      // of the request that is handled; 0: not known. Immutable once attached
	plain bool         // by Watch.Use: nobody calls Waits. Immutable once attached
	waits atomic.Int32 // calls that wait for more of an answer
	begin atomic.Bool  // the answer has begun

	mu    sync.Mutex // guards following fields; taken before the mu of an entry
	e     *entry     // nil: not attached
	ended bool

	// Guarded by the mu of the entry it is attached to, or was last.
	use        Use
	handler    sites.ID
	tokens     *token
	down       *entry          // that it is made on behalf of, if known; nil once ended
	done       <-chan struct{} // of a handler's context; nil once ended
	hijacked   bool
	upgraded   bool
	endedAt    int64 // the loop's time
	idle       int64 // how long the connection had lain idle before, in ns; 0: it had not been used
	next, prev *Usage
}

// NewUsage begins a use: it remembers the calling line and what observers take
// from ctx, but not ctx. It returns nil while the tracker is off.
//
// A use whose ctx belongs to a connection, as FromContext says, is made on
// behalf of it: until that one's handler returns, the connection that serves
// the use, and nothing else, is its upstream.
func (t *Tracker) NewUsage(ctx context.Context, u Use) *Usage {
	t.init()
	if t.cfg.Load().Off {
		return nil
	}
	us := &Usage{use: u, site: sites.Capture(1), begun: t.elapsed(), tokens: t.takeTokens(ctx)}
	if ctx == nil {
		return us
	}
	if end, ok := ctx.Deadline(); ok {
		us.until = max(int64(end.Sub(t.base)), 1)
	}
	if down := FromContext(ctx); down != nil && down.e.t == t {
		us.down = down.e
	}
	return us
}

// Waits says that the use waits for more of an answer that has begun, until
// Waited is called: what is silent then is the peer, not the application.
func (u *Usage) Waits() {
	if u != nil {
		u.waits.Add(1)
	}
}

// Waited takes one call of Waits back.
func (u *Usage) Waited() {
	if u != nil {
		u.waits.Add(-1)
	}
}

// Answered says that an answer has come, whose rest the application may read as
// it likes.
func (u *Usage) Answered() {
	if u != nil {
		u.begin.Store(true)
	}
}

// Attach says that w's connection serves the use. A use that moves to another
// connection, as with a retried request, is attached again; with nil, to one
// that is not tracked.
func (u *Usage) Attach(w *Watch) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.detachLocked(false)
	if w == nil || u.ended {
		return
	}
	e := w.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.linkLocked(u)
	}
}

// End ends the use. It may be called more than once.
func (u *Usage) End() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended {
		u.ended = true
		u.detachLocked(true)
	}
}

// Age returns how long ago the use began, 0 for one that is neither attached to
// a connection nor lent out by a pool.
func (u *Usage) Age() time.Duration {
	if u == nil {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.pool != nil:
		return time.Duration(u.pool.t.elapsed() - u.begun)
	case u.e != nil:
		return time.Duration(u.e.t.elapsed() - u.begun)
	}
	return 0
}

// Failed says that no answer came: the connection that serves the use ended
// before. It is called before End. Where the peer had closed the connection
// while it lay idle, the report can then say that requests fail by it.
func (u *Usage) Failed() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if e := u.e; e != nil {
		e.flags.Or(flagUseFailed)
	}
}

// Shared says that the connection serves other uses at the same time, as that
// of HTTP/2 may: what happens on it says nothing of this use alone.
func (u *Usage) Shared() { u.change(func() { u.down = nil }) }

// Upgraded says that the answer has switched protocols, as HTTP does by status
// 101: there is no answer to be read to the end any more, the application reads
// and writes as it likes until the use ends.
func (u *Usage) Upgraded() { u.change(func() { u.upgraded = true }) }

// change calls f with the use, and the connection that serves it, locked.
func (u *Usage) change(f func()) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if e := u.e; e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
	}
	f()
}

// Progress says that the use moves on although the connection need not: the
// application takes what lies in a buffer above it.
func (u *Usage) Progress() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if e := u.e; e != nil {
		e.progressed()
	}
}

// progressed notes that the application, or the peer, was seen to move on.
func (e *entry) progressed() {
	if ep := e.t.epoch.Load(); e.moved.Load() != ep {
		e.moved.Store(ep)
	}
}

// movedAt returns when progressed was last called, 0: never.
func (e *entry) movedAt() int64 {
	ep := e.moved.Load()
	if ep == 0 {
		return 0
	}
	return e.t.epochTime(ep)
}

// Handle says that handler, a func, serves a request that came over the
// connection. The line to open is then that of handler, and the end of ctx
// shows that it was told of the client's departure. The server calls End of the
// result when handler returns.
//
// Middleware may know more of a request than the server does. When it calls
// Handle for a request that is served already, one whose context ends together
// with ctx, then what it knows replaces what was said before, and the result is
// nil.
func (w *Watch) Handle(ctx context.Context, use Use, handler any) *Usage {
	return w.HandleAs(ctx, 0, use, handler)
}

// HandleAs is Handle for servers whose requests can be told apart even where
// middleware gives them contexts that end earlier, with a deadline of their own.
// The id is the same for all handlers of a request, and that of no other one in
// progress on the connection; 0 stands for none.
func (w *Watch) HandleAs(ctx context.Context, id uintptr, use Use, handler any) *Usage {
	if w == nil || ctx == nil {
		return nil
	}
	e := w.e
	tokens, site, done := e.t.takeTokens(ctx), sites.FromFunc(handler), ctx.Done()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	for u := e.uses; u != nil && done != nil; u = u.next {
		if u.done == done || id != 0 && u.id == id {
			u.sharpenLocked(use, site, tokens)
			return nil
		}
	}
	u := &Usage{use: use, handler: site, begun: e.t.elapsed(), tokens: tokens, done: done, id: id}
	e.linkLocked(u)
	return u
}

// Hijacked says that those who use the connection now have taken it over from
// its server: it stays in use when they end. From a pool, whoever takes it may
// have no use yet; in either case Expect.Pooled is taken back.
func (w *Watch) Hijacked() {
	if w == nil {
		return
	}
	e := w.e
	e.mu.Lock()
	defer e.mu.Unlock()
	for u := e.uses; u != nil; u = u.next {
		u.hijacked = true
	}
	if x := e.expect.Load(); x != nil && x.Pooled {
		mine := *x
		mine.Pooled = false
		e.expect.Store(&mine)
	}
}

// linkLocked puts u among the uses of e. The caller holds the mu of e, and that
// of u unless it has just made it.
func (e *entry) linkLocked(u *Usage) {
	u.idle = 0
	if last := e.lastUse; last != nil && e.uses == nil {
		u.idle = max(u.begun-last.endedAt, 1)
	}
	u.e, u.prev, u.next = e, nil, e.uses
	if u.next != nil {
		u.next.prev = u
	}
	e.uses = u
	e.useCount++
	u.pool.borrowed()
}

// detachLocked takes u off its connection. A use that ends is remembered there
// as the last one. The caller holds the mu of u.
func (u *Usage) detachLocked(end bool) {
	e := u.e
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if end {
		u.done, u.down = nil, nil
		if u.hijacked {
			return // whoever took the connection goes on using it
		}
		e.lastUse, u.endedAt = u, e.t.now()
	}
	u.e = nil
	if u.prev != nil {
		u.prev.next = u.next
	} else {
		e.uses = u.next
	}
	if u.next != nil {
		u.next.prev = u.prev
	}
	u.next, u.prev = nil, nil
	if !e.closed {
		u.pool.returned()
	}
}

// sharpenLocked replaces what is known of the use where the arguments say
// something. The caller holds the mu of the entry.
func (u *Usage) sharpenLocked(use Use, handler sites.ID, tokens *token) {
	if use.Method != "" {
		u.use.Method = use.Method
	}
	if use.Name != "" {
		u.use.Name = use.Name
	}
	u.use.Expect = u.use.Expect.Merge(use.Expect)
	if handler != 0 {
		u.handler = handler
	}
	if tokens != nil {
		u.tokens = tokens
	}
}

// waitLocked returns what is known of the answer that the only use in progress
// waits for; of several uses nobody knows whose turn it is. The caller holds mu.
func (e *entry) waitLocked(x *Expect) answerWait {
	w := answerWait{silence: x.Silence}
	if u := e.uses; u != nil && u.next == nil && !u.hijacked && !u.upgraded {
		w.begun, w.until = max(u.begun, 1), u.until
		w.reading, w.told = u.waits.Load() > 0, !u.plain
		if u.pool != nil && u.begin.Load() && !w.reading && u.pool.waiting.Load() > 0 {
			w.missed = w.begun
		}
	}
	// A borrower may say what he uses the connection for: he has it all the same.
	for u := e.uses; u != nil; u = u.next {
		if u.pool == nil || !u.plain || u.hijacked || u.upgraded {
			continue // of a response the kernel tells whether it is read
		}
		w.held = max(u.begun, 1)
		if u.pool.waiting.Load() > 0 {
			w.missed = w.held
		}
	}
	if l := e.lent.Load(); w.missed == 0 && l.inUse() {
		at := e.t.epochTime(l.read.Load())
		w.missed, w.held = both(l.from.missed.Load(), at), both(l.from.busy.Load(), at)
	}
	return w
}

// latestUseLocked returns the use in progress that began first, or else the one
// that ended last. The caller holds mu.
func (e *entry) latestUseLocked() *Usage {
	if u := e.oldestUseLocked(); u != nil {
		return u
	}
	return e.lastUse
}

// oldestUseLocked returns the use in progress that began first, though it may
// have been told later. The caller holds mu.
func (e *entry) oldestUseLocked() (oldest *Usage) {
	for u := e.uses; u != nil; u = u.next {
		if oldest == nil || u.begun <= oldest.begun {
			oldest = u
		}
	}
	return oldest
}
