package tcpstate

import "math"

// This file decides who is told what of a group, and when.

// told is what one subscriber knows of a group.
type told struct {
	open            bool
	opened, cleared uint64
}

// behind reports whether the subscriber has news to learn of g.
func (k told) behind(g *group) bool {
	return k.open != (g.open > 0) || k.opened != g.opened || k.cleared != g.cleared
}

// flush tells of the groups that have opened in this pass, with all members
// that were found in it.
func (t *Tracker) flush(now int64) {
	j := &t.judge
	for _, g := range j.news {
		g.news = false
		if g.open == 0 {
			continue
		}
		t.report(g, g.first, "", now)
		t.retrySoon(g, now)
	}
	clear(j.news)
	j.news = j.news[:0]
}

// onlyCounted reports whether nobody is told of g: single events that are normal
// in small numbers.
func (g *group) onlyCounted() bool { return g.key.severity == Count }

// report tells everybody what they do not know of g, with f as the example: by
// which event depends on what they know. became is, when g has ended, the kind
// that f turns to, if any.
func (t *Tracker) report(g *group, f *finding, became Kind, now int64) {
	if g.onlyCounted() {
		return
	}
	ended := g.open == 0
	if !ended {
		if t.muted(g) {
			return
		}
		g.toldAt = now
	}
	proc := thisProcess()
	for _, s := range t.subscribers() {
		k := s.told[g]
		if ended && !k.open || !k.behind(g) {
			continue // never heard of it, or heard it already
		}
		pub := t.publish(f, s, now)
		what := eventReminded
		switch {
		case ended:
			what = eventCleared
			pub.ClearedAt, pub.Became = t.wall(now), became
		case !k.open && g.was != "":
			what = eventChanged
			pub.Was = g.was
		case !k.open:
			what = eventOpened
		}
		t.tell(s, what, pub, g, proc)
	}
	g.was = ""
}

// tell queues one event for s and notes what s knows by that.
func (t *Tracker) tell(s *subscriber, what eventKind, pub Finding, g *group, proc process) {
	k := s.told[g]
	pub.Group.NewlyOpened, pub.Group.NewlyCleared = g.opened-k.opened, g.cleared-k.cleared
	explain(&pub, proc)
	if !s.push(event{what: what, finding: &pub}) {
		return // it will come with the next one
	}
	if s.told == nil {
		s.told = make(map[*group]told)
	}
	s.told[g] = told{open: what != eventCleared, opened: g.opened, cleared: g.cleared}
}

// replay tells s, which is new, of the groups that are open.
func (t *Tracker) replay(s *subscriber) {
	now, proc := t.now(), thisProcess()
	for _, g := range t.judge.groups {
		if g.open > 0 && !g.onlyCounted() && !t.muted(g) {
			t.tell(s, eventOpened, t.publish(g.first, s, now), g, proc)
		}
	}
}

// tellRest tells s, which is about to leave, what it would have been told with
// the next reminders.
func (t *Tracker) tellRest(s *subscriber) {
	now, proc := t.now(), thisProcess()
	for _, g := range t.judge.groups {
		k := s.told[g]
		if g.open == 0 || g.onlyCounted() || !k.behind(g) || t.muted(g) {
			continue
		}
		what := eventReminded
		if !k.open {
			what = eventOpened
		}
		t.tell(s, what, t.publish(g.first, s, now), g, proc)
	}
}

// forgetTold lets the counts of a dormant group start again, if everybody who
// has heard of it knows them.
func (t *Tracker) forgetTold(g *group) {
	subs := t.everybody()
	for _, s := range subs {
		if k, ok := s.told[g]; ok && k.behind(g) {
			return
		}
	}
	for _, s := range subs {
		delete(s.told, g)
	}
	g.opened, g.cleared = 0, 0
}

// remindSoon makes sure that the change in g is told, when its time has come.
func (t *Tracker) remindSoon(g *group, now int64) {
	at := g.nextReport()
	if g.expires != 0 {
		at = min(at, g.expires)
	}
	t.remindAt(at, now)
}

func (t *Tracker) remindAt(at, now int64) {
	if a := &t.judge.agenda; at != math.MaxInt64 && (a.remind == 0 || at < a.remind) {
		a.remind = max(at, now+1)
	}
}

// nextReport returns when the next report about g may be made.
func (g *group) nextReport() int64 {
	switch {
	case g.toldAt == 0:
		return 0
	case g.interval == int64(off):
		return math.MaxInt64
	}
	return g.toldAt + g.interval
}

// remind tells of the groups that have changed since they were last told of,
// and ends those that have expired.
func (t *Tracker) remind(now int64) {
	j := &t.judge
	j.agenda.remind = 0
	for _, g := range j.groups {
		if g.expires != 0 && now >= g.expires {
			t.expire(g, now)
		}
		if g.open == 0 {
			continue
		}
		if g.expires != 0 {
			t.remindAt(g.expires, now)
		}
		if until, muted := t.mutedUntil(g); muted {
			t.remindAt(until, now)
			continue
		}
		switch {
		case !t.anyBehind(g):
		case now < g.nextReport():
			t.remindSoon(g, now)
		default:
			if g.toldAt == 0 {
				g.interval = int64(t.cfg.Load().limits.Reminder)
			} else {
				g.interval = min(2*g.interval, int64(maxReminder))
			}
			t.report(g, g.first, "", now)
			t.retrySoon(g, now)
		}
	}
}

// retrySoon is for observers whose queue was full.
func (t *Tracker) retrySoon(g *group, now int64) {
	if t.anyBehind(g) {
		t.remindSoon(g, now)
	}
}

func (t *Tracker) anyBehind(g *group) bool {
	if g.onlyCounted() {
		return false
	}
	for _, s := range t.subscribers() {
		if s.told[g].behind(g) {
			return true
		}
	}
	return false
}

// muted reports whether the configuration silences g.
func (t *Tracker) muted(g *group) bool {
	_, muted := t.mutedUntil(g)
	return muted
}

// mutedUntil reports whether the configuration silences g, and until when.
func (t *Tracker) mutedUntil(g *group) (until int64, muted bool) {
	cfg := t.cfg.Load()
	if len(cfg.Mute) == 0 {
		return 0, false
	}
	now := t.seam.now()
	for i := range cfg.Mute {
		m := &cfg.Mute[i]
		end := int64(math.MaxInt64)
		if !m.Until.IsZero() {
			if !m.Until.After(now) {
				continue
			}
			end = int64(m.Until.Sub(t.base))
		}
		if (m.Kind == "" || m.Kind.covers(g.key.kind)) && (m.Name == "" || m.Name == g.name) && m.matchesSite(g.site, cfg.HideFrames) {
			until, muted = max(until, end), true
		}
	}
	return until, muted
}
