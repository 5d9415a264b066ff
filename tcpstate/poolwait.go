package tcpstate

import (
	"context"
	"sync/atomic"
	"time"
)

// WaitInfo describes a wait for a connection of a pool, which has ended.
type WaitInfo struct {
	Pool       string // Origin.Name of the pool
	Start, End time.Time
	Err        error  // nil when a connection was had
	ID         uint64 // of the connection; 0: none, or not tracked
	DialToken  any    // of the connection
	Token      any    // from Observer.Token, of whoever waited
}

// Waiting says that somebody with ctx waits for a connection of the pool, as
// Waits does, until done is called: with the connection, nil if it is not
// tracked, or the error in place of one. Observers are told of the wait. Only
// the first call of done counts.
func (p *Pool) Waiting(ctx context.Context) (done func(*Watch, error)) {
	if p == nil {
		return func(*Watch, error) {}
	}
	p.Waits()
	start, tokens := p.t.seam.now(), p.t.takeTokens(ctx)
	var ended atomic.Bool
	return func(w *Watch, err error) {
		if !ended.CompareAndSwap(false, true) {
			return
		}
		p.Waited()
		if !p.t.anybody(func(o *Observer) bool { return o.WaitDone != nil }) {
			return
		}
		info := &WaitInfo{Pool: p.name, Start: start, End: p.t.seam.now(), Err: err, ID: w.ID()}
		ev := event{what: eventWait, wait: info, tokens: tokens}
		if w != nil {
			ev.e = w.e
		}
		p.t.tellSoon(func(s *subscriber) {
			if s.o.WaitDone != nil {
				s.pushSoon(ev)
			}
		})
	}
}

// tellWait calls the observer, with what it knows of the connection by now.
func (s *subscriber) tellWait(ev *event) {
	if s.o.WaitDone == nil {
		return
	}
	info := *ev.wait
	if e := ev.e; e != nil {
		e.mu.Lock()
		info.DialToken = e.tokens.of(s)
		e.mu.Unlock()
	}
	info.Token = ev.tokens.of(s)
	s.o.WaitDone(info)
}
