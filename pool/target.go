package pool

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/jackc/puddle/v2"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// target is the connections to one address.
//
// A borrower first takes a slip from the engine, which has MaxConns of them and
// lets borrowers wait in order. With it he takes an idle connection, or dials
// when there is none. Connections that are lent out or dialed have a slip each;
// so a borrower who finds none idle always has room for one more.
type target struct {
	p      *Pool
	key    key
	engine *puddle.Pool[*slip]

	growing sync.Mutex   // held while slips are made
	made    atomic.Int64 // slips
	waiting atomic.Int64

	mu      sync.Mutex // guards following fields
	slips   []*slip
	idle    list
	dialing int
	lent    int
	total   totals
	askedAt int64 // when a loan ended last
	closed  bool
	dropped bool
}

// slip is a borrower's right to one connection.
type slip struct {
	res *puddle.Resource[*slip]

	// Guarded by target.mu.
	conn *conn
	ctx  context.Context // of the borrower
	done func()          // ends the tracker's record of the loan; nil: there is none
}

func newTarget(p *Pool, k key) *target {
	t := &target{p: p, key: k, askedAt: p.now()}
	// The only error is that of a size below 1.
	t.engine, _ = puddle.NewPool(&puddle.Config[*slip]{
		MaxSize: int32(min(p.limits.max, 1<<30)),
		Constructor: func(context.Context) (*slip, error) {
			s := new(slip)
			t.made.Add(1)
			t.mu.Lock()
			defer t.mu.Unlock()
			t.slips = append(t.slips, s)
			return s, nil
		},
		Destructor: func(*slip) {},
	})
	t.grow(context.Background())
	return t
}

// get returns a connection that is lent to the caller.
func (t *target) get(ctx context.Context) (*conn, error) {
	res, err := t.tryAcquire(ctx)
	if err != nil {
		if res, err = t.wait(ctx); err != nil {
			return nil, err
		}
	}
	s := res.Value()
	s.res = res
	for dials := 0; ; {
		c, err := t.take(ctx, s)
		if err != nil {
			return nil, err
		}
		dialed := c == nil
		if dialed {
			site := tcpstate.CaptureSite(2)
			if c, err = t.dialFor(ctx, s, site); err != nil {
				return nil, err
			}
			c.site.Store(uint32(site))
			dials++
		} else {
			t.p.known.Reused()
		}
		// The peer of a new connection may have closed it while this goroutine
		// waited for its turn. Or it closes all of them, or has said why: then
		// that is for the borrower.
		why := c.check(ctx)
		if why == fit || why == peerClosed && dialed && (dials == maxDials || c.watch.Snapshot().RecvQueue > 0) {
			return c, nil
		}
		if why == cutShort && t.p.spawn(func() { t.finishCheck(c, s) }) {
			return nil, ctx.Err()
		}
		t.reject(c, why)
		if err := ctx.Err(); err != nil {
			t.release(s)
			return nil, err
		}
	}
}

// maxDials is how many new connections a Get tries, if their peer closes them at
// once.
const maxDials = 3

// tryAcquire takes a slip that nobody has.
func (t *target) tryAcquire(ctx context.Context) (*puddle.Resource[*slip], error) {
	res, err := t.engine.TryAcquire(ctx)
	for err != nil && t.grow(ctx) {
		res, err = t.engine.TryAcquire(ctx)
	}
	return res, err
}

// finishCheck ends the check of a connection whose borrower has left meanwhile,
// for the next one.
func (t *target) finishCheck(c *conn, s *slip) {
	c.site.Store(0)
	now := t.p.now()
	why := c.checkOld(t.p.closing, now, now-c.idleSince)
	if why != fit || !t.restore(c) {
		t.reject(c, why)
	}
	t.release(s)
}

// take lends out an idle connection. It returns nil when the caller has to dial.
func (t *target) take(ctx context.Context, s *slip) (*conn, error) {
	t.mu.Lock()
	if t.closed || t.dropped {
		err := ErrClosed
		if t.dropped {
			err = errDropped
		}
		t.mu.Unlock()
		t.release(s)
		return nil, err
	}
	c := t.idle.pop(t.p.FIFO)
	if c == nil {
		t.dialing++
		t.mu.Unlock()
		return nil, nil
	}
	c.reused = true
	t.total.hits++
	t.lendLocked(c, s, ctx)
	t.mu.Unlock()
	return c, nil
}

// lendLocked begins a loan, which may yet turn out to be none.
func (t *target) lendLocked(c *conn, s *slip, ctx context.Context) {
	s.conn, s.ctx, c.slip = c, ctx, s
	t.lent++
	t.total.gets++
}

// grow has the engine make more slips, and reports whether it did. The engine
// makes them one by one, and whoever asked would count as one who waits.
func (t *target) grow(ctx context.Context) bool {
	t.growing.Lock()
	defer t.growing.Unlock()
	grown := false
	for range min(slipChunk, t.p.limits.max-int(t.made.Load())) {
		if t.engine.CreateResource(ctx) != nil {
			break
		}
		grown = true
	}
	return grown
}

// slipChunk is how many slips are made at a time.
const slipChunk = DefaultMaxConns

// wait takes a slip when all are taken.
func (t *target) wait(ctx context.Context) (*puddle.Resource[*slip], error) {
	p := t.p
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.closing, cancel)() // the engine does not wake who waits
	start := p.now()
	t.waiting.Add(1)
	done := p.known.Waiting(ctx)
	res, err := t.engine.Acquire(ctx)
	t.waiting.Add(-1)
	done(nil, err) // which connection it will be is not known yet
	closed := p.closing.Err() != nil
	t.mu.Lock()
	t.total.waits++
	t.total.waitTime += p.now() - start
	if err != nil && !closed {
		t.total.timeouts++
	}
	t.mu.Unlock()
	if err != nil && closed {
		return nil, ErrClosed
	}
	return res, err
}

// release gives a slip back without a connection.
func (t *target) release(s *slip) {
	s.res.ReleaseUnused()
	t.p.progressed()
}

// put takes a connection back that can be used again. It reports false when the
// pool has been closed.
func (t *target) put(c *conn, now int64) bool {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return false
	}
	s, done := t.endLocked(c)
	t.total.useTime += now - c.lentAt.Load()
	c.idleSince = now
	t.idle.push(c)
	t.askedAt = now
	t.mu.Unlock()
	s.res.ReleaseUnused()
	if done != nil {
		done()
	}
	c.nowIdle()
	return true
}

// endLocked ends the loan of c.
func (t *target) endLocked(c *conn) (s *slip, done func()) {
	s = c.slip
	done = s.done
	s.conn, s.ctx, s.done, c.slip = nil, nil, nil, nil
	t.lent--
	return s, done
}

// reject closes a connection that is not handed out after all. The borrower
// keeps his slip.
func (t *target) reject(c *conn, why reason) {
	if why == fit || why == cutShort {
		why = poolClosed
	}
	t.p.shed(c)
	t.mu.Lock()
	done := t.takeBackLocked(c)
	t.total.left(why)
	t.mu.Unlock()
	if done != nil {
		done()
	}
}

// restore makes a connection idle that is not handed out after all. It reports
// false when the pool has been closed.
func (t *target) restore(c *conn) bool {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return false
	}
	done := t.takeBackLocked(c)
	t.idle.push(c)
	t.mu.Unlock()
	if done != nil {
		done()
	}
	c.nowIdle()
	return true
}

// takeBackLocked ends a loan that was none.
func (t *target) takeBackLocked(c *conn) (done func()) {
	_, done = t.endLocked(c)
	t.total.gets--
	if c.reused {
		t.total.hits--
	}
	return done
}

// leave ends a loan whose connection does not come back.
func (t *target) leave(c *conn, why reason) {
	now := t.p.now()
	t.mu.Lock()
	s, done := t.endLocked(c)
	t.total.useTime += now - c.lentAt.Load()
	t.total.left(why)
	t.askedAt = now
	t.mu.Unlock()
	if done != nil {
		done()
	}
	t.release(s)
}

// remove takes c out of the list for good, and reports whether it was there.
func (t *target) remove(c *conn, why reason) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ok := t.idle.remove(c)
	if ok {
		t.total.left(why)
	}
	return ok
}

// list is the idle connections in the order in which they came back. The zero
// value is empty.
type list struct {
	oldest, newest *conn
	n              int
}

func (l *list) push(c *conn) {
	c.older, c.newer, c.idle = l.newest, nil, true
	if c.older != nil {
		c.older.newer = c
	} else {
		l.oldest = c
	}
	l.newest = c
	l.n++
}

func (l *list) pop(fifo bool) *conn {
	c := l.newest
	if fifo {
		c = l.oldest
	}
	if c != nil {
		l.remove(c)
	}
	return c
}

func (l *list) remove(c *conn) bool {
	if !c.idle {
		return false
	}
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		l.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		l.newest = c.older
	}
	c.older, c.newer, c.idle = nil, nil, false
	l.n--
	return true
}
