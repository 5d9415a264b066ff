package leaktest

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/faketime"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

const (
	// patience is how long connections may take to be closed, as with goleak:
	// servers and pools close on goroutines of their own.
	patience = 500 * time.Millisecond
	// minLooks is how often they are looked at meanwhile, on a machine that is
	// busy with something else.
	minLooks = 20
	// longestPause is how late it may be noticed that they are closed.
	longestPause = 10 * time.Millisecond
	// answerTime is what an HTTP/2 client may take to acknowledge what it has
	// received.
	answerTime = 20 * time.Millisecond
)

// check is what one test opens and finds.
type check struct {
	tracker *tcpstate.Tracker
	options options
	stop    func() // ends the observer

	// The newest there were when the test began. Numbers only grow.
	conn, finding uint64
	dial          time.Time

	mu     sync.Mutex // guards following field
	groups []*foundGroup
}

// foundGroup is a group of findings, as it was when it was last told of.
type foundGroup struct {
	shown tcpstate.Finding
	end   string // how it ended; empty: it has not
}

func begin(tracker *tcpstate.Tracker, opts []Option) *check {
	c := &check{tracker: tracker, options: newOptions(opts), stop: func() {}}
	for s := range tracker.Conns() {
		c.conn = s.ID
	}
	for d := range tracker.Dials() {
		c.dial = d.Start
	}
	if c.options.noFindings || faketime.On() {
		return c // in a bubble nothing is judged, and to wait for an observer may take for ever
	}
	for _, f := range tracker.Findings() {
		c.finding = max(c.finding, f.ID)
	}
	c.stop = tracker.Observe(&tcpstate.Observer{
		Opened: c.found, Changed: c.found, Reminded: c.found, Cleared: c.cleared,
	})
	return c
}

// end waits until nothing is left, but not for long, and returns the report:
// empty if nothing is.
func (c *check) end() string {
	var r report
	if !c.settled() {
		c.collect()
		r.conns, r.dials = c.left()
	}
	c.stop()
	if !c.options.noFindings {
		r.groups = c.findings(&r)
	}
	return r.String()
}

// settled waits until nothing is left open, and reports whether that is so.
func (c *check) settled() bool {
	bubble, begin := faketime.On(), time.Now()
	var waited time.Duration
	pause := 10 * time.Microsecond
	for n := 0; !c.clean(); n++ {
		switch {
		case waited >= patience && n >= minLooks:
			return false
		case bubble:
			faketime.Sleep(pause)
			waited += max(pause, time.Millisecond)
		default:
			time.Sleep(pause)
			waited = time.Since(begin)
		}
		pause = min(2*pause, longestPause)
	}
	return true
}

// clean reports whether nothing is left open.
func (c *check) clean() bool {
	if c.tracker.Stats().Open > 0 {
		for s := range c.tracker.Conns() {
			if c.mine(&s) {
				return false
			}
		}
	}
	for d := range c.tracker.Dials() {
		if c.mineToo(&d) {
			return false
		}
	}
	return true
}

// left returns what is left open.
func (c *check) left() (conns []tcpstate.Snapshot, dials []tcpstate.DialSnapshot) {
	for s := range c.tracker.Conns() {
		if c.mine(&s) {
			conns = append(conns, s)
		}
	}
	for d := range c.tracker.Dials() {
		if c.mineToo(&d) {
			dials = append(dials, d)
		}
	}
	return conns, dials
}

// mine reports whether the test has to answer for s. One that is not open was
// closed behind our back.
func (c *check) mine(s *tcpstate.Snapshot) bool {
	return s.Open && s.ID > c.conn && !c.options.excusedConn(s)
}

func (c *check) mineToo(d *tcpstate.DialSnapshot) bool {
	return d.Start.After(c.dial) && !c.options.excused(d.Name, []tcpstate.Site{d.Site})
}

// collect tells connections that were dropped from those that somebody still
// holds: a garbage collection turns the former into findings. In a bubble
// nothing would be found.
func (c *check) collect() {
	if c.options.noFindings || faketime.On() {
		return
	}
	// The cleanups of what is collected run later, on other goroutines. One of
	// our own shows how far they have come.
	var ran atomic.Bool
	runtime.AddCleanup(&struct{ p *check }{c}, func(ran *atomic.Bool) { ran.Store(true) }, &ran)
	runtime.GC()
	open := -1
	for deadline := time.Now().Add(patience / 5); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		before := open
		if open = c.tracker.Stats().Open; open == before && ran.Load() {
			return
		}
	}
}

// found remembers f, which is told of.
func (c *check) found(f tcpstate.Finding) {
	if !c.counts(&f) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.groups {
		if g.shown.Group.ID == f.Group.ID {
			g.shown = f
			return
		}
	}
	c.groups = append(c.groups, &foundGroup{shown: f})
}

// cleared remembers the end of f's group.
func (c *check) cleared(f tcpstate.Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.groups {
		if g.shown.Group.ID == f.Group.ID {
			g.end = f.String()
		}
	}
}

// counts reports whether the test has to answer for f. The process is not its
// own.
func (c *check) counts(f *tcpstate.Finding) bool {
	sub := &f.Subject
	return f.Severity >= tcpstate.Warning && f.ID > c.finding && sub.Type != tcpstate.SubjectProcess &&
		(sub.Type != tcpstate.SubjectConn || sub.ID > c.conn) && !c.options.excusedFinding(f)
}

// findings returns the groups of findings there are or were. It takes the
// connections that they are about off r.
func (c *check) findings(r *report) []*foundGroup {
	about := make(map[uint64]bool)
	open := make(map[uint64]bool)
	for _, f := range c.tracker.Findings() {
		if !c.counts(&f) {
			continue
		}
		if f.Subject.Type == tcpstate.SubjectConn {
			about[f.Subject.ID] = true
		}
		if !open[f.Group.ID] {
			open[f.Group.ID] = true
			c.found(f) // as it is now
		}
	}
	r.without(about)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.groups
}
