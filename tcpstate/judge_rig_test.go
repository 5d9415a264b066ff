package tcpstate

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
)

// docket is a tracker whose loop is played by the test: entries are made up,
// and verdicts are what the test says.
type docket struct {
	*testing.T
	tr  *Tracker
	clk *testclock.Clock
	log *logged
}

func newDocket(t *testing.T, cfg Config) *docket {
	d := &docket{T: t, log: new(logged)}
	d.tr = &Tracker{Config: cfg, Logger: slog.New(slog.NewJSONHandler(d.log, nil))}
	d.clk = testclock.Install(d.tr)
	t.Cleanup(func() {
		d.tr.Close()
		testclock.Remove(d.tr)
	})
	d.tr.init()
	d.pass(time.Second, nil)
	return d
}

// logged is a writer for a handler of slog.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logged) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// line interns a place in an imaginary program.
func line(n int) sites.ID {
	return sites.FromFrame("github.com/acme/billing.(*Client).Charge", "billing/client.go", n)
}

var entryID uint64

// entry makes up a connection that was dialed at site.
func (d *docket) entry(name string, site sites.ID) *entry {
	entryID++
	e := &entry{
		t: d.tr, id: entryID, name: name, target: "payments:443", site: site, series: d.tr.judge.seriesOf(Client, name),
		local:  &net.TCPAddr{IP: net.IPv4(10, 0, 9, 4), Port: 53122},
		remote: &net.TCPAddr{IP: net.IPv4(10, 0, 3, 7), Port: 443},
		state:  CloseWait, born: d.tr.seam.now(), sus: new(suspicion),
	}
	e.sus.hist = history{fin: true, finFirst: true}
	e.sus.finAt = d.tr.now()
	return e
}

// pass moves the clock by d and plays one pass of the loop, in which f happens.
func (d *docket) pass(by time.Duration, f func(now int64)) {
	d.clk.Advance(by)
	t := d.tr
	t.judge.mu.Lock()
	defer t.judge.mu.Unlock()
	now := t.now()
	t.reconfigured(now)
	if f != nil {
		f(now)
	}
	if a := &t.judge.agenda; a.remind != 0 && now >= a.remind {
		t.remind(now)
	}
	t.flush(now)
}

// wait lets time pass in steps of a second.
func (d *docket) wait(by time.Duration) {
	for ; by > 0; by -= time.Second {
		d.pass(min(by, time.Second), nil)
	}
}

// finds makes a verdict on each of es within one pass; an empty kind clears.
func (d *docket) finds(k Kind, es ...*entry) {
	d.pass(time.Millisecond, func(now int64) {
		for _, e := range es {
			v := verdict{kind: k}
			if k != "" {
				v.since = e.sus.finAt
			}
			d.tr.settle(e, &e.sus.finding, v, now)
		}
	})
}

// audience is an observer that remembers.
type audience struct {
	mu     sync.Mutex
	events []heard
	stop   func()
	sums   map[string]int
}

type heard struct {
	what string
	Finding
}

func (d *docket) observe() *audience {
	a := &audience{sums: make(map[string]int)}
	note := func(what string) func(Finding) {
		return func(f Finding) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.events = append(a.events, heard{what, f})
			// At any time, what was opened and not cleared is what is open.
			key := fmt.Sprint(f.Kind, f.Subject.Name, f.Sites)
			a.sums[key] += int(f.Group.NewlyOpened) - int(f.Group.NewlyCleared)
			if a.sums[key] != f.Group.Open {
				d.Errorf("%s %s: got %d open by the sums, want %d", what, key, a.sums[key], f.Group.Open)
			}
		}
	}
	a.stop = d.tr.Observe(&Observer{
		Opened: note("opened"), Changed: note("changed"), Reminded: note("reminded"), Cleared: note("cleared"),
	})
	d.Cleanup(a.stop)
	return a
}

func (a *audience) all() []heard {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]heard(nil), a.events...)
}

// hears waits for the events that are queued, takes them, and asks for their
// names in order.
func (a *audience) hears(d *docket, want ...string) []heard {
	d.Helper()
	d.drained()
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.events
	a.events = nil
	names := make([]string, 0, len(got))
	for _, h := range got {
		names = append(names, h.what)
	}
	require.Equal(d, append([]string{}, want...), names)
	return got
}

// drained waits until every queue is empty.
func (d *docket) drained() {
	d.Helper()
	tcptest.WaitUntil(d, "the queues to drain", func() bool {
		for _, s := range d.tr.everybody() {
			s.mu.Lock()
			running := s.running
			s.mu.Unlock()
			if running {
				return false
			}
		}
		return true
	})
}

var _ io.Writer = (*logged)(nil)
