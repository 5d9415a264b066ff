package harness

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Rig is a tracker under test, with a clock moved by hand, and the memory of
// everything it has ever reported.
type Rig struct {
	Tracker *tcpstate.Tracker
	Clock   *testclock.Clock

	mu       sync.Mutex                  // guards following fields
	reported map[string]tcpstate.Finding // above inventory, by kind and id
	stop     func()
}

// pace is how much faster than real time the clock of a rig runs. The kernel's
// timers and the client's goroutines keep up with it, and thirty seconds are
// over soon.
const pace = 100

// New returns a rig. Its tracker is closed when the test ends.
func New(t testing.TB) *Rig {
	t.Helper()
	r := &Rig{Tracker: new(tcpstate.Tracker), reported: map[string]tcpstate.Finding{}}
	// The line to open is that of the client's user, not of this package.
	r.Tracker.Config.HideFrames = []string{"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness."}
	r.Clock = testclock.Install(r.Tracker)
	r.Clock.Pace(pace)
	r.observe()
	t.Cleanup(func() {
		r.Tracker.Close()
		testclock.Remove(r.Tracker)
	})
	return r
}

func (r *Rig) observe() {
	r.stop = r.Tracker.Observe(&tcpstate.Observer{Opened: r.note, Changed: r.note})
}

func (r *Rig) note(f tcpstate.Finding) {
	if f.Severity <= tcpstate.Inventory {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reported[fmt.Sprint(f.Kind, f.ID)] = f
}

// Dialer returns a dialer whose connections are called name.
func (r *Rig) Dialer(name string) *dialer.Dialer {
	return &dialer.Dialer{Tracker: r.Tracker, Name: name}
}

// Hide hides the frames of a recipe from the lines that findings name.
func (r *Rig) Hide(t testing.TB, frames ...string) {
	t.Helper()
	require.NoError(t, r.Tracker.Set(func(c *tcpstate.Config) { c.HideFrames = append(c.HideFrames, frames...) }))
}

// Conns returns the open connections called name, oldest first.
func (r *Rig) Conns(name string) []tcpstate.Snapshot {
	var conns []tcpstate.Snapshot
	for c := range r.Tracker.Conns() {
		if c.Name == name {
			conns = append(conns, c)
		}
	}
	return conns
}

// WaitState waits until n connections called name are open, and all of them
// are in state s. With n = 0 the state does not matter.
func (r *Rig) WaitState(t testing.TB, name string, s tcpstate.State, n int) {
	t.Helper()
	WaitUntil(t, fmt.Sprintf("%d connections %q in %v", n, name, s), func() bool {
		conns := r.Conns(name)
		return len(conns) == n && !slices.ContainsFunc(conns, func(c tcpstate.Snapshot) bool { return c.State != s })
	})
}

// WaitInventory waits until the server has closed n of the connections called
// name, and fails the test unless those are inventory a minute later, and nothing
// else is found.
func (r *Rig) WaitInventory(t testing.TB, name string, n int) {
	t.Helper()
	WaitUntil(t, fmt.Sprintf("the ends of %d connections %q", n, name), func() bool {
		ended := slices.DeleteFunc(r.Conns(name), func(c tcpstate.Snapshot) bool { return c.State != tcpstate.CloseWait })
		return len(ended) == n
	})
	r.Clock.Advance(time.Minute)
	found := r.Tracker.Findings()
	require.Len(t, found, n)
	for _, f := range found {
		require.Equal(t, tcpstate.KindCloseWaitIdleInPool, f.Kind)
	}
}

// Advance moves the clock of the rig.
func (r *Rig) Advance(d time.Duration) { r.Clock.Advance(d) }

// Rest moves the clock by d, but only while the connections are at rest, no byte
// on its way and no socket dead. Programs without a leak let time pass in this
// way: what a client does at once takes real time, in which no clock must run.
func (r *Rig) Rest(t testing.TB, d time.Duration) {
	t.Helper()
	for passed := time.Duration(0); passed < d; passed += time.Second {
		WaitUntil(t, "the connections to be at rest", r.atRest)
		r.Clock.Advance(time.Second)
	}
}

func (r *Rig) atRest() bool {
	for c := range r.Tracker.Conns() {
		if c.RecvQueue != 0 || c.SendQueue != 0 || c.Open && c.State == tcpstate.Closed {
			return false
		}
	}
	return true
}

// WaitGone waits until no connection called name is open, of which there must
// have been one: else the tracker knows nothing of the client. That one is closed
// which is not wrapped is noticed by the tracker as the clock moves.
func (r *Rig) WaitGone(t testing.TB, name string) {
	t.Helper()
	require.True(t, r.had(name), "no connection was ever called %q", name)
	WaitUntil(t, "the connections to be closed", func() bool {
		r.Clock.Advance(time.Second)
		return len(r.Conns(name)) == 0
	})
}

func (r *Rig) had(name string) bool {
	for s := range r.Tracker.Series() {
		if s.Name == name && s.Opened > 0 {
			return true
		}
	}
	return false
}

// WaitCollected waits until the garbage collector has found that nobody refers
// to the connections called name any more.
func (r *Rig) WaitCollected(t testing.TB, name string) {
	t.Helper()
	WaitUntil(t, "the connections to be collected", func() bool {
		runtime.GC()
		r.Clock.Advance(time.Second)
		return len(r.Conns(name)) == 0
	})
}

// patience is how far Finds moves the clock: longer than any threshold of the
// findings that the recipes ask for.
const patience = 5 * time.Minute

// Finds moves the clock until a finding of this kind is open for the name, and
// fails the test if there is none within five minutes, or if anything else
// above inventory was reported by then. With word, the finding must have a
// site of that role, such as "dial" or "use", at the line marked by the comment
// "// leak: word". Of several the first is returned.
func (r *Rig) Finds(t testing.TB, kind tcpstate.Kind, name, role, word string) tcpstate.Finding {
	t.Helper()
	for passed := time.Duration(0); passed < patience; passed += time.Second {
		r.Clock.Advance(time.Second)
		found := r.Tracker.Findings()
		i := slices.IndexFunc(found, func(f tcpstate.Finding) bool { return f.Kind == kind && f.Subject.Name == name })
		if i < 0 {
			continue
		}
		got := found[i]
		r.requireNothingBut(t, kind)
		if word != "" {
			require.Contains(t, places(got), role+" "+Line(t, word), "sites of\n%s", got.String())
		}
		shown(kind)
		return got
	}
	var report strings.Builder
	require.NoError(t, r.Tracker.Report(&report))
	t.Fatalf("no finding %s of %q in %v:\n%s", kind, name, patience, &report)
	panic("unreachable")
}

// places returns role, file and line of every frame that f shows.
func places(f tcpstate.Finding) []string {
	var p []string
	for _, site := range f.Sites {
		for _, frame := range site.Frames {
			p = append(p, site.Role+" "+frame.File+":"+strconv.Itoa(frame.Line))
		}
	}
	return p
}

// Silent is Rest for two minutes, more than any threshold of a finding above
// inventory. It fails the test if anything above inventory was ever reported by
// this rig.
func (r *Rig) Silent(t testing.TB) {
	t.Helper()
	r.Rest(t, 2*time.Minute)
	r.requireNothingBut(t, "")
}

func (r *Rig) requireNothingBut(t testing.TB, kind tcpstate.Kind) {
	t.Helper()
	r.stop() // has been told everything
	for _, f := range r.Tracker.Findings() {
		r.note(f)
	}
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.reported))
	r.mu.Unlock()
	r.observe()
	for _, f := range all {
		if f.Kind != kind {
			t.Fatalf("reported:\n%s", f.String())
		}
	}
}
