package tcpstate

import (
	"cmp"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// This file is about pools that do not tell who takes a connection and who
// gives it back, as that of database/sql. When all connections of such a pool
// are lent out and somebody had to wait, the silent ones are missed; the last
// line that read from one is the line that has it.

// WatchPool watches a pool that is not made for it: its connections are those
// with the name o.Name, which nobody else may use, and stats is all that it
// tells. See Pool.Report for how stats is called; here the loop asks, too. stop
// ends the watch. There is none with an empty name, without stats, or when
// stats returns false at once.
//
// When all connections are lent out, somebody has had to wait, and one moves no
// byte for Thresholds.Borrowed, it is reported as leak.not_returned, at the line
// that read from it last. A connection on which a Read is waiting is not: the
// peer owes an answer. That takes the wrapper; connections that were attached
// are not judged. To know the line, each Read of such a connection takes its
// call stack, in about a microsecond.
//
// As long as some connections are idle, a peer's close counts as that of an idle
// one: see Expect.Pooled.
func (t *Tracker) WatchPool(o Origin, stats func() (s PoolStats, ok bool)) (stop func()) {
	t.init()
	if o.Name == "" || stats == nil {
		return func() {}
	}
	p := &polled{name: o.Name, ask: stats, lend: true}
	s, ok := t.asked(p)
	if !ok {
		return func() {}
	}
	p.last.waits = s.Waits
	stop = t.addPolled(p)
	if p.from != nil {
		for _, e := range t.entries() {
			e.lend(p.from)
		}
		t.kick(youngDelay)
	}
	return stop
}

// lender is the pools with one name that do not tell who has a connection.
type lender struct {
	name  string
	ended atomic.Bool  // none is watched
	conns atomic.Int64 // open connections with the name

	// As the pools have told last.
	busy       atomic.Int64 // since when all connections are lent out; 0: one is idle
	missed     atomic.Int64 // since when somebody misses one; 0: nobody does
	full       atomic.Bool  // there may be no more connections than are lent out
	used, most atomic.Int64
	waits      atomic.Int64 // ever
}

// lent is what is known of the use of a connection that a lender has.
type lent struct {
	from    *lender
	line    atomic.Uint32 // sites.ID of the last Read; 0: none yet
	read    atomic.Uint64 // when that was, as an epoch
	reading atomic.Int32  // calls of Read that go on
}

// lenderLocked returns the one with this name. The caller holds mu.
func (tab *pollTable) lenderLocked(name string) *lender {
	l := tab.names[name]
	if l == nil {
		l = &lender{name: name}
		if tab.names == nil {
			tab.names = make(map[string]*lender)
		}
		tab.names[name] = l
		tab.lending.Store(true)
	}
	return l
}

// endLocked ends the watch of l, which has no pool any more. The caller holds
// mu.
func (tab *pollTable) endLocked(l *lender) {
	l.ended.Store(true)
	l.missed.Store(0)
	l.busy.Store(0)
	delete(tab.names, l.name)
	if len(tab.names) == 0 {
		tab.lending.Store(false)
		tab.due = 0
	}
}

// lends looks whether e, which has just been registered, is a connection of a
// pool that has to be asked.
func (tab *pollTable) lends(e *entry) {
	if !tab.lending.Load() || e.role != Client {
		return
	}
	tab.mu.Lock()
	l := tab.names[e.name]
	tab.mu.Unlock()
	if l != nil {
		e.lend(l)
	}
}

// lend says that e is a connection of l, if it has that name.
func (e *entry) lend(l *lender) {
	if e.role != Client || e.name != l.name {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.lent.Load()
	switch {
	case e.closed || old != nil && old.from == l:
		return
	case old != nil:
		old.from.conns.Add(-1)
	}
	e.lent.Store(&lent{from: l})
	l.conns.Add(1)
}

// unlend takes e, which is closed, off the connections of its pool.
func (e *entry) unlend() {
	if l := e.lent.Load(); l != nil {
		l.from.conns.Add(-1)
	}
}

// noted reports whether to remember who reads.
func (l *lent) noted() bool { return l != nil && !l.from.ended.Load() }

// inUse reports whether somebody may have the connection who does nothing with
// it: one who was seen to have read, and who does not wait for the peer.
func (l *lent) inUse() bool {
	return l != nil && l.line.Load() != 0 && l.reading.Load() == 0
}

// mayBeIdle reports whether the connection may lie in its pool.
func (l *lent) mayBeIdle() bool { return l.noted() && !l.from.full.Load() }

// site returns the line that read last, 0 if it is not known.
func (l *lent) site() sites.ID {
	if l == nil {
		return 0
	}
	return sites.ID(l.line.Load())
}

// evidence adds what the pool has told to a finding.
func (l *lent) evidence(ev *Evidence) {
	if l == nil {
		return
	}
	out := fmt.Sprintf("%d of %d", l.from.used.Load(), l.from.most.Load())
	if l.from.most.Load() == 0 {
		out = fmt.Sprintf("all %d", l.from.used.Load())
	}
	ev.note(noteLentOut, out)
	ev.note("waits so far", thousands(int(l.from.waits.Load())))
}

const noteLentOut = "lent out"

// shortage is what the loop knows of a pool by what it told before.
type shortage struct {
	full   bool      // no connection is idle, and there may be no more
	busy   int64     // since when none is idle; 0: one is, or there is none
	missed int64     // since when somebody misses one; 0: nobody does
	waits  PoolTimes // as told
}

// next returns what follows from s. A pool of database/sql counts a wait when it
// begins, and its time when it ends. So a count that rises while all connections
// are lent out is somebody who misses one; of a wait that began since the last
// time, when one was idle, that holds as long as no wait has ended.
func (x shortage) next(s *PoolStats, now int64) shortage {
	y := shortage{full: s.Max > 0 && s.Used >= s.Max, waits: s.Waits}
	if s.Used > 0 && (y.full || s.Idle == 0) {
		y.busy = cmp.Or(x.busy, now)
	}
	rose := s.Waits.Count > x.waits.Count
	switch {
	case !y.full:
	case x.missed != 0:
		y.missed = x.missed
	case s.Pending > 0, rose && (x.full || s.Waits.Time == x.waits.Time):
		y.missed = now
	}
	return y
}

// pollInterval is how often pools are asked that have an idle connection, unless
// the sweep is more frequent.
const pollInterval = 10 * time.Second

// next returns when the loop has to ask; 0: never.
func (tab *pollTable) next() int64 {
	if !tab.lending.Load() {
		return 0
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	return tab.due
}

// poll asks the pools whose connections are judged by what they tell, if it is
// time. The loop calls it with no lock held.
func (t *Tracker) poll() {
	tab, now := &t.judge.polls, t.now()
	if due := tab.next(); due == 0 || now < due {
		return
	}
	wait := min(t.cfg.Load().sweep(), pollInterval)
	told := make(map[*lender]*lenderTold)
	for _, p := range tab.all(true) {
		s, ok := t.asked(p)
		if !ok {
			continue
		}
		p.last = p.last.next(&s, now)
		if told[p.from] == nil {
			told[p.from] = &lenderTold{full: true, busy: none, missed: none}
		}
		told[p.from].add(&s, &p.last)
		if p.last.full {
			wait = min(wait, suspectInterval)
		}
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	for l, sum := range told {
		if !l.ended.Load() {
			l.tell(sum)
		}
	}
	if tab.due != 0 {
		tab.due = now + int64(wait)
	}
}

// lenderTold is what all pools of a lender have told.
type lenderTold struct {
	full             bool  // all are
	busy, missed     int64 // since when in all of them; 0: not in all
	idle, used, most int
	waits            int64
}

func (sum *lenderTold) add(s *PoolStats, x *shortage) {
	sum.full = sum.full && x.full
	sum.busy, sum.missed = both(sum.busy, x.busy), both(sum.missed, x.missed)
	sum.idle += s.Idle
	sum.used += s.Used
	sum.most += s.Max
	sum.waits += max(s.Waits.Count, 0)
}

// none is since when something is so in all pools, before the first one.
const none = math.MinInt64

// both returns since when two things are so: one since a, the other since b; 0:
// they are not.
func both(a, b int64) int64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// tell sets what the pools of l have told. More connections than they have are
// not theirs alone: then nobody knows which ones are lent out.
func (l *lender) tell(sum *lenderTold) {
	if l.conns.Load() > int64(sum.used+sum.idle) {
		sum.full, sum.busy, sum.missed = false, 0, 0
	}
	l.busy.Store(sum.busy)
	l.full.Store(sum.full)
	l.missed.Store(sum.missed)
	l.used.Store(int64(sum.used))
	l.most.Store(int64(sum.most))
	l.waits.Store(sum.waits)
}
