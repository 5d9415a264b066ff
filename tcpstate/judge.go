package tcpstate

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// judgement is what the loop owns beside the entries: the findings that are
// open and their groups.
type judgement struct {
	mu sync.Mutex // guards following fields, and those of entries marked as owned by the loop

	agenda     agenda
	sampler    *sampler
	suspects   []*entry
	spare      []*entry
	sweepStart int64
	sweepWork  time.Duration

	findings map[*entry]*finding
	groups   map[groupKey]*group
	lastID   uint64 // of findings and groups
	fallback []*subscriber

	limit       int64 // epoll watches we may take; negative: not known, no limit of ours
	limitErr    error
	unarmed     uint64 // connections left to the sweep
	watchErrors uint64 // the kernel refused a watch
	infoErr     error  // why TCP_INFO could not be read, once
	infoErrors  uint64

	pollerErr atomic.Pointer[error] // nil: epoll works, or has not been tried
	series    seriesTable
}

func (j *judgement) init(t *Tracker) {
	j.sampler = samplers.New().(*sampler)
	j.findings = make(map[*entry]*finding)
	j.groups = make(map[groupKey]*group)
	j.limit = -1
	j.series.m = make(map[seriesKey]*series)
	j.fallback = []*subscriber{{t: t, o: slogObserver(t)}}
}

// readLimit decides how many epoll watches we may take: a quarter of what the
// user has.
func (j *judgement) readLimit(maxWatches func() (int, error)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, err := maxWatches()
	j.limit, j.limitErr = int64(n)/4, err
	if err != nil {
		j.limit = -1
	}
}

func (j *judgement) noInfo(err error) {
	j.infoErrors++
	if j.infoErr == nil {
		j.infoErr = err
	}
}

func (t *Tracker) jitter(n int64) int64 {
	if n <= 0 {
		return 0
	}
	if t.seam.clock != nil {
		return n / 2
	}
	return rand.Int64N(n)
}

// finding is one fault of one connection.
type finding struct {
	id       uint64
	kind     Kind
	cause    string
	since    int64
	openedAt int64
	e        *entry
	g        *group
}

// groupKey is what the findings of a group share: the kind and the line to
// open, or the name where no line is known.
type groupKey struct {
	kind Kind
	line uint64
	name string
	role Role
}

// group is the findings that one line of code causes. It is what is reported:
// five thousand leaks from one line are one report.
type group struct {
	id              uint64
	key             groupKey
	site            sites.ID
	open            int
	opened, cleared uint64
	since           int64 // of the first finding
	openedAt        int64
	expires         int64 // collected connections are a fact of the past: forgotten then
	muted           bool
	lead            *finding // the example that is shown

	// Of the last report.
	toldAt, interval        int64
	toldOpened, toldCleared uint64
	toldSize                int
}

// collectedFor is how long a group of collected connections stays open after
// its last member: the descriptors are closed soon, the bug is not.
const collectedFor = int64(10 * time.Minute)

// maxCollected bounds the collected connections of one group that Findings
// shows; the others are counted.
const maxCollected = 64

// maxGroups bounds the groups; findings beyond it are counted, not reported.
const maxGroups = 4096

// settle brings the findings in line with the verdict on e.
func (j *judgement) settle(t *Tracker, e *entry, v verdict, now int64) {
	f := e.sus.finding
	switch {
	case v.kind == "" && f == nil:
	case v.kind == "":
		e.sus.finding = nil
		t.clear(f, now, "")
	case f == nil:
		e.sus.finding = t.open(e, v, now)
	case f.kind != v.kind:
		t.change(f, v, now)
	default:
		f.cause = v.cause
	}
}

// open opens a finding. It returns nil when it is muted or there is no room.
func (t *Tracker) open(e *entry, v verdict, now int64) *finding {
	j := &t.judge
	j.lastID++
	f := &finding{id: j.lastID, kind: v.kind, cause: v.cause, since: v.since, openedAt: now, e: e}
	if !t.join(f, now) {
		return nil
	}
	if f.kind != KindLeakCollected || f.g.open <= maxCollected {
		j.findings[e] = f
	}
	if f.g.open == 1 && f.g.opened == 1 {
		t.report(eventOpened, f, "", now)
	} else {
		t.remindSoon(f.g, now)
	}
	return f
}

// join adds f to its group.
func (t *Tracker) join(f *finding, now int64) bool {
	j := &t.judge
	site, name := f.e.ownerSite(f.kind)
	key := groupKey{kind: f.kind, line: site.OwnerKey(t.cfg.Load().HideFrames), role: f.e.role}
	if key.line == 0 {
		key.name = name
	}
	g := j.groups[key]
	if g == nil {
		if len(j.groups) >= maxGroups {
			t.count.groupsFull.Add(1)
			return false
		}
		j.lastID++
		g = &group{id: j.lastID, key: key, site: site, since: f.since, openedAt: now, lead: f}
		g.interval = int64(t.cfg.Load().Thresholds.reminder())
		g.muted = t.muted(f, site)
		j.groups[key] = g
	}
	f.g = g
	g.open++
	g.opened++
	if f.kind == KindLeakCollected {
		g.expires = now + collectedFor
		t.remindSoon(g, now)
	}
	sev := f.kind.Severity()
	t.count.findings[sev].Add(1)
	t.count.openFindings[sev].Add(1)
	if g.muted {
		t.count.muted.Add(1)
	}
	return true
}

// leave takes f out of its group and reports whether that was the last one.
func (t *Tracker) leave(f *finding, n int) (last bool) {
	g := f.g
	g.open -= n
	g.cleared += uint64(n)
	t.count.openFindings[f.kind.Severity()].Add(int64(-n))
	if g.open > 0 {
		if g.lead == f {
			g.lead = t.judge.exampleOf(g)
		}
		return false
	}
	delete(t.judge.groups, g.key)
	return true
}

// exampleOf finds another member of g to show.
func (j *judgement) exampleOf(g *group) *finding {
	for _, f := range j.findings {
		if f.g == g {
			return f
		}
	}
	return g.lead
}

// clear ends f. became is the kind it changed to, if it did.
func (t *Tracker) clear(f *finding, now int64, became Kind) {
	if f == nil {
		return
	}
	delete(t.judge.findings, f.e)
	t.departed(f, now, became)
}

func (t *Tracker) departed(f *finding, now int64, became Kind) {
	if t.leave(f, 1) {
		t.report(eventCleared, f, became, now)
	} else {
		t.remindSoon(f.g, now)
	}
}

// change turns f into another kind. Identity and age stay.
func (t *Tracker) change(f *finding, v verdict, now int64) {
	old := *f
	t.departed(&old, now, v.kind)
	f.kind, f.cause = v.kind, v.cause
	f.since = min(f.since, v.since)
	if !t.join(f, now) {
		f.e.sus.finding = nil
		delete(t.judge.findings, f.e)
		return
	}
	if f.g.open == 1 && f.g.opened == 1 {
		t.report(eventChanged, f, old.kind, now)
	} else {
		t.remindSoon(f.g, now)
	}
}

// account takes leave of a connection that has ended.
func (t *Tracker) account(e *entry, now int64) {
	e.series.states[e.state].Add(-1)
	e.mu.Lock()
	leaked, forgotten := e.leaked, e.forgotten
	var ignored bool
	if x := e.expect.Load(); x != nil {
		ignored = x.ignores(KindLeakCollected)
	}
	e.mu.Unlock()

	var kinds []Kind
	if e.sus != nil && e.sus.finding != nil {
		f := e.sus.finding
		kinds = append(kinds, f.kind)
		e.sus.finding = nil
		if leaked {
			// One bug: what was seen while it was open, and now its cause.
			delete(t.judge.findings, e)
			t.departed(f, now, KindLeakCollected)
		} else {
			t.clear(f, now, "")
		}
	}
	if leaked && !ignored && t.cfg.Load().Thresholds.Collected >= 0 {
		kinds = append(kinds, KindLeakCollected)
		t.open(e, verdict{kind: KindLeakCollected, since: now}, now)
	}
	e.series.record(e)
	if forgotten {
		return
	}
	t.tellClosed(e, kinds)
}

// remindSoon makes sure that the change in g is told, when its time has come.
func (t *Tracker) remindSoon(g *group, now int64) {
	a := &t.judge.agenda
	at := g.toldAt + g.interval
	if g.expires != 0 {
		at = min(at, g.expires)
	}
	if a.remind == 0 || at < a.remind {
		a.remind = max(at, now+1)
	}
}

// remind tells of the groups that have changed since they were last told of,
// and ends those that have expired.
func (t *Tracker) remind(now int64) {
	j := &t.judge
	j.agenda.remind = 0
	for _, g := range j.groups {
		if g.expires != 0 && now >= g.expires {
			t.expire(g, now)
			continue
		}
		changed := g.opened != g.toldOpened || g.cleared != g.toldCleared
		if changed && now >= g.toldAt+g.interval {
			g.interval = min(g.interval*2, int64(maxReminder))
			t.report(eventReminded, g.lead, "", now)
			changed = false
		}
		if changed || g.expires != 0 {
			t.remindSoon(g, now)
		}
	}
}

// expire ends a group of collected connections.
func (t *Tracker) expire(g *group, now int64) {
	lead := g.lead
	for e, f := range t.judge.findings {
		if f.g == g {
			delete(t.judge.findings, e)
		}
	}
	t.leave(lead, g.open)
	t.report(eventCleared, lead, "", now)
}

// report tells everybody of f and its group. other is the kind that it had or
// got when it changes.
func (t *Tracker) report(what eventKind, f *finding, other Kind, now int64) {
	g := f.g
	if g.muted {
		return
	}
	for _, s := range t.subscribers() {
		s.push(t.eventFor(s, what, f, other, now))
	}
	g.toldAt, g.toldOpened, g.toldCleared = now, g.opened, g.cleared
}

func (t *Tracker) eventFor(s *subscriber, what eventKind, f *finding, other Kind, now int64) event {
	pub := t.publish(f, s, now)
	switch what {
	case eventCleared:
		pub.ClearedAt, pub.Became = t.wall(now), other
	case eventChanged:
		pub.Was = other
	}
	return event{what: what, finding: pub}
}

// replay tells s of the groups that are open.
func (t *Tracker) replay(s *subscriber) {
	now := t.now()
	for _, g := range t.judge.groups {
		if g.muted {
			continue
		}
		ev := t.eventFor(s, eventOpened, g.lead, "", now)
		// To this observer everything is new.
		ev.finding.Group.NewlyOpened, ev.finding.Group.NewlyCleared = g.opened, g.cleared
		s.push(ev)
	}
}

// muted reports whether the configuration silences f.
func (t *Tracker) muted(f *finding, site sites.ID) bool {
	cfg := t.cfg.Load()
	for i := range cfg.Mute {
		m := &cfg.Mute[i]
		if !m.Until.IsZero() && t.seam.now().After(m.Until) {
			continue
		}
		if (m.Kind == "" || m.Kind.covers(f.kind)) && (m.Name == "" || m.Name == f.e.name) && m.matchesSite(site, cfg.HideFrames) {
			return true
		}
	}
	return false
}
