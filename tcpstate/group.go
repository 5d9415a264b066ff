package tcpstate

import (
	"cmp"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// groupKey is what the findings of a group share: the kind, the line to open
// and the bounded name of the connection.
type groupKey struct {
	kind     Kind
	severity Severity
	line     uint64 // 0: not known
	name     string
	role     Role
}

// group is the findings that one line of code causes. It is what is reported:
// five thousand leaks from one line are one report.
//
// A group whose last member has left is kept for a while, dormant, so that a
// line whose findings come and go is not reported each time.
type group struct {
	id              uint64
	key             groupKey
	site            sites.ID
	name            string // of the connection that opened the group
	open            int    // 0: dormant
	kept            int    // of those, on the list
	opened, cleared uint64
	since           int64 // of the first finding
	expires         int64 // of events, which are facts of the past: forgotten then
	growth          growth
	first, last     *finding // the first is the example that is shown

	news     bool  // on the list of news
	was      Kind  // that its first member had before
	toldAt   int64 // last report but the one of its end; 0: none
	interval int64 // until the next
}

// maxGroups bounds the groups; beyond it, there is one for each kind.
const maxGroups = 4096

// join adds f to its group, which gets the number id if f opens it. was is the
// kind that f had before, if any.
func (t *Tracker) join(f *finding, id uint64, was Kind, now int64) {
	j := &t.judge
	key, site := f.groupKey(j.hide)
	g := j.groups[key]
	if g == nil && len(j.groups) >= maxGroups && !t.dropDormant() {
		t.count.groupsFull.Add(1)
		key, site = groupKey{kind: f.kind, severity: f.severity, name: otherNames, role: key.role}, 0
		g = j.groups[key]
	}
	if g == nil {
		g = &group{key: key}
		j.groups[key] = g
	}
	f.g = g
	g.growth.step(now, g.open)
	if g.open == 0 {
		g.id, g.site, g.name, g.since = id, site, f.about.label(), f.since
		t.awake(g, was, now)
	} else if !g.news {
		t.remindSoon(g, now)
	}
	g.open++
	g.opened++
	t.count.openFindings[f.severity].Add(1)
	if f.kind.info().Event {
		g.expires = now + eventFor
		t.remindAt(g.expires, now)
		if g.kept >= maxEvents {
			delete(j.findings, f)
			return
		}
	}
	j.findings[f] = struct{}{}
	g.append(f)
}

// groupKey returns the key of the group that f belongs to, and the place that
// it is named after.
func (f *finding) groupKey(hide []string) (groupKey, sites.ID) {
	site := f.about.ownerSite(f.kind, hide)
	name, role := f.about.dimension()
	return groupKey{kind: f.kind, severity: f.severity, line: site.OwnerKey(hide), name: name, role: role}, site
}

// awake opens g, which was dormant or is new. It is told of at the end of the
// pass, unless that would be too often.
func (t *Tracker) awake(g *group, was Kind, now int64) {
	base := int64(t.cfg.Load().limits.Reminder)
	t.forgetTold(g)
	g.was = was
	switch pause := now - g.toldAt; {
	case g.toldAt == 0 || g.interval == int64(off) || pause >= 2*g.interval:
		g.interval = base
	case pause < g.interval:
		t.count.rateLimited.Add(1)
		t.remindSoon(g, now)
		return
	default:
		g.interval = min(2*g.interval, int64(maxReminder))
	}
	if !g.news {
		g.news = true
		t.judge.news = append(t.judge.news, g)
	}
}

// leave takes f out of its group. became is the kind that it turns to, if any.
func (t *Tracker) leave(f *finding, became Kind, now int64) {
	g := f.g
	g.growth.step(now, g.open)
	g.open--
	g.cleared++
	t.count.openFindings[f.severity].Add(-1)
	if g.open == 0 {
		t.report(g, f, became, now)
	} else {
		t.remindSoon(g, now)
	}
	g.remove(f)
}

// append puts f at the end of the list of members.
func (g *group) append(f *finding) {
	f.prev, f.next = g.last, nil
	if g.last != nil {
		g.last.next = f
	} else {
		g.first = f
	}
	g.last = f
	g.kept++
}

// remove takes f off the list of members.
func (g *group) remove(f *finding) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		g.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		g.last = f.prev
	}
	f.next, f.prev = nil, nil
	g.kept--
}

// expire ends a group of events.
func (t *Tracker) expire(g *group, now int64) {
	g.expires = 0
	if g.open == 0 {
		return
	}
	t.count.openFindings[g.key.severity].Add(int64(-g.open))
	g.cleared += uint64(g.open)
	g.open = 0
	t.report(g, g.first, "", now)
	for g.first != nil {
		delete(t.judge.findings, g.first)
		g.remove(g.first)
	}
}

// regroup forms the groups anew after HideFrames has changed.
func (t *Tracker) regroup(hide []string, now int64) {
	j := &t.judge
	var moved []*finding
	more := make(map[*finding]int) // events that are only counted go where the example goes
	for f := range j.findings {
		if key, _ := f.groupKey(hide); key != f.g.key {
			moved = append(moved, f)
			if f == f.g.first {
				more[f] = f.g.open - f.g.kept
			}
		}
	}
	slices.SortFunc(moved, func(a, b *finding) int { return cmp.Compare(a.id, b.id) })
	for _, f := range moved { // named as those who were told know them
		f.g.open -= more[f]
		f.g.cleared += uint64(more[f])
		t.leave(f, f.kind, now)
	}
	j.hide = hide
	for _, f := range moved {
		j.lastID++
		t.join(f, j.lastID, "", now)
		f.g.open += more[f]
		f.g.opened += uint64(more[f])
	}
}

// dropDormant makes room for a group and reports whether there was any to make.
func (t *Tracker) dropDormant() bool {
	n := len(t.judge.groups)
	for key, g := range t.judge.groups {
		if g.open == 0 && !g.news {
			delete(t.judge.groups, key)
			for _, s := range t.everybody() {
				delete(s.told, g)
			}
		}
	}
	return len(t.judge.groups) < n
}

// growth measures how fast a number grew lately: over the last five to ten
// minutes.
type growth struct {
	changed int64
	at      [2]int64 // begin of the period before, begin of this one
	n       [2]int   // the number then
}

const growthPeriod = int64(5 * time.Minute)

// step is called before the number, still n, changes.
func (w *growth) step(now int64, n int) {
	switch {
	case w.changed == 0:
		// The first of a group is no growth.
		w.at, w.n = [2]int64{now, now}, [2]int{1, 1}
	case now-w.changed >= growthPeriod:
		w.at, w.n = [2]int64{now - growthPeriod, now}, [2]int{n, n}
	case now-w.at[1] >= growthPeriod:
		w.at, w.n = [2]int64{w.at[1], now}, [2]int{w.n[1], n}
	}
	w.changed = now
}

// perMinute returns the growth of the number, n by now; negative when it fell.
// Over less than a minute nothing can be said.
func (w *growth) perMinute(now int64, n int) float64 {
	d := time.Duration(now - w.at[0])
	if d < time.Minute || now-w.changed >= 2*growthPeriod {
		return 0
	}
	return float64(n-w.n[0]) / d.Minutes()
}
