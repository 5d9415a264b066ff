package tcpstate_test

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// degraded asks for a facility that says what is missing.
func (r *rig) degraded(name, why string) {
	r.Helper()
	f := facility(r.T, r.tr, name)
	require.False(r, f.OK)
	require.Contains(r, f.Detail, why)
	require.NotEmpty(r, f.Kinds)
	require.NotContains(r, f.Kinds, tcpstate.KindLeakCollected, "it needs nothing of the kernel")
}

func TestWithEverythingThereNothingIsDegraded(t *testing.T) {
	r := newRig(t)
	c, _ := r.accepted()
	defer c.Close()
	for _, f := range r.tr.Facilities() {
		require.True(t, f.OK, f.Name)
		require.Empty(t, f.Kinds)
	}
}

// works asks for a connection that carries bytes both ways and ends in order.
func (r *rig) works(c net.Conn, peer *net.TCPConn) {
	r.Helper()
	r.say(c, "hello", peer)
	r.say(peer, "hello", c)
}

// What is said of missing watches is about now, and room is used again.
func TestWatchesThatBecomeFreeAreTaken(t *testing.T) {
	r := newRig(t)
	before := tcpstate.ArmedEverywhere()
	tcpstate.SetSeam(r.tr, tcpstate.Seam{MaxWatches: func() (int, error) { return 40 + int(4*before), nil }})
	var conns []*tcpstate.Conn
	for range 25 {
		c, _ := r.accepted()
		conns = append(conns, c)
	}
	require.Equal(t, 10, r.tr.Stats().Watched)
	r.degraded("epoll", "max_user_watches")
	for _, c := range conns[:18] {
		require.NoError(t, c.Close())
	}
	r.clk.Advance(15 * time.Second)
	require.Equal(t, 7, r.tr.Stats().Watched)
	require.True(t, facility(t, r.tr, "epoll").OK)
	for _, c := range conns[18:] {
		require.NoError(t, c.Close())
	}
}

// full is a poller that has room for so many.
type full struct {
	tcpstate.Poller
	room atomic.Int64
}

func (p *full) Add(fd uintptr, token uint64) error {
	if p.room.Add(-1) < 0 {
		return epoll.ErrFull
	}
	return p.Poller.Add(fd, token)
}

// The user's watches may be used up by others before our part is.
func TestAKernelWithoutWatchesIsLeftAlone(t *testing.T) {
	r := newRig(t)
	p := new(full)
	p.room.Store(3)
	tcpstate.SetSeam(r.tr, tcpstate.Seam{NewPoller: func() (_ tcpstate.Poller, err error) {
		p.Poller, err = tcpstate.NewPoller()
		return p, err
	}})
	var last *tcpstate.Conn
	var peer *net.TCPConn
	for range 20 {
		last, peer = r.accepted()
	}
	r.clk.Advance(30 * time.Second)
	require.Equal(t, 3, r.tr.Stats().Watched)
	require.EqualValues(t, -1, p.room.Load(), "it was asked once too often, and not again")
	r.degraded("epoll", "max_user_watches")
	r.works(last, peer)
	r.closes(peer, last.TCPConn)
	r.clk.Advance(45 * time.Second)
	require.Len(t, r.tr.Findings(), 1)
}

// A loop without an event source ends, too.
func TestALoopWithoutAPollerEnds(t *testing.T) {
	tr := newTracker(t)
	tcpstate.SetSeam(tr, tcpstate.Seam{NewPoller: func() (tcpstate.Poller, error) { return nil, unix.EMFILE }})
	inner, _ := tcptest.Pair(t)
	w := tr.Track(inner, tcpstate.Origin{})
	tcptest.WaitUntil(t, "the loop", func() bool { return !facility(t, tr, "epoll").OK })
	require.NoError(t, w.Close())
	tcptest.WaitUntil(t, "its end", func() bool { return !tcpstate.Running(tr) })
}

// broken is a poller whose Wait fails from some moment on.
type broken struct {
	tcpstate.Poller
	fails  atomic.Bool
	waits  atomic.Int64
	closed atomic.Bool
}

func (p *broken) Wait(wait time.Duration, evs []epoll.Event) ([]epoll.Event, error) {
	if p.fails.Load() {
		p.waits.Add(1)
		return evs, unix.EBADF
	}
	return p.Poller.Wait(wait, evs)
}

func (p *broken) Close() error {
	p.closed.Store(true)
	return p.Poller.Close()
}

func TestAPollerThatBreaksIsReplaced(t *testing.T) {
	r := newRig(t)
	p := new(broken)
	tcpstate.SetSeam(r.tr, tcpstate.Seam{NewPoller: func() (_ tcpstate.Poller, err error) {
		p.Poller, err = tcpstate.NewPoller()
		return p, err
	}})
	c, peer := r.accepted()
	p.fails.Store(true)
	r.clk.Advance(5 * time.Second)
	require.EqualValues(t, 1, p.waits.Load(), "the loop does not spin")
	require.True(t, p.closed.Load())
	r.degraded("epoll", unix.EBADF.Error())
	require.Zero(t, r.tr.Stats().Watched)
	r.works(c, peer)
	r.closes(peer, c.TCPConn)
	r.clk.Advance(45 * time.Second)
	r.one(tcpstate.KindCloseWaitNotReading)
	r.clears(c)
	require.Zero(t, r.tr.Stats().Watched)
}

// What needs no TCP_INFO is found without it.
func TestWithoutTCPInfoDroppedConnsAreFound(t *testing.T) {
	tr := newTracker(t)
	tcpstate.SetSeam(tr, tcpstate.Seam{Info: func(uintptr, []byte) (int, error) { return 0, unix.EPERM }})
	f := newFar(t)
	mislay(tr, f, 2, tcpstate.Server, false)
	gone(t, tr)
	require.Len(t, tr.Findings(), 2)
	tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
	requireEmptyCensus(t, tr)
}

// Older kernels fill less; see degrade_info_linux_test.go for the oldest.
func TestAnOldKernelsTCPInfoSuffices(t *testing.T) {
	for _, n := range []int{136, 192, 232} {
		r := newRig(t)
		tcpstate.SetSeam(r.tr, tcpstate.Seam{Info: func(fd uintptr, buf []byte) (int, error) { return tcpinfo.Get(fd, buf[:n]) }})
		c, peer := r.accepted()
		r.say(peer, "hello", c)
		r.closes(peer, c.TCPConn)
		r.opens(tcpstate.KindCloseWaitNotReading)
		require.Equal(t, n == 232, facility(t, r.tr, "tcp_info").OK)
		r.clears(c)
	}
}

// A fault of ours is counted and shown, and goes no further.
func TestAPanicInTheLoopStaysThere(t *testing.T) {
	r := newRig(t)
	var once sync.Once
	tcpstate.SetSeam(r.tr, tcpstate.Seam{Looked: func(uint64, epoll.Flags) { once.Do(func() { panic("a fault of ours") }) }})
	c, peer := r.accepted()
	r.works(c, peer)
	require.NoError(t, peer.Close()) // this event is lost
	tcptest.WaitState(t, c, tcptest.CloseWait)
	r.clk.Advance(45 * time.Second) // and made up for by the sweep
	require.EqualValues(t, 1, r.tr.Stats().Panics)
	r.one(tcpstate.KindCloseWaitNotReading)
	r.clears(c)
}

func TestSetPlansTheSweepAnew(t *testing.T) {
	r := newRig(t)
	c, _ := r.accepted()
	defer c.Close()
	sweeps := func(d time.Duration) uint64 {
		before := r.tr.Stats().Sweeps
		r.clk.Advance(d)
		return r.tr.Stats().Sweeps - before
	}
	set := func(d time.Duration) {
		require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.SweepInterval = d }))
		r.clk.Settle()
	}
	require.EqualValues(t, 6, sweeps(time.Minute))
	set(-1)
	require.Zero(t, sweeps(3*time.Hour))
	set(time.Minute)
	require.EqualValues(t, 5, sweeps(5*time.Minute))
	set(2 * time.Second)
	require.InDelta(t, 30, sweeps(time.Minute), 2)
}

// Suspects are more than fit into a tick: each gets its turn.
func TestNoSuspectStarves(t *testing.T) {
	if testing.Short() {
		t.Skip("makes many connections")
	}
	r := newRig(t)
	const n = 1500
	slow := func(fd uintptr, buf []byte) (int, error) {
		end := time.Now().Add(20 * time.Microsecond)
		for time.Now().Before(end) {
		}
		return tcpinfo.Get(fd, buf)
	}
	tcpstate.SetSeam(r.tr, tcpstate.Seam{Info: slow})
	f := newFar(t)
	for range n {
		c := r.tr.Track(f.conn(true), tcpstate.Origin{Role: tcpstate.Server})
		defer c.Close()
	}
	r.clk.Advance(2 * time.Second)
	for _, c := range f.other {
		require.NoError(t, c.Close())
	}
	// A tick has room for sixty, fewer on a busy machine. Whoever
	// starves would do so for ever.
	for range 900 {
		if s := r.tr.Stats(); s.Warnings == n && s.Sweeps > 0 {
			break
		}
		r.clk.Advance(time.Second)
	}
	require.Len(t, r.tr.Findings(), n)
	require.NotZero(t, r.tr.Stats().Sweeps, "nor do the others")
	require.Equal(t, 1, strings.Count(describeGroups(r.tr), "\n"))
}

func describeGroups(tr *tcpstate.Tracker) string {
	var b strings.Builder
	for _, c := range tr.FindingCounts() {
		b.WriteString(string(c.Kind) + "\n")
	}
	return b.String()
}
