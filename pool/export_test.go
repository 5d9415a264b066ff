package pool

import (
	"sync/atomic"
	"time"
)

// Freeze gives p, which has not been used yet, a time that Advance adds to, and
// no maintenance but that of Advance.
func Freeze(p *Pool) {
	p.skew = new(atomic.Int64)
	p.armed = true
}

// Advance moves the time of p and does what is due then.
func Advance(p *Pool, d time.Duration) {
	p.init()
	p.skew.Add(int64(d))
	p.maintain()
}

// Targets returns how many addresses p knows of.
func Targets(p *Pool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.targets)
}

// Watched reports whether the peer's end of the connection that h lends is an
// event by now.
func Watched(h Conn) bool {
	_, ok := h.c.watch.PeerClosed()
	return ok
}

// Busy reports whether a call on h is in progress.
func Busy(h Conn) bool { return h.c.state.Load()&opMask != 0 }

// LookedAt returns when Get made sure last of the connection that h lends. It
// reports false for a new one, of which Get may know that its peer has closed it,
// as it did two others before.
func LookedAt(h Conn) (at time.Time, ok bool) {
	return h.c.t.p.base.Add(time.Duration(h.c.lentAt.Load())), h.c.reused
}

// Skew moves the time of p, and does nothing else.
func Skew(p *Pool, d time.Duration) { p.skew.Add(int64(d)) }

// Armed reports whether maintenance is due some time.
func Armed(p *Pool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.armed
}

// CloseUnseen ends the loan h as if the peer had closed just after Close looked.
func CloseUnseen(h Conn) {
	h.end()
	h.c.t.put(h.c, h.c.t.p.now())
}

// Closing reports whether Close has been called.
func Closing(p *Pool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Shut reports whether Close has come as far as to wait for what is lent out.
func Shut(p *Pool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.targets {
		t.mu.Lock()
		closed := t.closed
		t.mu.Unlock()
		if !closed {
			return false
		}
	}
	return p.closed
}
