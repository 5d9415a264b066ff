package tcpstate

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// This file watches pools that are too small: a connection comes back, is as
// good as new, and is closed because enough of them lie idle. The next use has
// to dial, and each close keeps a local port taken for a minute.

// Surplus is what a pool tells of connections to one target that it closed
// because it keeps no more idle ones.
type Surplus struct {
	Target  string // as it was dialed; empty: not known
	Setting string // what limits the idle ones, as the program knows it: "MaxIdleConnsPerHost"
	Kept    int    // how many that are

	// Since the last call.
	Closed uint64 // connections that were closed for it
	Uses   uint64 // uses that got a connection
	Dialed uint64 // of those, with a new connection
}

// Surplus says that p has closed connections that could have been used again. It
// is called when that happens, and allocates nothing. When it goes on, it is
// reported once for the line that made the pool, as pool.churn, with the number
// of connections that were needed at once; dial.ports shows it, too.
func (p *Pool) Surplus(s Surplus) {
	if p != nil {
		p.t.judge.churning.surplus(p, &s)
	}
}

const (
	// manySurplus closes within a minute are no accident: a burst that ends
	// closes as many connections as it needed, once.
	manySurplus = 100
	// The window is a minute, in steps: as long as TIME-WAIT.
	churnStep  = int64(10 * time.Second)
	churnSteps = 6
	// maxChurns bounds the pools and targets that are told apart.
	maxChurns = 256
)

// churnChore watches pools that close what they could keep.
type churnChore struct {
	mu      sync.Mutex // guards following fields
	records map[churnKey]*churnRecord
	due     int64
	pin     pin // while a finding is open
}

type churnKey struct {
	line         uint64
	name, target string
}

// churnRecord is what one line's pools do with the connections to one target.
type churnRecord struct {
	key     churnKey
	site    sites.ID
	steps   [churnSteps]churnCount
	setting string
	kept    int

	// Owned by the loop.
	thing *thing
	shown churnCount // as at the last run, for readers of the finding
}

// churnCount is what happened within a step, or a window.
type churnCount struct {
	at                   int64 // number of the step
	closed, uses, dialed uint64
	peak                 int64
}

func (c *churnChore) surplus(p *Pool, s *Surplus) {
	t := p.t
	key := churnKey{p.site.OwnerKey(t.cfg.Load().HideFrames), p.name, s.Target}
	now := t.now()
	peak := p.peak.Swap(p.used.Load())
	c.mu.Lock()
	r := c.records[key]
	if r == nil {
		if key.line == 0 || len(c.records) >= maxChurns {
			c.mu.Unlock()
			return
		}
		if c.records == nil {
			c.records = make(map[churnKey]*churnRecord)
		}
		r = &churnRecord{key: key, site: p.site}
		c.records[key] = r
	}
	r.setting, r.kept = s.Setting, s.Kept
	step := &r.steps[now/churnStep%churnSteps]
	if n := now / churnStep; step.at != n {
		*step = churnCount{at: n}
	}
	step.add(&churnCount{closed: s.Closed, uses: s.Uses, dialed: s.Dialed, peak: peak})
	sum := r.sum(now)
	wake := !c.pin.held && sum.churning(false)
	if wake {
		c.due = now
	} else if c.due == 0 {
		c.due = now + churnStep*churnSteps // to forget it
	}
	c.mu.Unlock()
	if wake {
		t.kick(youngDelay)
	}
}

func (n *churnCount) add(more *churnCount) {
	n.closed += more.closed
	n.uses += more.uses
	n.dialed += more.dialed
	n.peak = max(n.peak, more.peak)
}

// sum adds up what the window holds now.
func (r *churnRecord) sum(now int64) (sum churnCount) {
	for i := range r.steps {
		if s := &r.steps[i]; now/churnStep-s.at < churnSteps {
			sum.add(s)
		}
	}
	return sum
}

// churning reports whether most uses dial because of what was closed. was is
// whether it was so: then it has to calm down by half first.
func (n *churnCount) churning(was bool) bool {
	if was {
		return n.closed >= manySurplus/2 && n.dialed*4 > n.uses
	}
	return n.closed >= manySurplus && n.dialed*2 > n.uses
}

func (c *churnChore) next() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.due
}

func (c *churnChore) run(t *Tracker, now int64) {
	c.mu.Lock()
	c.due = 0
	verdicts := make(map[*churnRecord]verdict)
	for key, r := range c.records {
		was := r.thing != nil && r.thing.finding != nil
		r.shown = r.sum(now)
		switch {
		case r.shown.churning(was):
			verdicts[r] = verdict{kind: KindPoolChurn, since: now}
		case was:
			verdicts[r] = verdict{}
		case r.shown.closed == 0:
			delete(c.records, key)
		}
	}
	c.mu.Unlock()
	open := false
	for r, v := range verdicts {
		if r.thing == nil {
			r.thing = r.newThing(t)
		}
		r.thing.judge(t, v, now)
		open = open || r.thing.finding != nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pin.hold(t, open)
	if len(c.records) > 0 && c.due == 0 {
		c.due = now + churnStep
	}
}

func (r *churnRecord) newThing(t *Tracker) *thing {
	return &thing{
		kind: SubjectSite, name: r.key.name, target: r.key.target, series: t.judge.seriesOf(Client, r.key.name),
		site: r.site, siteRole: "pool", opened: t.seam.now(),
		facts: func(pub *Finding, _ int64) {
			n, ev := &r.shown, &pub.Evidence
			ev.note(noteSurplus, thousands(int(n.closed)))
			ev.note(noteChurnUses, thousands(int(n.uses)))
			ev.note(noteChurnDials, thousands(int(n.dialed)))
			r.noteLimit(ev, n.peak)
		},
	}
}

// noteLimit says what is kept, and what would be enough.
func (r *churnRecord) noteLimit(ev *Evidence, peak int64) {
	ev.note(noteKept, fmt.Sprintf("%s %d", r.setting, r.kept))
	ev.note(noteAtOnce, strconv.FormatInt(peak, 10))
}

// describe adds to a finding about the ports to a target what its pools do,
// if they close what they could keep.
func (c *churnChore) describe(key targetKey, ev *Evidence, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var worst *churnRecord
	var most churnCount
	for k, r := range c.records {
		if k.name != key.name || k.target != key.target {
			continue
		}
		if sum := r.sum(now); sum.closed > most.closed {
			worst, most = r, sum
		}
	}
	if worst != nil {
		ev.note(noteSurplus, thousands(int(most.closed)))
		worst.noteLimit(ev, most.peak)
	}
}

const (
	noteSurplus    = "closed because enough were idle"
	noteChurnUses  = "uses in the last minute"
	noteChurnDials = "of those with a new connection"
	noteKept       = "idle connections kept"
	noteAtOnce     = "in use at once"
)
