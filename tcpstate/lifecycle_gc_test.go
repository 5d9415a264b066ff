package tcpstate_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// far makes connections of which the test drops one end. The other end is held
// here, and is not tracked.
type far struct {
	t     *testing.T
	ln    *net.TCPListener
	dial  net.Dialer
	other []net.Conn
}

func newFar(t *testing.T) *far {
	f := &far{t: t, ln: tcptest.Listen(t)}
	f.dial.SetMultipathTCP(false)
	t.Cleanup(func() {
		for _, c := range f.other {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	})
	return f
}

// conn returns an end that nothing but the caller refers to.
func (f *far) conn(accepted bool) *net.TCPConn {
	f.t.Helper()
	c, err := f.dial.DialContext(f.t.Context(), "tcp", f.ln.Addr().String())
	require.NoError(f.t, err)
	s, err := f.ln.AcceptTCP()
	require.NoError(f.t, err)
	if accepted {
		f.other = append(f.other, c)
		return s
	}
	f.other = append(f.other, s)
	return c.(*net.TCPConn)
}

// gone waits until tr knows that all connections have ended, with the garbage
// collector running.
func gone(t *testing.T, tr *tcpstate.Tracker) {
	t.Helper()
	tcptest.WaitUntil(t, "all connections to be gone", func() bool {
		runtime.GC()
		return tr.Stats().Open == 0
	})
}

func TestConnsClosedBehindOurBackAndCollectedAreNoLeaks(t *testing.T) {
	tr := newTracker(t)
	f := newFar(t)
	func() {
		for i := range 100 {
			switch c := f.conn(i%2 == 0); i % 3 {
			case 0:
				require.NoError(t, tr.Track(c, tcpstate.Origin{}).NetConn().Close())
			case 1:
				require.True(t, tr.Attach(c, tcpstate.Origin{}))
				require.NoError(t, c.Close())
			default:
				w := tr.Track(c, tcpstate.Origin{})
				require.NoError(t, w.NetConn().Close())
				require.ErrorIs(t, w.Close(), net.ErrClosed)
			}
		}
	}()
	gone(t, tr)
	for range 3 {
		runtime.GC()
	}
	require.Empty(t, tr.Findings())
	s := tr.Stats()
	require.EqualValues(t, 100, s.Opened)
	require.EqualValues(t, 100, s.Closed)
	require.Zero(t, s.Found)
}

// mislay tracks n connections at one line and drops them.
//
//go:noinline
func mislay(tr *tcpstate.Tracker, f *far, n int, role tcpstate.Role, attach bool) {
	for range n {
		c, o := f.conn(role == tcpstate.Server), tcpstate.Origin{Role: role, Name: "lost"}
		if attach {
			tr.Attach(c, o)
		} else {
			tr.Track(c, o)
		}
	}
}

// blocked is a poller whose Wait never returns before release is closed.
type blocked struct {
	tcpstate.Poller
	release chan struct{}
}

func (p blocked) Wait(time.Duration, []epoll.Event) ([]epoll.Event, error) {
	<-p.release
	return nil, nil
}

func TestConnsThatAreDroppedAreLeaksAndTheirDescriptorsAreClosed(t *testing.T) {
	const n = 20
	// A loop that hangs must not keep descriptors open.
	stalls := map[string]func(t *testing.T, tr *tcpstate.Tracker) (resume func()){
		"loop runs": func(*testing.T, *tcpstate.Tracker) func() { return func() {} },
		"loop waits for its lock": func(_ *testing.T, tr *tcpstate.Tracker) func() {
			return tcpstate.Stall(tr)
		},
		"loop waits for events for ever": func(t *testing.T, tr *tcpstate.Tracker) func() {
			release := make(chan struct{})
			tcpstate.SetSeam(tr, tcpstate.Seam{NewPoller: func() (tcpstate.Poller, error) {
				p, err := tcpstate.NewPoller()
				return blocked{p, release}, err
			}})
			t.Cleanup(func() { close(release) })
			return func() {}
		},
	}
	for name, stall := range stalls {
		for _, role := range []tcpstate.Role{tcpstate.Client, tcpstate.Server} {
			for _, attach := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/attach=%v", name, role, attach), func(t *testing.T) {
					tr := newTracker(t)
					rec := new(recorder)
					tr.Observe(rec.observer())
					f := newFar(t)
					resume := stall(t, tr)
					before := tcptest.FDCount(t)
					mislay(tr, f, n, role, attach)
					require.GreaterOrEqual(t, tcptest.FDCount(t), before+2*n)

					runtime.GC()
					tcptest.WaitUntil(t, "the cleanups", func() bool { return tr.Stats().Open == 0 })
					runtime.GC()
					tcptest.WaitUntil(t, "the descriptors to be closed", func() bool {
						return tcptest.FDCount(t) <= before+n+2 // the other ends, and an epoll instance
					})
					resume()

					fs := tr.Findings()
					require.Len(t, fs, n)
					for _, f := range fs {
						require.Equal(t, tcpstate.KindLeakCollected, f.Kind)
						require.Equal(t, fs[0].Group.ID, f.Group.ID, "one line, one group")
						require.Equal(t, n, f.Group.Open)
						require.Equal(t, map[tcpstate.Role]string{tcpstate.Client: "dial", tcpstate.Server: "accept"}[role], f.Sites[0].Role)
						require.Contains(t, f.Sites[0].Frames[0].Function, "tcpstate_test.mislay")
						require.Contains(t, f.Sites[0].Frames[0].File, "lifecycle_gc_test.go")
						require.Equal(t, tcpstate.Established, f.State, "the last sample was taken before the descriptor was closed")
					}
					if _, hangs := map[string]bool{"loop waits for events for ever": true}[name]; hangs {
						return
					}
					require.Equal(t, "opened", rec.await(t, 1)[0].what)
				})
			}
		}
	}
}

// What the application still holds of a connection is no leak, whatever part
// of it that is.
func TestWhatIsHeldOfAConnIsNoLeak(t *testing.T) {
	tr := newTracker(t)
	f := newFar(t)
	type part struct {
		name string
		held any
	}
	hold := func() []part {
		inner := tr.Track(f.conn(true), tcpstate.Origin{}).NetConn()
		raw, err := tr.Track(f.conn(true), tcpstate.Origin{}).SyscallConn()
		require.NoError(t, err)
		attached := f.conn(true)
		tr.Attach(attached, tcpstate.Origin{})
		return []part{{"NetConn", inner}, {"RawConn", raw}, {"attached", attached}}
	}
	held := hold()
	for range 5 {
		runtime.GC()
	}
	require.Empty(t, tr.Findings())
	require.Equal(t, 3, tr.Stats().Open)
	runtime.KeepAlive(held)
	held = nil
	gone(t, tr)
	require.Len(t, tr.Findings(), 3, "now it is")
}

// A duplicate from File keeps the connection working, but whoever dropped the
// Conn lost its descriptor.
func TestAConnDroppedAfterFileIsALeak(t *testing.T) {
	tr := newTracker(t)
	f := newFar(t)
	file := func() *os.File {
		file, err := tr.Track(f.conn(true), tcpstate.Origin{}).File()
		require.NoError(t, err)
		return file
	}
	dup := file()
	defer dup.Close()
	gone(t, tr)
	require.Len(t, tr.Findings(), 1)
}

// A leak is told of at once: the loop is not waiting for anything else.
func TestALeakIsToldAtOnce(t *testing.T) {
	r := newRig(t)
	keep, _ := r.accepted()
	defer keep.Close()
	mislay(r.tr, newFar(t), 1, tcpstate.Server, false)
	tcptest.WaitUntil(t, "the observer to be told, while the clock stands still", func() bool {
		runtime.GC()
		return len(r.rec.all()) == 1
	})
}

// The loop ends although groups of collected connections are still open, and a
// Closed tracker shows nothing any more.
func TestLeaksAreShownWithoutALoop(t *testing.T) {
	tr := newTracker(t)
	f := newFar(t)
	mislay(tr, f, 3, tcpstate.Server, false)
	gone(t, tr)
	tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
	require.Len(t, tr.Findings(), 3)
	require.Equal(t, 3, tr.Stats().Warnings)
	require.NoError(t, tr.Close())
	require.Empty(t, tr.Findings())
	require.Zero(t, tr.Stats().Warnings)
}
