package tcpstate

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// This file follows sockets after Close. The kernel goes on with the connection
// on its own then, and no descriptor shows it: only a lookup by its addresses.
// Most sockets are through with their peer within a round trip, so the question
// is put a second later, and first to all of them at once.

const (
	// maxClosing bounds the closed connections that wait to be looked up, and
	// those that were found to wait for their peer.
	maxClosing = 4096
	// wakeClosing is how many closes come together before the loop is woken.
	wakeClosing = maxClosing / 4
	// ripeAge is how long a closed socket has to be through with its peer.
	ripeAge = int64(500 * time.Millisecond)
	// closingBudget bounds the lookups of one tick, and closingPause separates
	// ticks while lookups are left over: that is half a percent of a core.
	closingBudget = time.Millisecond
	closingPause  = 250 * time.Millisecond
	// closingBatch is how many sockets one call asks for.
	closingBatch = 64
	// reportedInterval is how often a socket is looked at that was reported.
	reportedInterval = 5 * time.Second
	// maxUnanswered lookups in a row give up a socket.
	maxUnanswered = 10
	// diagRetry is how long lookups that failed are not tried again.
	diagRetry = time.Minute
)

// departed is a connection that was closed and whose socket may wait for the
// peer.
type departed struct {
	e      *entry
	at     int64
	closer sites.ID // the call of Close, where data was left to send; else 0
	first  bool     // the peer had not closed before
}

// departure returns e, which has ended, as departed. It reports false when
// there is nothing to follow: the connection goes on, or its socket is gone.
// The caller is the one that has just ended e, or the loop before release.
func (e *entry) departure() (d departed, ok bool) {
	if e.leaked || e.forgotten || e.end == nil {
		return d, false
	}
	s := &e.end.sample
	if s.ok && s.state == Closed || e.discards() {
		return d, false
	}
	return departed{
		e: e, at: int64(e.end.at.Sub(e.t.base)), closer: e.end.closer,
		first: s.state == Established || s.state == FinWait1 || s.state == FinWait2,
	}, true
}

// discards reports whether the Close of e sent an RST in place of a FIN: the
// kernel does when something was left unread, and when SO_LINGER asks for it
// (net/ipv4/tcp.c, __tcp_close). The caller is that of departure.
func (e *entry) discards() bool {
	s := &e.end.sample
	fl := e.flags.Load()
	return s.ok && s.state != Closed && fl&flagFile == 0 && (s.recvQueue > 0 || fl&flagLingerZero != 0)
}

// departLocked hands d to the loop. The caller holds mu.
func (t *Tracker) departLocked(d departed) {
	switch n := len(t.closes); {
	case d.at < t.blindUntil.Load():
	case n >= maxClosing:
		t.count.unfollowed.Add(1)
	default:
		t.closes = append(t.closes, d)
		if (n+1)%wakeClosing == 0 {
			t.kickLocked(0)
		}
	}
}

// resetLocked hands r to the loop. The caller holds mu.
func (t *Tracker) resetLocked(r reset) {
	n := len(t.resets)
	if n >= maxClosing {
		t.count.unfollowed.Add(1)
		return
	}
	t.resets = append(t.resets, r)
	if (n+1)%wakeClosing == 0 {
		t.kickLocked(0)
	}
}

// closingChore follows the sockets of closed connections. Owned by the loop.
type closingChore struct {
	at      int64      // of the next run; 0: none
	waiting []departed // to be looked up, in order of Close
	open    []*lingerer
	halves  halfOpenPolls
	resets  resetTable
	pin     pin // while sockets linger

	spareCloses []departed // for Tracker.closes
	spareResets []reset    // for Tracker.resets

	diag     diagnoser // nil while there is nothing to ask
	diagErr  error     // why sockets cannot be looked up
	statErr  error     // why sockstat could not be read
	lookedAt int64

	tuples  []sockdiag.Tuple
	results []sockdiag.Result
}

// diagnoser looks up sockets; see package internal/sockdiag.
type diagnoser interface {
	Lookup(dst []sockdiag.Result, tuples []sockdiag.Tuple) ([]sockdiag.Result, error)
	LookupInfo(dst []sockdiag.Result, info []byte, tuples []sockdiag.Tuple) ([]sockdiag.Result, []byte, error)
	Close() error
}

func (c *closingChore) next() int64 { return c.at }

// wake plans a run for at, if none comes before.
func (c *closingChore) wake(at int64) {
	if c.at == 0 || at < c.at {
		c.at = at
	}
}

// take takes over what was closed since the last pass.
func (c *closingChore) take(t *Tracker, now int64) {
	t.mu.Lock()
	closes, resets, idle := t.closes, t.resets, t.live == 0
	t.closes, t.resets = c.spareCloses, c.spareResets
	t.mu.Unlock()
	for _, d := range closes {
		c.add(t, d)
	}
	for _, r := range resets {
		c.resets.add(t, r, now)
	}
	c.spareCloses, c.spareResets = emptied(closes), emptied(resets)
	c.arrange(idle, now)
}

// emptied returns s for another time, or nil if it has become large.
func emptied[T any](s []T) []T {
	if cap(s) > 2*maxClosing {
		return nil
	}
	clear(s)
	return s[:0]
}

func (c *closingChore) add(t *Tracker, d departed) {
	switch n := len(c.waiting); {
	case d.at < t.blindUntil.Load():
		return
	case n < maxClosing:
		c.waiting = append(c.waiting, d)
	case d.closer != 0:
		c.waiting[rand.IntN(n)] = d
		fallthrough
	default:
		t.count.unfollowed.Add(1)
	}
}

// arrange plans a run for those that wait. When the tracker is idle, the loop
// is to end soon.
func (c *closingChore) arrange(idle bool, now int64) {
	if c.resets.due != 0 {
		c.wake(c.resets.due)
		if idle {
			c.wake(now)
		}
	}
	switch n := len(c.waiting); {
	case n == 0:
	case n >= maxClosing/2:
		c.wake(now)
	case idle:
		c.wake(max(c.waiting[0].at+int64(lastDelay), now))
	default:
		c.wake(max(c.waiting[0].at+int64(youngDelay), now))
	}
}

func (c *closingChore) run(t *Tracker, now int64) {
	c.at = 0
	if t.cfg.Load().Off {
		c.forget(t, now)
		return
	}
	if len(c.waiting)+len(c.open) > 0 && !c.anyOrphan(t) {
		for _, d := range c.waiting {
			c.halves.consider(d)
		}
		clear(c.waiting)
		c.waiting = c.waiting[:0]
		for _, l := range c.open {
			l.ended(t, now)
		}
		c.open = nil
	}
	if r := &c.resets; r.due != 0 && (now >= r.due || t.idle()) {
		r.judge(t, now)
	}
	c.halves.choose(now)
	if len(c.waiting)+len(c.open)+len(c.halves.polls) > 0 {
		if wait := c.lookedAt + int64(closingPause) - now; c.lookedAt == 0 || wait <= 0 {
			c.lookUp(t, now)
		} else {
			c.wake(now + wait)
		}
	}
	c.halves.judge(t, now)
	c.plan(t, now)
}

// anyOrphan reports whether anybody's closed socket waits for its peer, on the
// whole machine: a question of some microseconds, often with the answer no.
func (c *closingChore) anyOrphan(t *Tracker) bool {
	n, err := t.seam.orphans()
	c.statErr = err
	return err != nil || n > 0
}

// lookUp asks for the sockets that are due, for about a tick's budget: those
// that were found before, then the new ones, then the polls.
func (c *closingChore) lookUp(t *Tracker, now int64) {
	if c.diag == nil {
		d, err := t.seam.diag()
		if err != nil {
			c.fail(t, err, now)
			return
		}
		c.diag, c.diagErr = d, nil
	}
	c.lookedAt = now
	q := questions{c: c, start: time.Now()}

	var due, later []*lingerer
	for _, l := range c.open {
		if l.next <= now {
			due = append(due, l)
		} else {
			later = append(later, l)
		}
	}
	left := ask(&q, due, func(l *lingerer) *entry { return l.e }, func(l *lingerer, r *sockdiag.Result) {
		if l.seen(t, r, now) {
			later = append(later, l)
		} else if halfOpen(r) {
			c.halves.consider(departed{e: l.e, at: l.closedAt, first: true})
		}
	})
	c.open = append(left, later...) // those that were not reached come first next time

	ripe := len(c.waiting)
	if !t.idle() {
		for ripe = 0; ripe < len(c.waiting) && now-c.waiting[ripe].at >= ripeAge; {
			ripe++
		}
	}
	notReached := ask(&q, c.waiting[:ripe], func(d departed) *entry { return d.e }, func(d departed, r *sockdiag.Result) {
		switch {
		case r.Status == sockdiag.Unknown, waitsForPeer(r) && len(c.open) >= maxClosing:
			t.count.unfollowed.Add(1)
		case waitsForPeer(r):
			l := &lingerer{e: d.e, closedAt: d.at, closer: d.closer, cookie: r.Socket.Cookie}
			if l.seen(t, r, now) {
				c.open = append(c.open, l)
			}
		default:
			c.halves.consider(d)
		}
	})
	c.waiting = slices.Delete(c.waiting, 0, ripe-len(notReached))
	c.halves.ask(&q, now)
	if q.err != nil {
		c.fail(t, q.err, now)
	}
}

// plan decides when to run next, and whether the loop has to stay for it.
func (c *closingChore) plan(t *Tracker, now int64) {
	if len(c.waiting) > 0 {
		c.arrange(t.idle(), now+int64(closingPause))
	}
	for _, l := range c.open {
		c.wake(max(l.next, now+int64(closingPause)))
	}
	if at := c.halves.next(); at != 0 {
		c.wake(max(at, now+int64(closingPause)))
	}
	if c.resets.due != 0 {
		c.wake(c.resets.due)
	}
	t.count.lingering.Store(int64(len(c.open)))
	c.pin.hold(t, len(c.open) > 0)
	if len(c.waiting)+len(c.open)+len(c.halves.polls) == 0 {
		c.hangUp()
	}
}

// idle reports whether no connection is tracked.
func (t *Tracker) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live == 0
}

// fail gives up following for a while, because of err.
func (c *closingChore) fail(t *Tracker, err error, now int64) {
	c.diagErr = err
	until := now + int64(diagRetry)
	if errors.Is(err, errors.ErrUnsupported) {
		until = math.MaxInt64
	}
	t.blindUntil.Store(until)
	c.forget(t, now)
}

// forget drops everything that is followed.
func (c *closingChore) forget(t *Tracker, now int64) {
	t.count.unfollowed.Add(uint64(len(c.open) + len(c.waiting)))
	for _, l := range c.open {
		l.ended(t, now)
	}
	c.waiting, c.open = nil, nil
	c.halves.forget(t, now)
	c.plan(t, now)
}

// rest gives back what is not needed while the loop does not run.
func (c *closingChore) rest(t *Tracker, now int64) {
	c.halves.forget(t, now)
	c.resets.judge(t, now)
	c.hangUp()
	c.waiting, c.spareCloses, c.spareResets, c.tuples, c.results = nil, nil, nil, nil, nil
	c.lookedAt, c.at = 0, 0
}

func (c *closingChore) hangUp() {
	if c.diag != nil {
		_ = c.diag.Close()
		c.diag = nil
	}
}

// unable returns why sockets cannot be looked up, or nil.
func (c *closingChore) unable(t *Tracker) error {
	if c.diagErr != nil || c.diag != nil {
		return c.diagErr
	}
	d, err := t.seam.diag()
	if err == nil {
		_ = d.Close()
	}
	return err
}

// facilities says what following rests on. noDiag is the answer of unable.
func (c *closingChore) facilities(t *Tracker, noDiag error) []Facility {
	follows := []Kind{KindClosingFINUnacked, KindClosingDataUndelivered, KindPeerKeepsHalfOpen}
	diag := Facility{Name: "sock_diag", OK: true, Detail: "sockets are looked up after Close"}
	if noDiag != nil {
		diag.OK, diag.Kinds = false, follows
		diag.Detail = "closed sockets cannot be looked up: " + noDiag.Error() + "; what becomes of a connection after Close is not seen"
	}
	stat := Facility{Name: "sockstat", OK: true, Detail: "closed sockets are looked up only while some wait for their peer"}
	err := c.statErr
	if err == nil {
		_, err = t.seam.orphans()
	}
	if err != nil {
		stat.OK, stat.Kinds = false, follows[:2]
		stat.Detail = "the number of orphans could not be read: " + err.Error() + "; every closed socket is looked up, and of too many some are not"
	}
	return []Facility{diag, stat}
}
