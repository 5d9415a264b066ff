package tcpstate_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// watched returns a tracked connection that is watched without waiting for the
// tracker's next look at the new ones.
func watched(t *testing.T, tr *tcpstate.Tracker, opts ...tcptest.Option) (c *tcpstate.Conn, peer *net.TCPConn) {
	t.Helper()
	inner, peer := tcptest.Pair(t, opts...)
	c = tr.Track(inner, tcpstate.Origin{})
	t.Cleanup(func() { c.Close() })
	tcptest.WaitUntil(t, "the watch", c.Watch().WatchPeer)
	return c, peer
}

func TestAPeerThatClosesIsKnownWithoutAsking(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn){
		"close": func(c *net.TCPConn) { c.Close() },
		"half":  func(c *net.TCPConn) { c.CloseWrite() },
		"reset": func(c *net.TCPConn) { tcptest.Reset(t, c) },
	} {
		for kind, opts := range map[string][]tcptest.Option{"TCP": {tcptest.MPTCP(false)}, "MPTCP": {tcptest.MPTCP(true)}} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				tr := newTracker(t)
				c, peer := watched(t, tr, opts...)
				w := c.Watch()
				closed, isWatched := w.PeerClosed()
				require.False(t, closed)
				require.True(t, isWatched)
				var told atomic.Int64
				w.OnPeerClosed(func() { told.Add(1) })
				end(peer)
				tcptest.WaitUntil(t, "word of it", func() bool { return told.Load() > 0 })
				closed, _ = w.PeerClosed()
				require.True(t, closed)
				w.OnPeerClosed(func() { told.Add(10) })
				require.EqualValues(t, 11, told.Load(), "at once, and each once")
			})
		}
	}
}

func TestAConnIsWatchedBeforeItsFirstSecondIsOver(t *testing.T) {
	r := newRig(t) // time stands still
	inner, peer := tcptest.Pair(t)
	c := r.tr.Track(inner, tcpstate.Origin{})
	tcptest.WaitUntil(t, "the watch", c.Watch().WatchPeer)
	require.Equal(t, 1, r.tr.Stats().Watched)
	peer.Close()
	tcptest.WaitUntil(t, "its end", func() bool { closed, _ := c.Watch().PeerClosed(); return closed })
	r.clk.Advance(2 * time.Second)
	require.Equal(t, 1, r.tr.Stats().Watched, "it is not taken in twice")
	require.NoError(t, c.Close())
	r.clk.Advance(2 * time.Second)
	require.Zero(t, r.tr.Stats().Watched)
}

// What the tracker knows early, it accounts for like the rest.
func TestAConnThatIsWatchedEarlyIsCountedOnce(t *testing.T) {
	tr := newTracker(t)
	c, peer := watched(t, tr)
	in := func(st tcpstate.State) (n int64) {
		for s := range tr.Series() {
			n += s.InState(st)
		}
		return n
	}
	peer.Close()
	tcptest.WaitUntil(t, "the census", func() bool { return in(tcpstate.CloseWait) == 1 })
	require.NoError(t, c.Close())
	tcptest.WaitUntil(t, "the end", func() bool { return in(tcpstate.CloseWait) == 0 })
	other, _ := watched(t, tr)
	require.EqualValues(t, 1, in(tcpstate.Established))
	require.NoError(t, other.Close())
}

func TestAnEndOfOurOwnIsNotThePeers(t *testing.T) {
	tr := newTracker(t)
	c, peer := watched(t, tr)
	var told atomic.Bool
	c.Watch().OnPeerClosed(func() { told.Store(true) })
	require.NoError(t, c.CloseRead())
	other, otherPeer := watched(t, tr) // an event that comes later
	otherPeer.Close()
	tcptest.WaitUntil(t, "the later event", func() bool { closed, _ := other.Watch().PeerClosed(); return closed })
	closed, _ := c.Watch().PeerClosed()
	require.False(t, closed)
	w := c.Watch()
	require.NoError(t, c.Close())
	closed, isWatched := w.PeerClosed()
	require.False(t, closed)
	require.False(t, isWatched)
	require.False(t, w.WatchPeer())
	peer.Close()
	require.False(t, told.Load())

	w = other.Watch() // whose peer has closed
	require.NoError(t, other.Close())
	w.OnPeerClosed(func() { told.Store(true) })
	require.False(t, told.Load())
}

// Where there are no events, the sweep tells.
func TestWithoutEventsTheSweepKnowsThatThePeerHasClosed(t *testing.T) {
	r := newRig(t)
	tcpstate.SetSeam(r.tr, tcpstate.Seam{NewPoller: func() (tcpstate.Poller, error) { return nil, unix.EMFILE }})
	s, c := r.accepted()
	require.False(t, s.Watch().WatchPeer())
	require.False(t, r.tr.EventsHandled())
	var told atomic.Bool
	s.Watch().OnPeerClosed(func() { told.Store(true) })
	r.closes(c, s.TCPConn)
	r.clk.Advance(11 * time.Second)
	closed, isWatched := s.Watch().PeerClosed()
	require.True(t, closed)
	require.False(t, isWatched)
	require.True(t, told.Load())
}

func TestAnOffTrackerWatchesNoPeer(t *testing.T) {
	tr := newTracker(t)
	c, _ := watched(t, tr)
	w := c.Watch()
	require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.Off = true }))
	closed, isWatched := w.PeerClosed()
	require.False(t, closed, "the connection is as it was")
	require.False(t, isWatched)
	require.False(t, w.WatchPeer())

	var none *tcpstate.Watch
	closed, isWatched = none.PeerClosed()
	require.False(t, closed || isWatched || none.WatchPeer())
	none.OnPeerClosed(func() {})
	none.BorrowAt(t.Context(), nil, tcpstate.Use{}, 0, time.Now())()
	require.Nil(t, none.Tracker())
}

// A function that panics does not end the loop.
func TestWhoIsToldMayPanic(t *testing.T) {
	tr := newTracker(t)
	c, peer := watched(t, tr)
	c.Watch().OnPeerClosed(func() { panic("mine") })
	peer.Close()
	tcptest.WaitUntil(t, "the panic", func() bool { return tr.Stats().Panics == 1 })
	other, otherPeer := watched(t, tr)
	otherPeer.Close()
	tcptest.WaitUntil(t, "the next", func() bool { closed, _ := other.Watch().PeerClosed(); return closed })
}

// slow is a poller whose Wait returns late with what it has taken.
type slow struct {
	tcpstate.Poller
	taken, goOn chan struct{}
}

func (p *slow) Wait(wait time.Duration, evs []epoll.Event) ([]epoll.Event, error) {
	evs, err := p.Poller.Wait(wait, evs)
	if len(evs) > 0 {
		p.taken <- struct{}{}
		<-p.goOn
	}
	return evs, err
}

// Between the kernel and the tracker nothing is overlooked.
func TestEventsOnTheirWayAreNotHandled(t *testing.T) {
	tr := newTracker(t)
	p := &slow{taken: make(chan struct{}), goOn: make(chan struct{})}
	tcpstate.SetSeam(tr, tcpstate.Seam{NewPoller: func() (_ tcpstate.Poller, err error) {
		p.Poller, err = tcpstate.NewPoller()
		return p, err
	}})
	require.False(t, tr.EventsHandled(), "there are none")
	a, peerA := watched(t, tr)
	b, peerB := watched(t, tr)
	require.True(t, tr.EventsHandled())
	peerA.Close()
	<-p.taken // in Wait, but not yet known
	closed, _ := a.Watch().PeerClosed()
	require.False(t, closed)
	require.False(t, tr.EventsHandled())
	peerB.Close()
	tcptest.WaitState(t, b, tcptest.CloseWait) // in the kernel
	p.goOn <- struct{}{}
	<-p.taken
	require.False(t, tr.EventsHandled())
	p.goOn <- struct{}{}
	tcptest.WaitUntil(t, "all of it", tr.EventsHandled)
	for _, c := range []*tcpstate.Conn{a, b} {
		closed, _ := c.Watch().PeerClosed()
		require.True(t, closed)
	}
}

func TestABorrowIsToldLaterWithItsLine(t *testing.T) {
	l := newLive(t, func(c *tcpstate.Config) { c.Thresholds.Borrowed = 2 * time.Second })
	client, _ := l.dialed(tcpstate.Expect{})
	p := l.tr.NewPool(tcpstate.Origin{Name: "db"})
	p.Waits()
	site := borrows()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := client.Watch().BorrowAt(ctx, p, tcpstate.Use{}, site, time.Now())
	f := l.finds(tcpstate.KindLeakNotReturned)
	require.Equal(t, "use", f.Sites[0].Role)
	require.Equal(t, site.Frames(), f.Sites[0].Frames)
	require.Contains(t, site.Frames()[0].Function, "borrows")
	require.Empty(t, tcpstate.CallSite(0).Frames())
	done()
	l.clears()
}

func borrows() tcpstate.CallSite { return tcpstate.CaptureSite(0) }
