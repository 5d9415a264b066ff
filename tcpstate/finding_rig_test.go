package tcpstate_test

import (
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// told is one event that an observer received.
type told struct {
	what string
	tcpstate.Finding
}

// recorder keeps what an observer is told of findings.
type recorder struct {
	mu     sync.Mutex
	events []told
}

func (r *recorder) observer() *tcpstate.Observer {
	note := func(what string) func(tcpstate.Finding) {
		return func(f tcpstate.Finding) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, told{what, f})
		}
	}
	return &tcpstate.Observer{
		Opened: note("opened"), Changed: note("changed"), Reminded: note("reminded"), Cleared: note("cleared"),
	}
}

func (r *recorder) all() []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]told(nil), r.events...)
}

// await waits until the observer was told n times, and returns what.
func (r *recorder) await(t *testing.T, n int) []told {
	t.Helper()
	tcptest.WaitUntil(t, "the observer to be told", func() bool { return len(r.all()) >= n })
	got := r.all()
	require.Len(t, got, n)
	return got
}

// rig is a tracker whose time is moved by hand, and what it tells.
type rig struct {
	*testing.T
	tr  *tcpstate.Tracker
	clk *testclock.Clock
	rec *recorder
}

// clockedTracker returns a tracker with a clock, silent, closed at the end.
func clockedTracker(t *testing.T) (*tcpstate.Tracker, *testclock.Clock) {
	tr := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	clk := testclock.Install(tr)
	t.Cleanup(func() {
		tr.Close()
		testclock.Remove(tr)
	})
	leaktest.Check(t, tr, leaktest.IgnoreFindings()) // tests look at them
	return tr, clk
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t, rec: new(recorder)}
	r.tr, r.clk = clockedTracker(t)
	t.Cleanup(r.tr.Observe(r.rec.observer()))
	return r
}

// accepted returns a tracked server connection and its client, after the
// tracker has begun to watch.
func (r *rig) accepted(opts ...tcptest.Option) (server *tcpstate.Conn, client *net.TCPConn) {
	r.Helper()
	client, s := tcptest.Pair(r.T, opts...)
	server = r.tr.Track(s, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
	r.clk.Advance(2 * time.Second)
	return server, client
}

// dialed is accepted, seen from the other end.
func (r *rig) dialed(x tcpstate.Expect) (client *tcpstate.Conn, server *net.TCPConn) {
	r.Helper()
	c, server := tcptest.Pair(r.T)
	client = r.tr.Track(c, tcpstate.Origin{Name: "db", Target: "db:5432", Expect: x})
	r.clk.Advance(2 * time.Second)
	return client, server
}

// say writes text to one end and reads it at the other.
func (r *rig) say(from io.Writer, text string, to io.Reader) {
	r.Helper()
	_, err := io.WriteString(from, text)
	require.NoError(r, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(to, got)
	require.NoError(r, err)
}

// closes closes the peer and waits for the kernel to know here.
func (r *rig) closes(peer, here *net.TCPConn) {
	r.Helper()
	require.NoError(r, peer.Close())
	tcptest.WaitState(r, here, tcptest.CloseWait)
}

// silent asks for no finding, now or before.
func (r *rig) silent() {
	r.Helper()
	require.Empty(r, r.tr.Findings())
	require.Empty(r, r.rec.all())
}

// opens waits out the default threshold and returns the one finding there is.
func (r *rig) opens(kind tcpstate.Kind) tcpstate.Finding {
	r.Helper()
	r.clk.Advance(28 * time.Second)
	r.silent()
	r.clk.Advance(4 * time.Second)
	return r.one(kind)
}

// one returns the one finding there is.
func (r *rig) one(kind tcpstate.Kind) tcpstate.Finding {
	r.Helper()
	fs := r.tr.Findings()
	require.Len(r, fs, 1)
	require.Equal(r, kind, fs[0].Kind)
	return fs[0]
}

// clears closes c and asks for the end of the finding.
func (r *rig) clears(c io.Closer) {
	r.Helper()
	require.NoError(r, c.Close())
	r.clk.Advance(2 * time.Second)
	require.Empty(r, r.tr.Findings())
	events := r.rec.all()
	tcptest.WaitUntil(r, "the end of the finding", func() bool {
		events = r.rec.all()
		return len(events) > 0 && events[len(events)-1].what == "cleared" && events[len(events)-1].Became == ""
	})
	open := uint64(0)
	for _, e := range events {
		open += e.Group.NewlyOpened - e.Group.NewlyCleared
	}
	require.Zero(r, open, "what opened has cleared")
}

// collects runs the garbage collector until a connection was found dropped.
func (r *rig) collects() {
	r.Helper()
	tcptest.WaitUntil(r, "the garbage collector", func() bool {
		runtime.GC()
		for _, f := range r.tr.Findings() {
			if f.Kind == tcpstate.KindLeakCollected {
				return true
			}
		}
		return false
	})
}
