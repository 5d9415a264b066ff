package tcpstate

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// PoolStats is what a pool of connections says of itself. Of what may be
// negative, a negative number means that the pool does not count it.
type PoolStats struct {
	Name string // Origin.Name; Tracker.Pools sets it

	Idle, Used       int // connections that lie ready, that are lent out
	Max              int // of both together; 0: no limit
	IdleMax, IdleMin int // 0: no limit, or not known

	Pending  int   // requests that wait for a connection now; may be negative
	Timeouts int64 // requests that gave up waiting, ever; may be negative

	Waits   PoolTimes // requests that had to wait for a connection
	Uses    PoolTimes // connections that were given back
	Creates PoolTimes // connections that were made

	Discards []PoolDiscards // connections that were not used again, by reason

	// Database says that the other end is a database, for observers that know
	// names for pools of those.
	Database bool
}

// PoolTimes is how often something happened and how long it took together. A
// negative Count means that the pool does not count it.
type PoolTimes struct {
	Count int64
	Time  time.Duration
}

// PoolDiscards is how many connections a pool has closed for one reason, ever.
type PoolDiscards struct {
	Reason DiscardReason
	Count  int64
}

// DiscardReason says why a pool did not keep a connection.
type DiscardReason string

// The reasons, as they stand on metrics.
const (
	DiscardPeerClosed  DiscardReason = "peer_closed"  // the peer had closed it
	DiscardUnreadData  DiscardReason = "unread_data"  // bytes came that nobody has read
	DiscardIdleTimeout DiscardReason = "idle_timeout" // it lay idle for too long
	DiscardIdleMax     DiscardReason = "idle_max"     // enough were idle
	DiscardMaxLifetime DiscardReason = "max_lifetime" // it was too old
	DiscardProbeFailed DiscardReason = "probe_failed" // its peer did not answer
	DiscardCaller      DiscardReason = "caller"       // whoever had it did not want it to be used again
)

// maxPools bounds the pools that tell of themselves.
const maxPools = 256

// pollTable is the pools that tell of themselves, and what the loop has asked
// the ones whose connections it has to judge by that.
type pollTable struct {
	lending atomic.Bool // there are names

	mu    sync.Mutex // guards following fields; never held over a call of a pool
	pools []*polled
	names map[string]*lender
	due   int64 // when the loop asks next; 0: nobody to ask
}

// polled is a pool that tells of itself.
type polled struct {
	name string
	ask  func() (PoolStats, bool)
	lend bool     // it tells nothing else
	from *lender  // if so; immutable after addPolled
	last shortage // owned by the loop
}

// Report lets the pool tell of itself: stats is called, from any goroutine and
// with no lock of the tracker held, whenever somebody wants to know. It must be
// quick. When it returns false or panics, or stop is called, it is forgotten;
// until then the tracker keeps whatever it refers to. Beyond 256 pools, nothing is told,
// which Stats counts.
func (p *Pool) Report(stats func() (s PoolStats, ok bool)) (stop func()) {
	if p == nil || stats == nil {
		return func() {}
	}
	return p.t.addPolled(&polled{name: p.name, ask: stats})
}

// addPolled begins to ask p.
func (t *Tracker) addPolled(p *polled) (stop func()) {
	tab := &t.judge.polls
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if len(tab.pools) >= maxPools || t.isClosed() {
		t.count.poolsMissed.Add(1)
		return func() {}
	}
	tab.pools = append(tab.pools, p)
	if p.lend {
		p.from = tab.lenderLocked(p.name)
		tab.due = t.now()
	}
	return sync.OnceFunc(func() { t.dropPolled(p) })
}

// dropPolled forgets p, if it is known.
func (t *Tracker) dropPolled(p *polled) {
	tab := &t.judge.polls
	tab.mu.Lock()
	defer tab.mu.Unlock()
	i := slices.Index(tab.pools, p)
	if i < 0 {
		return
	}
	tab.pools = slices.Delete(tab.pools, i, i+1)
	if p.from != nil && !slices.ContainsFunc(tab.pools, func(o *polled) bool { return o.from == p.from }) {
		tab.endLocked(p.from)
	}
}

// forget drops all pools.
func (tab *pollTable) forget() {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.pools = nil
	for _, l := range tab.names {
		tab.endLocked(l)
	}
}

// all returns the pools that tell of themselves; with lending, only those whose
// connections are judged by that.
func (tab *pollTable) all(lending bool) []*polled {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	some := make([]*polled, 0, len(tab.pools))
	for _, p := range tab.pools {
		if !lending || p.from != nil {
			some = append(some, p)
		}
	}
	return some
}

// asked returns what p says of itself. It forgets a pool that is no more.
func (t *Tracker) asked(p *polled) (s PoolStats, ok bool) {
	defer func() {
		if r := recover(); r != nil {
			t.panicked(r)
			ok = false
		}
		if !ok {
			t.dropPolled(p)
		}
	}()
	s, ok = p.ask()
	s.Name = p.name
	return s, ok
}

// Pools asks all pools that tell of themselves, by Pool.Report or WatchPool, in
// the order of their names. While Config.Off is set there are none.
func (t *Tracker) Pools() iter.Seq[PoolStats] {
	t.init()
	return func(yield func(PoolStats) bool) {
		if t.cfg.Load().Off {
			return
		}
		all := t.judge.polls.all(false)
		slices.SortStableFunc(all, func(a, b *polled) int { return cmp.Compare(a.name, b.name) })
		for _, p := range all {
			if s, ok := t.asked(p); ok && !yield(s) {
				return
			}
		}
	}
}
