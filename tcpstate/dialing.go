package tcpstate

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Dialing is a dial in progress. Dialers call BeginDial before and Done after
// they dial, and in between tell what they know of it; package dialer does it
// for applications. Every method works on nil and may be called from any
// goroutine, Done once. What is told after it is ignored.
type Dialing struct {
	conn Conn                 // what Done returns: it lies here to save an allocation
	dial atomic.Pointer[dial] // nil when it is over
}

// BeginDial notes that a dial to o.Target begins: when, for which line of code,
// which is the calling one unless WithCallSite says another, and what observers
// take from ctx. It returns nil, which Done accepts, while the tracker is off.
func (t *Tracker) BeginDial(ctx context.Context, network string, o Origin) *Dialing {
	t.init()
	if t.cfg.Load().Off {
		return nil
	}
	site, tokens := siteOfDial(ctx), t.takeTokens(ctx)
	h := new(Dialing)
	d := dials.Get().(*dial)
	d.mu.Lock()
	d.of = h
	d.t, d.ctx, d.network, d.origin, d.site, d.tokens, d.start = t, ctx, network, o, site, tokens, t.seam.now()
	d.mu.Unlock()
	h.dial.Store(d)
	t.judge.dialing.begin(t, d)
	return h
}

// locked returns the dial with its mu held, or nil when it is over.
func (h *Dialing) locked() *dial {
	if h == nil {
		return nil
	}
	d := h.dial.Load()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	if d.of != h {
		d.mu.Unlock() // it has become another's meanwhile
		return nil
	}
	return d
}

// DialHooks says which hooks of a dial are worth to be set, so that Trying,
// Tried, Resolving and Resolved are called.
type DialHooks struct {
	Control bool // net.Dialer.ControlContext, which hands out the socket
	Trace   bool // httptrace: names and addresses
}

// Hooks returns the hooks to set.
func (h *Dialing) Hooks() (hooks DialHooks) {
	if d := h.locked(); d != nil {
		seam := d.t.seam
		d.mu.Unlock()
		hooks = DialHooks{Control: seam.dialHooks == nil, Trace: seam.dialTrace == nil}
	}
	return hooks
}

// Context returns a context to dial with that costs nothing: it is ctx, which
// is that of BeginDial, but for DialingFromContext, and that Done ends it. So it
// is for a dialer that is through with its context when it returns, as
// net.Dialer is.
func (h *Dialing) Context(ctx context.Context) context.Context {
	if h == nil {
		return ctx
	}
	return (*dialContext)(h)
}

// KeptContext is Context for a dialer that may use the context afterwards: it
// does not end with the dial.
func (h *Dialing) KeptContext(ctx context.Context) context.Context {
	d := h.locked()
	if d == nil {
		return ctx
	}
	d.kept = true
	d.mu.Unlock()
	return context.WithValue(ctx, dialingKey{}, h)
}

// DialingFromContext returns the dial that ctx, or a context that it is derived
// from, was made for by Context or KeptContext, or nil.
func DialingFromContext(ctx context.Context) *Dialing {
	h, _ := ctx.Value(dialingKey{}).(*Dialing)
	return h
}

type dialingKey struct{}

// dialContext is a Dialing in its role as a context, which saves an allocation.
// When the dial is over it is a context that was canceled, and holds nothing of
// the one it was made of: the connection, which lies beside it, may live long.
type dialContext Dialing

// below returns the context of the dial, or one that has ended.
func (c *dialContext) below() context.Context {
	d := (*Dialing)(c).locked()
	if d == nil {
		return canceled
	}
	defer d.mu.Unlock()
	return d.ctx
}

// Deadline, Done, Err and Value implement context.Context.
func (c *dialContext) Deadline() (time.Time, bool) { return c.below().Deadline() }
func (c *dialContext) Done() <-chan struct{}       { return c.below().Done() }
func (c *dialContext) Err() error                  { return c.below().Err() }
func (c *dialContext) Value(key any) any {
	if key == (dialingKey{}) {
		return (*Dialing)(c)
	}
	return c.below().Value(key)
}

var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// SinglePath notes that the socket is not made for Multipath TCP, so that it
// need not be asked when it is closed.
func (h *Dialing) SinglePath() {
	if d := h.locked(); d != nil {
		d.plain = true
		d.mu.Unlock()
	}
}

// Trying notes that the dial tries an address, "host:port". ctx is that of the
// try, which may have a deadline of its own. c is the socket, where it is known:
// then the kernel can be asked how far it has come, else only time tells. A
// second call for the same address, before Tried, adds what the first did not
// know.
func (h *Dialing) Trying(ctx context.Context, address string, c syscall.RawConn) {
	if h == nil {
		return
	}
	deadline, _ := ctx.Deadline()
	if d := h.locked(); d != nil {
		d.tryingLocked(address, c, deadline)
		d.mu.Unlock()
	}
}

// Tried notes that the try of an address has ended with err, nil for success.
func (h *Dialing) Tried(address string, err error) {
	if d := h.locked(); d != nil {
		if a := d.openLocked(address); a != nil {
			a.ended = true
		}
		d.mu.Unlock()
	}
}

// Resolving notes that the name is being resolved.
func (h *Dialing) Resolving() {
	if d := h.locked(); d != nil {
		if d.dns == nil {
			d.dns = &lookup{start: d.t.seam.now()}
		}
		d.mu.Unlock()
	}
}

// Resolved notes to what the name was resolved.
func (h *Dialing) Resolved(addrs []net.IPAddr, err error) {
	if d := h.locked(); d != nil {
		d.resolvedLocked(addrs, err)
		d.mu.Unlock()
	}
}

// Done ends the dial with what it returned. With wrap a *net.TCPConn is
// returned as a *Conn, as Tracker.Wrap does; without, it is watched as by
// Tracker.Attach. A connection that is no TCP connection is returned untouched.
// The type does not depend on whether the tracker is off.
func (h *Dialing) Done(c net.Conn, err error, wrap bool) net.Conn {
	var d *dial
	if h != nil {
		d = h.dial.Swap(nil)
	}
	if d == nil {
		if tc, ok := c.(*net.TCPConn); ok && tc != nil && wrap && err == nil {
			return &Conn{TCPConn: tc}
		}
		return c
	}
	defer d.release()
	t := d.t
	d.ended = t.seam.now()
	t.count.dials.Add(1)
	if err != nil {
		t.count.dialErrors.Add(1)
		resent := t.judge.dialing.end(t, d, nil, err)
		t.tellDialSoon(d, nil, err, resent)
		return c
	}
	tc, below := tcpBelow(c)
	if tc == nil {
		t.judge.dialing.end(t, d, nil, nil)
		return c
	}
	e := t.add(tc, d.origin, wrap && !below, d)
	t.judge.dialing.end(t, d, tc, nil)
	t.tellDialSoon(d, e, nil, 0)
	if !wrap || below {
		return c
	}
	if d.kept {
		return &Conn{TCPConn: tc, e: e} // the context, which may live on, does not hold it
	}
	h.conn.TCPConn, h.conn.e = tc, e
	return &h.conn
}

// tcpBelow returns the *net.TCPConn in c and whether c is only a wrapper of it.
// A Conn is not unwrapped: it is tracked already.
func tcpBelow(c net.Conn) (tc *net.TCPConn, below bool) {
	for i := range maxUnwrap {
		switch v := c.(type) {
		case *net.TCPConn:
			return v, i > 0
		case *Conn:
			return nil, true
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil, false
		}
	}
	return nil, false
}

// dialEnd says what became of a dial, as far as its target is concerned.
type dialEnd uint8

const (
	dialFailed  dialEnd = iota // the peer, the path or the resolver
	dialOK                     //
	dialTimeout                // we did not wait longer
	dialCancel                 // we did not want it any more
	dialNoPort                 // no local port was left
)

// classifyDial sorts the error of a dial. That the kernel gave up is not our
// own doing.
func classifyDial(err error) dialEnd {
	if err == nil {
		return dialOK
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return dialFailed
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		if isNoPort(errno) {
			return dialNoPort
		}
		return dialFailed
	}
	switch {
	case errors.Is(err, context.Canceled):
		return dialCancel
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return dialTimeout
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return dialTimeout
	}
	return dialFailed
}

const (
	// maxDials bounds the ended dials that wait for the loop.
	maxDials = maxQueue
	// wakeQueue is how many ends of dials or connections come together before the
	// loop is woken: what observers are to be told of is bounded, too.
	wakeQueue = maxQueue / 8
)

// tellDialSoon queues the end of d for the observers. The loop sees to it that
// they are told. resent is how often a SYN was seen to be sent again before the
// dial failed.
func (t *Tracker) tellDialSoon(d *dial, e *entry, err error, resent uint32) {
	if !t.anybody(func(o *Observer) bool { return o.DialDone != nil }) {
		return
	}
	info := DialInfo{
		Name: d.origin.Name, Target: d.origin.Target, Network: d.network,
		Start: d.start, End: d.ended, Err: err, Retransmits: resent,
	}
	if e != nil {
		info.ID, info.Local, info.Remote = e.id, e.local, e.remote
		info.Retransmits = e.synRetransmits()
	}
	t.tellSoon(func(s *subscriber) {
		if s.o.DialDone != nil {
			info.Token = d.tokens.of(s)
			s.pushDial(&info, e)
		}
	})
}

// anybody reports whether an observer is attached for whom want is true.
func (t *Tracker) anybody(want func(*Observer) bool) bool {
	subs := t.observers.Load()
	if subs == nil {
		return false
	}
	for _, s := range *subs {
		if want(s.o) {
			return true
		}
	}
	return false
}

// tellSoon calls push, which queues one event, for every observer. They are told
// when the loop passes: for one event nobody is woken.
func (t *Tracker) tellSoon(push func(*subscriber)) {
	subs := t.observers.Load()
	if subs == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	for _, s := range *subs {
		push(s)
	}
	if t.untold++; t.untold%wakeQueue == 0 {
		t.urgent = true
		t.kickLocked(0)
		return
	}
	t.kickLocked(youngDelay)
}

// synRetransmits returns how often the SYN of a fresh connection was sent again.
func (e *entry) synRetransmits() uint32 {
	if e.dialTook != 0 && time.Duration(e.dialTook)*time.Microsecond < e.t.seam.synTimeout {
		return 0
	}
	s := samplers.Get().(*sampler)
	defer samplers.Put(s)
	s.full, s.ask = false, false
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.take(e, false) != nil {
		return 0
	}
	return s.sample.totalRetrans
}
