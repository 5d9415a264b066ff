package tcpotel

import (
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// How many suspects get a span in a minute. One makes four spans at most, with
// its phases, so that all of a minute at once are less than one batch of an
// exporter by default, 512, and a fifth of its queue, 2,048: the requests keep
// the rest. Ten lines of code that leak at the same time have their examples,
// and ten connections tell of one line what thousands would.
const (
	maxExamples      = 100
	maxGroupExamples = 10
	examplePeriod    = time.Minute
)

// examples are the suspects that got a span in this period, which begins with
// the first. It is owned by the observer, but for what is left out.
type examples struct {
	began   time.Time
	made    int
	byGroup map[exampleGroup]int // not more than made
	left    atomic.Uint64        // connections without a span
}

// exampleGroup is what one line of code does wrong.
type exampleGroup struct {
	kind tcpstate.Kind
	line tcpstate.Frame // zero: not known
	name string
	role tcpstate.Role
}

// groupOf returns the group of the last finding about c that is worth a span.
func groupOf(c *tcpstate.ClosedInfo) exampleGroup {
	g := exampleGroup{name: c.Name, role: c.Role}
	for _, k := range c.Findings {
		if k.Severity() >= tcpstate.Warning {
			g.kind = k
		}
	}
	if c.Frame != nil {
		g.line = *c.Frame
	}
	return g
}

// room reports whether there may be one more of g at this time; if not, it is
// counted as left out.
func (x *examples) room(g exampleGroup, at time.Time) bool {
	if at.Sub(x.began) >= examplePeriod {
		x.began, x.made = at, 0
		clear(x.byGroup)
	}
	if x.made < maxExamples && x.byGroup[g] < maxGroupExamples {
		return true
	}
	x.left.Add(1)
	return false
}

// add takes note of one that was made.
func (x *examples) add(g exampleGroup) {
	if x.byGroup == nil {
		x.byGroup = make(map[exampleGroup]int)
	}
	x.made++
	x.byGroup[g]++
}
