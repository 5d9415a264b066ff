package tcpstate_test

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// watchedByUs returns how many of our epoll watches are of the socket. Go's own
// poller asks for data, we do not.
func watchedByUs(t *testing.T, inode uint64) (n int) {
	t.Helper()
	for _, w := range tcptest.EpollWatches(t) {
		if w.Inode == inode && w.Events&unix.EPOLLIN == 0 {
			require.NotZero(t, w.Events&unix.EPOLLRDHUP)
			n++
		}
	}
	return n
}

func fdOf(t *testing.T, c net.Conn) (fd uintptr) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(n uintptr) { fd = n }))
	return fd
}

func TestFileLeavesNothingBehindInEpoll(t *testing.T) {
	for name, end := range map[string]func(tr *tcpstate.Tracker, c *tcpstate.Conn) error{
		"Close": func(_ *tcpstate.Tracker, c *tcpstate.Conn) error { return c.Close() },
		"Off": func(tr *tcpstate.Tracker, _ *tcpstate.Conn) error {
			return tr.Set(func(c *tcpstate.Config) { c.Off = true })
		},
		"Tracker.Close": func(tr *tcpstate.Tracker, _ *tcpstate.Conn) error { return tr.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			armed := tcpstate.ArmedEverywhere()
			r := newRig(t)
			c, peer := r.accepted()
			other, _ := r.accepted() // keeps the loop and its epoll instance
			defer other.Close()
			inode := tcptest.InodeOf(t, c)
			require.Equal(t, 1, watchedByUs(t, inode))
			f, err := c.File()
			require.NoError(t, err)
			defer f.Close()
			require.NoError(t, end(r.tr, c))
			require.Zero(t, watchedByUs(t, inode))
			if name == "Close" {
				require.Equal(t, armed+1, tcpstate.ArmedEverywhere())
				require.NoError(t, peer.Close()) // the duplicate sees it, we do not
				r.clk.Advance(time.Minute)
				r.silent()
			} else {
				require.Equal(t, armed, tcpstate.ArmedEverywhere())
			}
		})
	}
}

// A connection closed behind our back after File leaves its watch to the
// duplicate, which nobody can end. It is the only one, and its event is ignored.
func TestAWatchThatOutlivesItsConnIsIgnored(t *testing.T) {
	armed := tcpstate.ArmedEverywhere()
	r := newRig(t)
	c, peer := r.accepted()
	other, _ := r.accepted()
	defer other.Close()
	inode := tcptest.InodeOf(t, c)
	f, err := c.File()
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, c.NetConn().Close())
	r.clk.Advance(12 * time.Second)
	require.Equal(t, 1, r.tr.Stats().Open, "the sweep has seen it")
	require.Equal(t, armed+1, tcpstate.ArmedEverywhere(), "it does not count any more")
	require.Equal(t, 1, watchedByUs(t, inode))

	// Its place and its descriptor's number belong to somebody else by now.
	next, _ := r.accepted()
	defer next.Close()
	require.NoError(t, peer.Close())
	r.clk.Advance(time.Minute)
	r.silent()
}

func TestTrackedTwiceIsTrackedOnce(t *testing.T) {
	o := tcpstate.Origin{Role: tcpstate.Server, Name: "api"}
	for name, twice := range map[string]func(tr *tcpstate.Tracker, c *net.TCPConn) *tcpstate.Conn{
		"Track, Track": func(tr *tcpstate.Tracker, c *net.TCPConn) *tcpstate.Conn {
			tr.Track(c, o)
			return tr.Track(c, o)
		},
		"Track, Attach": func(tr *tcpstate.Tracker, c *net.TCPConn) *tcpstate.Conn {
			w := tr.Track(c, o)
			require.True(t, tr.Attach(c, o))
			require.True(t, tr.Attach(w, o))
			return w
		},
		"Attach, Track": func(tr *tcpstate.Tracker, c *net.TCPConn) *tcpstate.Conn {
			require.True(t, tr.Attach(c, o))
			return tr.Track(c, o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			client, s := tcptest.Pair(t)
			c := twice(r.tr, s)
			r.clk.Advance(2 * time.Second)
			require.EqualValues(t, 1, r.tr.Stats().Opened)
			require.Equal(t, 1, watchedByUs(t, tcptest.InodeOf(t, c)))
			require.Equal(t, r.tr.Of(s).ID(), c.Watch().ID())
			require.True(t, c.Watch().Snapshot().Wrapped)
			r.say(client, "hello", c)
			r.closes(client, s)
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			r.opens(tcpstate.KindCloseWaitEOFSeen)
			r.clears(c)
			require.EqualValues(t, 1, r.tr.Stats().Closed)
		})
	}
}

func TestTwoTrackersAreIndependent(t *testing.T) {
	a, b := newRig(t), newRig(t)
	client, s := tcptest.Pair(t)
	o := tcpstate.Origin{Role: tcpstate.Server, Name: "api"}
	wrapped := a.tr.Track(s, o)
	require.True(t, b.tr.Attach(s, o))
	a.clk.Advance(2 * time.Second)
	b.clk.Advance(2 * time.Second)
	require.Equal(t, 2, watchedByUs(t, tcptest.InodeOf(t, s)))
	a.say(client, "hello", wrapped)
	a.closes(client, s)
	a.opens(tcpstate.KindCloseWaitNotReading)
	b.opens(tcpstate.KindCloseWaitNotReading)
	a.clears(wrapped)
	require.Equal(t, 1, b.tr.Stats().Open)
	b.clk.Advance(12 * time.Second) // the sweep
	require.Empty(t, b.tr.Findings())
	require.Zero(t, b.tr.Stats().Open)
	require.Zero(t, b.tr.Stats().Watched)
}

func TestConcurrentTrackOfOneConnConcurrentSafe(t *testing.T) {
	tr := newTracker(t)
	f := newFar(t)
	for range 200 {
		c := f.conn(true)
		var wg sync.WaitGroup
		ids := make([]uint64, 6)
		for i := range ids {
			wg.Go(func() {
				if i%2 == 0 {
					ids[i] = tr.Track(c, tcpstate.Origin{}).Watch().ID()
				} else {
					tr.Attach(c, tcpstate.Origin{})
					ids[i] = tr.Of(c).ID()
				}
			})
		}
		wg.Wait()
		for _, id := range ids {
			require.Equal(t, ids[0], id)
		}
		require.Equal(t, 1, tr.Stats().Open)
		require.NoError(t, tr.Track(c, tcpstate.Origin{}).Close())
	}
	require.EqualValues(t, 200, tr.Stats().Opened)
	require.EqualValues(t, 200, tr.Stats().Closed)
}

// sameNumber closes c and returns a new connection with the number its
// descriptor had, and the other end.
func sameNumber(t *testing.T, f *far, c net.Conn) (again, other *net.TCPConn) {
	t.Helper()
	fd := fdOf(t, c)
	var fill []*os.File
	defer func() {
		for _, f := range fill {
			f.Close()
		}
	}()
	// The kernel gives the lowest free number: fill the gaps below.
	for {
		f, err := os.Open("/dev/null")
		require.NoError(t, err)
		if f.Fd() > fd {
			f.Close()
			break
		}
		fill = append(fill, f)
	}
	peer, err := f.dial.Dial("tcp", f.ln.Addr().String())
	require.NoError(t, err)
	f.other = append(f.other, peer)
	require.NoError(t, c.Close())
	again, err = f.ln.AcceptTCP()
	require.NoError(t, err)
	require.Equal(t, fd, fdOf(t, again), "the number came back")
	return again, peer.(*net.TCPConn)
}

func TestANumberThatCameBackIsANewConn(t *testing.T) {
	for name, way := range map[string]struct {
		track func(tr *tcpstate.Tracker, c *net.TCPConn) net.Conn // what is closed behind our back
		again func(tr *tcpstate.Tracker, c *net.TCPConn)
	}{
		"Attach": {
			func(tr *tcpstate.Tracker, c *net.TCPConn) net.Conn {
				tr.Attach(c, tcpstate.Origin{Role: tcpstate.Server, Name: "old"})
				return c
			},
			func(tr *tcpstate.Tracker, c *net.TCPConn) {
				tr.Attach(c, tcpstate.Origin{Role: tcpstate.Server, Name: "new"})
			},
		},
		"Track": {
			func(tr *tcpstate.Tracker, c *net.TCPConn) net.Conn {
				return tr.Track(c, tcpstate.Origin{Role: tcpstate.Server, Name: "old"}).NetConn()
			},
			func(tr *tcpstate.Tracker, c *net.TCPConn) {
				tr.Track(c, tcpstate.Origin{Role: tcpstate.Server, Name: "new"})
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			f := newFar(t)
			first := f.conn(true)
			old := way.track(r.tr, first)
			was := r.tr.Of(first).ID()
			r.clk.Advance(2 * time.Second)
			c, peer := sameNumber(t, f, old)
			defer c.Close()
			way.again(r.tr, c)
			require.NotEqual(t, was, r.tr.Of(c).ID())
			s := r.tr.Stats()
			require.EqualValues(t, 2, s.Opened)
			require.EqualValues(t, 1, s.Closed)
			require.Equal(t, 1, s.Open)
			r.clk.Advance(2 * time.Second)
			require.Equal(t, 1, watchedByUs(t, tcptest.InodeOf(t, c)))
			r.silent()

			require.NoError(t, peer.CloseWrite())
			tcptest.WaitState(t, c, tcptest.CloseWait)
			r.clk.Advance(32 * time.Second)
			fs := r.tr.Findings()
			require.Len(t, fs, 1)
			require.Equal(t, "new", fs[0].Subject.Name)
		})
	}
}

// A number that came back is not tracked: the old entry must not be taken for
// it, by the sweep or by whoever asks.
func TestANumberThatCameBackUntracked(t *testing.T) {
	r := newRig(t)
	f := newFar(t)
	old := r.tr.Track(f.conn(true), tcpstate.Origin{Role: tcpstate.Server})
	r.clk.Advance(2 * time.Second)
	c, peer := sameNumber(t, f, old.NetConn())
	defer c.Close()
	require.NoError(t, peer.Close())
	tcptest.WaitState(t, c, tcptest.CloseWait)
	require.Equal(t, tcpstate.Closed, old.Watch().Snapshot().State)
	require.ErrorIs(t, old.Watch().CloseConn(), net.ErrClosed)
	require.Nil(t, r.tr.Of(c))
	r.clk.Advance(time.Minute)
	r.silent()
	require.Zero(t, r.tr.Stats().Open)
}

// forger makes events up.
type forger struct {
	tcpstate.Poller
	mu   sync.Mutex
	list []epoll.Event
}

func (p *forger) Wait(wait time.Duration, evs []epoll.Event) ([]epoll.Event, error) {
	evs, err := p.Poller.Wait(wait, evs)
	p.mu.Lock()
	defer p.mu.Unlock()
	evs = append(evs, p.list...)
	p.list = nil
	return evs, err
}

func (p *forger) send(evs ...epoll.Event) {
	p.mu.Lock()
	p.list = append(p.list, evs...)
	p.mu.Unlock()
	p.Wake()
}

func TestEventsOfAnotherGenerationAreIgnored(t *testing.T) {
	r := newRig(t)
	p := new(forger)
	var mu sync.Mutex
	looks := make(map[uint64]int) // because of events
	tcpstate.SetSeam(r.tr, tcpstate.Seam{
		NewPoller: func() (_ tcpstate.Poller, err error) {
			p.Poller, err = tcpstate.NewPoller()
			return p, err
		},
		Looked: func(id uint64, f epoll.Flags) {
			mu.Lock()
			defer mu.Unlock()
			if f != 0 {
				looks[id]++
			}
		},
	})
	old, _ := r.accepted()
	keep, _ := r.accepted()
	defer keep.Close()
	stale := tcpstate.TokenOf(old.Watch())
	require.NoError(t, old.Close())
	r.clk.Advance(2 * time.Second)
	next, _ := r.accepted()
	defer next.Close()
	token := tcpstate.TokenOf(next.Watch())
	require.Equal(t, uint32(stale), uint32(token), "the place was used again")
	require.NotEqual(t, stale, token)

	const all = epoll.ReadHup | epoll.Hup | epoll.Err
	p.send(
		epoll.Event{Token: stale, Flags: all},
		epoll.Event{Token: 1<<63 | token, Flags: all},
		epoll.Event{Token: 1<<32 - 1, Flags: all},
		epoll.Event{Token: 1<<64 - 1, Flags: all},
	)
	r.clk.Settle()
	mu.Lock()
	require.Empty(t, looks)
	mu.Unlock()

	// A real token is looked at, and what the socket shows counts, not the bits.
	p.send(epoll.Event{Token: token, Flags: all})
	r.clk.Advance(time.Minute)
	mu.Lock()
	require.Equal(t, map[uint64]int{next.Watch().ID(): 1}, looks)
	mu.Unlock()
	r.silent()
	require.Zero(t, r.tr.Stats().Panics)
}

func TestLookupComparesAddresses(t *testing.T) {
	tr := newTracker(t)
	c, s := tcptest.Pair(t)
	w := tr.Track(c, tcpstate.Origin{})
	defer w.Close()
	require.Equal(t, w.Watch().ID(), tr.Lookup(c.LocalAddr(), c.RemoteAddr()).ID())
	require.Nil(t, tr.Lookup(s.LocalAddr(), s.RemoteAddr()), "the other end is not tracked")
	require.Nil(t, tr.Lookup(nil, c.RemoteAddr()))
	require.Nil(t, tr.Lookup(c.LocalAddr(), (*net.TCPAddr)(nil)))
	require.Nil(t, tr.Lookup(&net.UnixAddr{Name: "x"}, c.RemoteAddr()))
	mapped := *c.RemoteAddr().(*net.TCPAddr)
	mapped.IP = mapped.IP.To16()
	require.NotNil(t, tr.Lookup(c.LocalAddr(), &mapped))
	require.NoError(t, w.Close())
	require.Nil(t, tr.Lookup(c.LocalAddr(), c.RemoteAddr()))
}
