package tcpstate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// processChore watches what the process as a whole runs out of: open files. It
// looks after each sweep.
type processChore struct {
	at     int64 // a sweep has ended; 0: not
	files  openFilesSeen
	thing  *thing // nil: never was in need
	looked bool

	counting *holderCount // goes on at the next run; nil: none is under way
	verdict  verdict      // that waits for it
}

// openFilesSeen is what a look at the open files found.
type openFilesSeen struct {
	limit, used int
	conns       int // of those that are open, tracked
	growth      growth
	top         []fileHolder // most files first, at most three
	hide        []string     // as top was found
}

// fileHolder is a line of code and how many connections it holds open.
type fileHolder struct {
	site  sites.ID
	role  string
	conns int
}

// The shares of RLIMIT_NOFILE in percent where pressure begins and ends.
const (
	filesTight = 90
	filesFine  = 85
)

func (c *processChore) next() int64 { return c.at }

// fewLooks are so few that a tick has time for something else.
const fewLooks = 256

// swept is called when a sweep has ended, after so many looks in this tick.
func (c *processChore) swept(now int64, looks int) {
	if looks > fewLooks {
		now += int64(busyDelay) // a tick of its own: it may take half a millisecond
	}
	if c.at == 0 || now < c.at { // sweeps may end more often than that
		c.at = now
	}
}

func (c *processChore) run(t *Tracker, now int64) {
	c.at = 0
	if c.counting == nil {
		c.look(t, now)
	}
	if c.counting != nil {
		if !c.counting.step(t) {
			c.at = now + int64(busyDelay)
			return
		}
		c.files.conns, c.files.top = c.counting.result(c.files.hide)
		c.counting = nil
	}
	v := c.verdict
	if v.kind != "" && (c.thing == nil || c.thing.finding == nil) {
		c.thing = &thing{kind: SubjectProcess, facts: c.describe}
		if top := c.files.top; len(top) > 0 {
			c.thing.site, c.thing.siteRole = top[0].site, top[0].role
		}
	}
	if c.thing != nil {
		c.thing.judge(t, v, now)
	}
}

// look compares the open files with their limit, and begins to count who holds
// them where that matters.
func (c *processChore) look(t *Tracker, now int64) {
	limit, used := t.seam.openFiles()
	fs := &c.files
	if c.looked = true; limit <= 0 || used <= 0 {
		limit, used = 0, 0
	}
	if fs.growth.changed == 0 || limit != fs.limit {
		fs.growth = growth{changed: now, at: [2]int64{now, now}, n: [2]int{used, used}}
	}
	fs.growth.step(now, used)
	same := used == fs.used && slices.Equal(fs.hide, t.judge.hide)
	fs.limit, fs.used = limit, used
	open := c.thing != nil && c.thing.finding != nil
	c.verdict = fs.verdict(open, now)
	if c.verdict.kind != "" && (!open || !same) {
		fs.hide = t.judge.hide
		c.counting = &holderCount{std: make(map[sites.ID]bool), stacks: make(map[fileHolder]int)}
	}
}

// verdict judges the open files. Between the two shares it stays as it is.
func (fs *openFilesSeen) verdict(tight bool, now int64) verdict {
	share := filesTight
	if tight {
		share = filesFine
	}
	if fs.limit == 0 || fs.used*100 < fs.limit*share {
		return verdict{}
	}
	return verdict{kind: KindFDsPressure, since: now}
}

// holderCount counts the connections that lines of code hold open, a part of
// them in each tick: of many that takes longer than a tick may.
type holderCount struct {
	cursor int // in Tracker.slots
	conns  int
	std    map[sites.ID]bool // whether a site is the standard library's
	stacks map[fileHolder]int
	batch  []*entry
}

// countPart is how many connections are counted in one tick, in half a
// millisecond: their memory is cold.
const countPart = 4000

// step counts the next part. It reports whether that was the last one.
func (c *holderCount) step(t *Tracker) (done bool) {
	t.mu.Lock()
	c.batch = c.batch[:0]
	end := min(c.cursor+countPart, len(t.slots))
	for i := c.cursor; i < end; i++ {
		if e := t.slots[i].e; e != nil {
			c.batch = append(c.batch, e)
		}
	}
	c.cursor, done = max(c.cursor, end), end == len(t.slots)
	t.mu.Unlock()
	for _, e := range c.batch {
		c.add(e, t.judge.process.files.hide)
	}
	c.conns += len(c.batch)
	clear(c.batch)
	return done
}

// add counts e. A connection that the standard library made on a goroutine of
// its own counts for the line that uses it, or used it last.
func (c *holderCount) add(e *entry, hide []string) {
	h := fileHolder{site: e.site, role: e.bornBy()}
	foreign, known := c.std[h.site]
	if !known {
		frames := h.site.Owner(hide)
		foreign = len(frames) == 0 || frames[0].IsStd()
		c.std[h.site] = foreign
	}
	if foreign {
		if id := e.someUse(); id != 0 {
			h = fileHolder{site: id, role: "use"}
		}
	}
	c.stacks[h]++
}

// result returns how many connections there are, and the lines that hold the
// most.
func (c *holderCount) result(hide []string) (conns int, top []fileHolder) {
	lines := make(map[uint64]fileHolder) // many stacks have one line in common
	for h, n := range c.stacks {
		if key := h.site.OwnerKey(hide); key != 0 {
			h.conns = n + lines[key].conns
			lines[key] = h
		}
	}
	top = slices.Collect(maps.Values(lines))
	slices.SortFunc(top, func(a, b fileHolder) int {
		return cmp.Or(b.conns-a.conns, cmp.Compare(a.site, b.site))
	})
	return c.conns, slices.Clone(top[:min(len(top), 3)])
}

// someUse returns the line that uses e, or used it last; 0: none is known.
func (e *entry) someUse() sites.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := e.oldestUseLocked()
	if u == nil {
		u = e.lastUse
	}
	switch {
	case u == nil:
		return 0
	case u.site != 0:
		return u.site
	}
	return u.handler
}

// describe adds the numbers to a finding.
func (c *processChore) describe(pub *Finding, now int64) {
	fs, ev := &c.files, &pub.Evidence
	ev.note("open files", fmt.Sprintf("%s of %s", thousands(fs.used), thousands(fs.limit)))
	ev.note("connections", thousands(fs.conns))
	if rate := fs.growth.perMinute(now, fs.used); rate >= 0.05 {
		ev.note("growth", perMinute(rate)+" a minute")
		ev.note("limit reached in", age(time.Duration(float64(fs.limit-fs.used)/rate*float64(time.Minute))))
	}
	for _, h := range fs.top {
		if frames := publicFrames(h.site.Owner(fs.hide)); len(frames) > 0 {
			ev.note(h.role, fmt.Sprintf("%s %s", counted(h.conns, "connection"), frames[0]))
		}
	}
}

func (c *processChore) facility() Facility {
	f := Facility{Name: "open_files", OK: true, Detail: "open files are compared with their limit"}
	if c.looked && c.files.limit == 0 {
		f.OK, f.Detail = false, "the number of open files is not known: before Linux 6.2 it would have to be counted"
		f.Kinds = []Kind{KindFDsPressure}
	}
	return f
}
