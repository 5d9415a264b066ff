package tcpstate

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Pool is what the tracker knows of a pool of connections that the program
// keeps: who made it, whether it is of any use, and whether anybody waits for
// one of its connections. Pools and instrumentation of pools make one with
// Tracker.NewPool. Methods may be called from any goroutine and work on nil.
type Pool struct {
	t       *Tracker
	name    string
	site    sites.ID
	reused  atomic.Bool
	waiting atomic.Int64
	poolUses
}

// NewPool says that a pool was made: now, by the calling code, for connections
// of the name o.Name. It returns nil while the tracker is off.
//
// A pool that is made for every call keeps its connections from being used
// again, and often from ever being closed. Many of them from one line are
// reported as leak.pool_per_call.
func (t *Tracker) NewPool(o Origin) *Pool {
	t.init()
	if t.cfg.Load().Off {
		return nil
	}
	p := &Pool{t: t, name: o.Name, site: sites.Capture(1)}
	t.judge.pooling.made(t, p)
	return p
}

// Reused says that the pool has handed out a connection for the second time:
// it does what it is for.
func (p *Pool) Reused() {
	if p != nil && !p.reused.Load() {
		p.reused.Store(true)
	}
}

// Waits says that somebody waits for a connection of the pool, until Waited is
// called.
func (p *Pool) Waits() {
	if p != nil {
		p.waiting.Add(1)
	}
}

// Waited takes one call of Waits back.
func (p *Pool) Waited() {
	if p != nil {
		p.waiting.Add(-1)
	}
}

// Borrow says that the calling code has taken the connection out of p, until
// done is called: it is a use like that of Watch.Use. A connection that moves
// no byte while it is lent out and somebody waits for one is reported as
// leak.not_returned, at the calling line.
func (w *Watch) Borrow(ctx context.Context, p *Pool, u Use) (done func()) {
	if w == nil {
		return func() {}
	}
	return w.e.t.NewUsage(ctx, u).borrows(w, p)
}

// borrows makes u, nil while the tracker is off, a use of w out of p.
func (u *Usage) borrows(w *Watch, p *Pool) (done func()) {
	if u == nil {
		return func() {}
	}
	u.pool, u.plain = p, true
	u.Attach(w)
	return u.End
}

const (
	// manyPools within poolWindow, from one line and without one connection
	// used twice, are pools per call: a program makes its pools when it starts.
	manyPools  = 10
	poolWindow = int64(time.Minute)
	// maxPoolSites bounds the lines that are watched.
	maxPoolSites = 256
)

// poolingChore watches where pools are made.
type poolingChore struct {
	mu    sync.Mutex // guards following fields
	sites map[poolKey]*poolSite
	due   int64
	pin   pin // while a finding is open
}

type poolKey struct {
	line uint64
	name string
}

// poolSite is one line that makes pools.
type poolSite struct {
	thing thing
	made  []madePool // the last ones, oldest first
	total uint64

	shownLately int // as at the last run, for readers of the finding; owned by the loop
	shownTotal  uint64
}

type madePool struct {
	at int64
	p  *Pool
}

// made notes a pool.
func (c *poolingChore) made(t *Tracker, p *Pool) {
	key := poolKey{line: p.site.OwnerKey(t.cfg.Load().HideFrames), name: p.name}
	if key.line == 0 {
		return
	}
	now := t.now()
	c.mu.Lock()
	s := c.sites[key]
	if s == nil {
		if len(c.sites) >= maxPoolSites {
			c.mu.Unlock()
			return
		}
		if c.sites == nil {
			c.sites = make(map[poolKey]*poolSite)
		}
		s = &poolSite{thing: thing{
			kind: SubjectSite, name: p.name, series: t.judge.seriesOf(Client, p.name),
			site: p.site, siteRole: "pool", opened: t.seam.now(),
		}}
		s.thing.facts = func(pub *Finding, _ int64) {
			pub.Evidence.note("pools made in the last minute", fmt.Sprint(s.shownLately))
			pub.Evidence.note("ever", fmt.Sprint(s.shownTotal))
		}
		c.sites[key] = s
	}
	s.total++
	if len(s.made) == manyPools {
		s.made = append(s.made[:0], s.made[1:]...)
	}
	s.made = append(s.made, madePool{now, p})
	many := len(s.made) == manyPools && now-s.made[0].at < poolWindow
	if many {
		c.due = now
	}
	c.mu.Unlock()
	if many {
		t.kick(youngDelay)
	}
}

// lately returns how many of the last pools were made within the window. It is
// at most manyPools.
func (s *poolSite) lately(now int64) (n int) {
	for _, m := range s.made {
		if now-m.at < poolWindow {
			n++
		}
	}
	return n
}

func (s *poolSite) verdict(now int64) verdict {
	if s.lately(now) < manyPools {
		return verdict{}
	}
	for _, m := range s.made {
		if m.p.reused.Load() {
			return verdict{}
		}
	}
	return verdict{kind: KindLeakPoolPerCall, since: s.made[0].at}
}

func (c *poolingChore) next() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.due
}

func (c *poolingChore) run(t *Tracker, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = 0
	open := false
	for key, s := range c.sites {
		s.shownLately, s.shownTotal = s.lately(now), s.total
		s.thing.judge(t, s.verdict(now), now)
		switch {
		case s.thing.finding != nil:
			c.due, open = now+poolWindow/6, true
		case s.lately(now) == 0:
			delete(c.sites, key)
		}
	}
	c.pin.hold(t, open)
}

// notReturned judges a connection that is lent out, moves nothing, and is
// missed, or held for longer than it may be.
func (f *facts) notReturned() verdict {
	if f.expect.LongLived {
		return verdict{}
	}
	moved := f.now - int64(min(f.sample.dataRecv, f.sample.dataSent))
	// It is looked at again soon: no event tells that it comes back.
	lent := func(since int64, grace time.Duration, cause string) verdict {
		since = max(since, moved)
		return f.after(since+int64(grace), verdict{
			kind: KindLeakNotReturned, cause: cause, since: since, due: f.now + int64(suspectInterval),
		})
	}
	var v verdict
	if at := f.wait.missed; at != 0 && f.limits.Borrowed != off {
		if v = lent(at, f.limits.Borrowed, ""); v.kind != "" {
			return v
		}
	}
	if at := f.wait.held; at != 0 && f.limits.Held != off {
		if held := lent(at, f.limits.Held, causeHeld); held.kind != "" || v.due == 0 || held.due < v.due {
			return held
		}
	}
	return v
}

// causeHeld is that of a connection that nobody waits for.
const causeHeld = "held"
