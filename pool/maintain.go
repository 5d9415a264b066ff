package pool

import (
	"context"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// maintainEvery is how often the pool looks after its connections, while it has
// any.
const maintainEvery = time.Second

// spawn runs f on a goroutine that Close waits for. It reports false when the
// pool is closed.
func (p *Pool) spawn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.background.Go(f)
	return true
}

// evict takes c out of the list if it is idle, and has it closed. It does not
// wait: the tracker calls it. What is left at Close is for Close.
func (p *Pool) evict(c *conn, why reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && c.t.remove(c, why) {
		p.shedLocked(c)
	}
}

// shed has c closed, which has left the pool. Closing may take long: with
// SO_LINGER until the peer has acknowledged everything, with TLS until the
// notice is sent. So it is done by others, or after Close by the caller.
func (p *Pool) shed(c *conn) {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.shedLocked(c)
	}
	p.mu.Unlock()
	if closed {
		c.close()
	}
}

// maxClosers is how many connections may be closed at the same time. As many
// that hang keep the others open, but never from leaving the pool.
const maxClosers = 8

func (p *Pool) shedLocked(cs ...*conn) {
	p.doomed = append(p.doomed, cs...)
	p.closings += len(cs)
	for range min(len(cs), maxClosers-p.closers) {
		p.closers++
		p.background.Go(p.closeDoomed)
	}
}

func (p *Pool) closeDoomed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.doomed) > 0 {
		last := len(p.doomed) - 1
		c := p.doomed[last]
		p.doomed[last] = nil
		p.doomed = p.doomed[:last]
		p.mu.Unlock()
		c.close()
		p.mu.Lock()
		p.closings--
		p.progressedLocked()
	}
	p.doomed = nil
	p.closers--
}

// wakeUp makes sure that maintain runs while there are connections.
func (p *Pool) wakeUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeUpLocked()
}

func (p *Pool) wakeUpLocked() {
	switch {
	case p.closed || p.armed:
		return
	case p.timer == nil:
		p.timer = time.AfterFunc(maintainEvery, p.tick)
	default:
		p.timer.Reset(maintainEvery)
	}
	p.armed = true
}

func (p *Pool) tick() {
	p.spawn(func() {
		p.maintain()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.armed = false
		if len(p.targets) > 0 { // one may have come meanwhile
			p.wakeUpLocked()
		}
	})
}

// maintain closes connections that have been idle or open for too long, keeps
// MinIdleConns ready, tells the tracker of loans that last, and drops targets
// that are not in use.
func (p *Pool) maintain() {
	now := p.now()
	p.mu.Lock()
	targets := make([]*target, 0, len(p.targets))
	for k, t := range p.targets {
		if t.drop(now) {
			p.gone.add(&t.total)
			delete(p.targets, k)
			p.first.CompareAndSwap(t, nil)
			continue
		}
		targets = append(targets, t)
	}
	p.mu.Unlock()
	for _, t := range targets {
		t.expire(now)
		t.refill(now)
		t.tell()
	}
}

// drop reports whether t holds nothing and need not, and makes it unusable then.
func (t *target) drop(now int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropped = t.idle.n+t.lent+t.dialing == 0 && t.waiting.Load() == 0 && !t.keepsReadyLocked(now)
	return t.dropped
}

// keepsReadyLocked reports whether idle connections are kept ready.
func (t *target) keepsReadyLocked(now int64) bool {
	return t.p.limits.min > 0 && now-t.askedAt < t.p.limits.idle
}

// expire closes what has been idle or open for too long.
func (t *target) expire(now int64) {
	l := &t.p.limits
	var old []*conn
	var why []reason
	t.mu.Lock()
	for c := t.idle.oldest; c != nil; c = c.newer {
		switch {
		case now-c.idleSince >= l.idle:
			old, why = append(old, c), append(why, idleTimeout)
		case now >= c.expires:
			old, why = append(old, c), append(why, maxLifetime)
		}
	}
	t.mu.Unlock()
	for i, c := range old {
		t.p.evict(c, why[i])
	}
}

// refillMost is how many connections to one address a round of maintenance
// dials.
const refillMost = 64

// refill dials what lacks of MinIdleConns. Dials that fail at once are not made
// up for until the next round.
func (t *target) refill(now int64) {
	for range min(t.p.limits.min, refillMost) {
		t.mu.Lock()
		l := &t.p.limits
		wanted := t.keepsReadyLocked(now) && !t.closed &&
			t.idle.n+t.dialing < l.min && t.idle.n+t.lent+t.dialing < l.max
		if wanted {
			t.dialing++
		}
		t.mu.Unlock()
		if !wanted {
			return
		}
		d := &dialing{t: t}
		d.left.Store(true) // nobody waits for it
		res, err := t.tryAcquire(context.Background())
		if err == nil {
			d.s = res.Value()
			d.s.res = res
			if t.p.spawn(func() { d.run(context.Background()) }) {
				continue
			}
			res.ReleaseUnused()
		}
		t.mu.Lock()
		t.dialing--
		t.mu.Unlock()
		t.p.progressed()
		return
	}
}

// tell lets the tracker know of loans that have lasted for a round of
// maintenance. Most are over by then, and cost nothing.
func (t *target) tell() {
	type loan struct {
		s     *slip
		c     *conn
		ctx   context.Context
		state uint64
	}
	var long []loan
	t.mu.Lock()
	for _, s := range t.slips {
		c := s.conn
		if c == nil || s.done != nil || !c.handedOutLocked() {
			continue
		}
		number := c.state.Load() >> opBits
		if c.shown == number {
			long = append(long, loan{s, c, s.ctx, number})
		}
		c.shown = number
	}
	t.mu.Unlock()
	for _, l := range long {
		since := t.p.base.Add(time.Duration(l.c.lentAt.Load()))
		done := l.c.watch.BorrowAt(l.ctx, t.p.known, tcpstate.Use{}, tcpstate.CallSite(l.c.site.Load()), since)
		t.mu.Lock()
		ok := l.s.conn == l.c && l.c.state.Load()>>opBits == l.state
		if ok {
			l.s.done = done
		}
		t.mu.Unlock()
		if !ok {
			done()
		}
	}
}
