package tcpstate

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// counters are what Stats reads. All are cumulative but openFindings.
type counters struct {
	opened, closed    atomic.Uint64
	dials, dialErrors atomic.Uint64
	unwatched         atomic.Uint64
	dialsMissed       atomic.Uint64
	poolsMissed       atomic.Uint64
	sweeps            atomic.Uint64
	sweepNanos        atomic.Int64
	muted, queueFull  atomic.Uint64
	groupsFull        atomic.Uint64
	rateLimited       atomic.Uint64
	panics            atomic.Uint64
	lingering         atomic.Int64
	unfollowed        atomic.Uint64
	findings          [Error + 1]atomic.Uint64
	openFindings      [Error + 1]atomic.Int64
}

// Stats is a snapshot of a tracker's counters. It has a fixed size and is taken
// without allocation, without waiting for the loop, and not atomically as a
// whole.
type Stats struct {
	Open    int           // connections tracked now
	Opened  uint64        // connections ever tracked
	Closed  uint64        // of those, ended or let go of
	Watched int           // connections whose FIN is noticed by event; the rest waits for the sweep
	Sweeps  uint64        // complete rounds over all connections
	Sweep   time.Duration // time all rounds together took

	Dials, DialErrors uint64 // ended dials, and those that failed

	Closing    int    // closed connections whose peer has not acknowledged that; see Tracker.Closing
	Unfollowed uint64 // closed connections whose end was not looked into, because there were too many

	Audits, Inventory, Warnings, Errors int    // findings open now; events count for ten minutes
	Found                               uint64 // findings ever opened

	Muted       uint64 // findings silenced by Config.Mute when they opened
	RateLimited uint64 // groups not reported at once, because they were a moment ago
	QueueFull   uint64 // events that an observer was too slow for
	Overflow    uint64 // findings in groups of their kind, because there were too many lines
	Panics      uint64 // panics of observers that were caught
	DialsMissed uint64 // dials, or their addresses, that there was no room to judge
	PoolsMissed uint64 // pools that there was no room to ask
	Unwatched   uint64 // times tracking could only count, because time was not real (testing/synctest)
}

// Stats returns the counters of t.
func (t *Tracker) Stats() Stats {
	c := &t.count
	s := Stats{
		Opened: c.opened.Load(), Watched: int(t.watched.Load()),
		Sweeps: c.sweeps.Load(), Sweep: time.Duration(c.sweepNanos.Load()),
		Dials: c.dials.Load(), DialErrors: c.dialErrors.Load(),
		Audits:    int(c.openFindings[Audit].Load()),
		Inventory: int(c.openFindings[Inventory].Load()),
		Warnings:  int(c.openFindings[Warning].Load()),
		Errors:    int(c.openFindings[Error].Load()),
		Muted:     c.muted.Load(), QueueFull: c.queueFull.Load(), Overflow: c.groupsFull.Load(),
		RateLimited: c.rateLimited.Load(),
		Closing:     int(c.lingering.Load()), Unfollowed: c.unfollowed.Load(),
		DialsMissed: c.dialsMissed.Load(), PoolsMissed: c.poolsMissed.Load(),
		Panics: c.panics.Load(), Unwatched: c.unwatched.Load(),
	}
	s.Closed = c.closed.Load()
	for i := range c.findings {
		s.Found += c.findings[i].Load()
	}
	t.mu.Lock()
	s.Open = t.live
	t.mu.Unlock()
	return s
}

// series counts the connections of one name and role. The number of names is
// bounded: beyond maxSeries they share one.
type series struct {
	role           Role
	name           string
	opened, closed atomic.Uint64
	in, out        atomic.Uint64
	retransmits    atomic.Uint64
	states         [16]atomic.Int64 // by State
}

type seriesKey struct {
	role Role
	name string
}

const (
	maxSeries  = 50
	otherNames = "_OTHER"
)

type seriesTable struct {
	mu    sync.RWMutex // guards following fields
	m     map[seriesKey]*series
	names map[string]struct{} // in m, but for otherNames
}

func (j *judgement) seriesOf(role Role, name string) *series {
	tab := &j.series
	key := seriesKey{role, name}
	tab.mu.RLock()
	s := tab.m[key]
	tab.mu.RUnlock()
	if s != nil {
		return s
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if s := tab.m[key]; s != nil {
		return s
	}
	if _, ok := tab.names[name]; !ok && name != otherNames {
		if len(tab.names) < maxSeries {
			tab.names[name] = struct{}{}
		} else if key.name = otherNames; tab.m[key] != nil {
			return tab.m[key]
		}
	}
	s = &series{role: key.role, name: key.name}
	tab.m[key] = s
	return s
}

// Series is a census of the connections with one name and role.
type Series struct {
	Role           Role
	Name           string // Origin.Name; "_OTHER" for all names beyond the first fifty
	Opened, Closed uint64
	BytesIn        uint64 // as of the last sample of each connection
	BytesOut       uint64
	Retransmits    uint64
	states         [16]int64
}

// InState returns how many of the connections are in state s.
func (s *Series) InState(st State) int64 {
	if int(st) >= len(s.states) {
		return 0
	}
	return max(s.states[st], 0)
}

// Series returns a census by name and role, from counters that the sweep keeps:
// it makes no system call.
func (t *Tracker) Series() iter.Seq[Series] {
	t.init()
	return func(yield func(Series) bool) {
		tab := &t.judge.series
		tab.mu.RLock()
		all := make([]*series, 0, len(tab.m))
		for _, s := range tab.m {
			all = append(all, s)
		}
		tab.mu.RUnlock()
		slices.SortFunc(all, func(a, b *series) int {
			return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.name, b.name))
		})
		for _, s := range all {
			pub := Series{
				Role: s.role, Name: s.name, Opened: s.opened.Load(), Closed: s.closed.Load(),
				BytesIn: s.in.Load(), BytesOut: s.out.Load(), Retransmits: s.retransmits.Load(),
			}
			for i := range s.states {
				pub.states[i] = s.states[i].Load()
			}
			if !yield(pub) {
				return
			}
		}
	}
}

// traffic adds what e moved since its last sample.
func (j *judgement) traffic(e *entry, s *sample) {
	if !s.ok {
		return
	}
	now, last := s.traffic(), e.last
	if now == last {
		return // as most connections at most sweeps
	}
	e.drained = e.drained && now.in == last.in
	e.series.in.Add(now.in - min(now.in, last.in))
	e.series.out.Add(now.out - min(now.out, last.out))
	e.series.retransmits.Add(uint64(now.retransmits - min(now.retransmits, last.retransmits)))
	e.last = now
}

// record adds what e moved between its last sample and its end.
func (s *series) record(e *entry) {
	final := e.final()
	e.t.judge.traffic(e, &final)
}

// FindingCount is how many findings of one kind are open at one line of code.
type FindingCount struct {
	ID       uint64 // Group.ID
	Kind     Kind
	Severity Severity
	Name     string // Series.Name of the connections
	Role     Role
	Frame    Frame // the line to open; zero when it is not known
	Open     int
	Opened   uint64 // by this group, ever
}

// FindingCounts returns the groups that are open, without the detail that
// Findings has. What is only counted is among them, with severity Count; muted
// groups are not.
func (t *Tracker) FindingCounts() []FindingCount {
	t.init()
	t.judge.mu.Lock()
	defer t.judge.mu.Unlock()
	now := t.now()
	t.refresh(now)
	t.flush(now)
	all := make([]FindingCount, 0, len(t.judge.groups))
	for _, g := range t.judge.groups {
		if g.open == 0 || t.muted(g) {
			continue
		}
		c := FindingCount{
			ID: g.id, Kind: g.key.kind, Severity: g.key.severity, Name: g.key.name, Role: g.key.role,
			Open: g.open, Opened: g.opened,
		}
		if fs := publicFrames(g.site.Owner(t.judge.hide)); len(fs) > 0 {
			c.Frame = fs[0]
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b FindingCount) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Frame.File, b.Frame.File), a.Frame.Line-b.Frame.Line)
	})
	return all
}
