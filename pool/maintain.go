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

// condemn has c closed if it is idle. The tracker calls it, and must not wait.
func (p *Pool) condemn(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.condemned = append(p.condemned, c)
	if !p.evicting {
		p.evicting = true
		p.background.Go(p.evict)
	}
}

// evict closes what is condemned. It takes time: the tracker does not wait for
// it, and one goroutine is enough.
func (p *Pool) evict() {
	for {
		p.mu.Lock()
		conns := p.condemned
		p.condemned = nil
		if len(conns) == 0 {
			p.evicting = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		for _, c := range conns {
			c.t.evict(c, peerClosed)
		}
	}
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
		t.evict(c, why[i])
	}
}

// refill dials what lacks of MinIdleConns. Dials that fail at once are not made
// up for until the next round.
func (t *target) refill(now int64) {
	for range t.p.limits.min {
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
		res, err := t.engine.TryAcquire(context.Background())
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
		if c == nil || s.done != nil {
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
