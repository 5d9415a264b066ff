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

func (c *processChore) run(t *Tracker, now int64) {
	c.at = 0
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
	v := fs.verdict(open, now)
	if v.kind != "" {
		if !open || !same {
			fs.count(t) // of all connections, which takes a millisecond where there are many
		}
		if !open {
			c.thing = &thing{kind: SubjectProcess, facts: c.describe}
			if len(fs.top) > 0 {
				c.thing.site, c.thing.siteRole = fs.top[0].site, fs.top[0].role
			}
		}
	}
	if c.thing != nil {
		c.thing.judge(t, v, now)
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

// count finds the lines that hold the most connections. A connection that the
// standard library made on a goroutine of its own counts for the line that
// uses it, or used it last.
func (fs *openFilesSeen) count(t *Tracker) {
	fs.hide = t.judge.hide
	t.mu.Lock()
	all := make([]*entry, 0, t.live)
	for i := range t.slots {
		if e := t.slots[i].e; e != nil {
			all = append(all, e)
		}
	}
	t.mu.Unlock()
	std := make(map[sites.ID]bool)
	stacks := make(map[fileHolder]int)
	for _, e := range all {
		h := fileHolder{site: e.site, role: e.bornBy()}
		foreign, known := std[h.site]
		if !known {
			frames := h.site.Owner(fs.hide)
			foreign = len(frames) == 0 || frames[0].IsStd()
			std[h.site] = foreign
		}
		if foreign {
			if id := e.someUse(); id != 0 {
				h = fileHolder{site: id, role: "use"}
			}
		}
		stacks[h]++
	}
	lines := make(map[uint64]fileHolder) // many stacks have one line in common
	for h, n := range stacks {
		if key := h.site.OwnerKey(fs.hide); key != 0 {
			h.conns = n + lines[key].conns
			lines[key] = h
		}
	}
	fs.conns, fs.top = len(all), slices.Collect(maps.Values(lines))
	slices.SortFunc(fs.top, func(a, b fileHolder) int {
		return cmp.Or(b.conns-a.conns, cmp.Compare(a.site, b.site))
	})
	fs.top = slices.Clone(fs.top[:min(len(fs.top), 3)])
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
