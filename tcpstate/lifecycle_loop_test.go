package tcpstate_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// tidy lets the garbage collector close what tests before this one dropped, so
// that descriptors can be counted.
func tidy() {
	for range 4 {
		runtime.GC()
		runtime.Gosched()
	}
}

func TestTheLoopEndsSoonAfterTheLastConn(t *testing.T) {
	tidy()
	tr := newTracker(t)
	f := newFar(t)
	best := time.Hour
	// The machine may be busy with something else: it is to be quick once.
	for try := 0; best > 300*time.Millisecond && try < 5; try++ {
		c := f.conn(true)
		routines, fds := runtime.NumGoroutine(), tcptest.FDCount(t)
		w := tr.Track(c, tcpstate.Origin{})
		tcptest.WaitUntil(t, "the loop to watch", func() bool { return tr.Stats().Watched == 1 })
		require.LessOrEqual(t, tcptest.FDCount(t), fds+1, "one epoll instance")
		require.NoError(t, w.Close())
		closed := time.Now()
		tcptest.WaitUntil(t, "everything to be gone", func() bool {
			return runtime.NumGoroutine() <= routines && tcptest.FDCount(t) <= fds-1
		})
		best = min(best, time.Since(closed))
	}
	t.Logf("gone after %v", best)
	require.LessOrEqual(t, best, 300*time.Millisecond)
}

// A series of short connections does not start a loop for each.
func TestTheLoopOutlivesShortConns(t *testing.T) {
	tr := newTracker(t)
	var loops atomic.Int64
	tcpstate.SetSeam(tr, tcpstate.Seam{NewPoller: func() (tcpstate.Poller, error) {
		loops.Add(1)
		return tcpstate.NewPoller()
	}})
	f := newFar(t)
	begin := time.Now()
	for range 200 {
		require.NoError(t, tr.Track(f.conn(true), tcpstate.Origin{}).Close())
	}
	require.LessOrEqual(t, loops.Load(), 2+int64(time.Since(begin)/(50*time.Millisecond)))
}

// waits notes how long the loop wants to sleep.
type waits struct {
	tcpstate.Poller
	mu   sync.Mutex
	list []time.Duration
}

func (p *waits) Wait(wait time.Duration, evs []epoll.Event) ([]epoll.Event, error) {
	p.mu.Lock()
	p.list = append(p.list, wait)
	p.mu.Unlock()
	return p.Poller.Wait(wait, evs)
}

func (p *waits) all() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Duration(nil), p.list...)
}

func TestAnIdleTrackerSleeps(t *testing.T) {
	tr := newTracker(t)
	p := new(waits)
	tcpstate.SetSeam(tr, tcpstate.Seam{NewPoller: func() (_ tcpstate.Poller, err error) {
		p.Poller, err = tcpstate.NewPoller()
		return p, err
	}})
	f := newFar(t)
	for range 50 {
		defer tr.Track(f.conn(true), tcpstate.Origin{}).Close()
	}
	tcptest.WaitUntil(t, "the loop to watch and to sleep", func() bool {
		all := p.all()
		return tr.Stats().Watched == 50 && all[len(all)-1] > 2*time.Second
	})
	all := p.all()
	require.Greater(t, all[len(all)-1], 7*time.Second, "until the sweep")
	require.LessOrEqual(t, len(all), 5, "start, first connection, youth: %v", all)
}

// A new connection waits for at most a second, also when the loop is awake for
// something else in between.
func TestANewConnIsWatchedWithinASecond(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.closes(c, s.TCPConn)
	r.clk.Advance(700 * time.Millisecond) // s is a suspect, looked at every second
	for i := range 5 {
		_, n := tcptest.Pair(t)
		w := r.tr.Track(n, tcpstate.Origin{Role: tcpstate.Server})
		defer w.Close()
		r.clk.Advance(400 * time.Millisecond)
		require.Equal(t, 1+i, r.tr.Stats().Watched)
		r.clk.Advance(600 * time.Millisecond)
		require.Equal(t, 2+i, r.tr.Stats().Watched)
		r.clk.Advance(130 * time.Millisecond)
	}
	require.NoError(t, s.Close())
}

func TestTheLoopHasNoLabels(t *testing.T) {
	tr := newTracker(t)
	rec := new(recorder)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var c *tcpstate.Conn
	f := newFar(t)
	pprof.Do(t.Context(), pprof.Labels("tenant", "secret"), func(context.Context) {
		wg.Go(func() { labelled(stop) })
		tr.Observe(rec.observer())
		c = tr.Track(f.conn(true), tcpstate.Origin{})
	})
	defer c.Close()
	defer wg.Wait()
	defer close(stop)
	tcptest.WaitUntil(t, "the loop", func() bool { return tr.Stats().Watched == 1 })
	var b bytes.Buffer
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
	var loop, control bool
	for stack := range strings.SplitSeq(b.String(), "\n\n") {
		secret := strings.Contains(stack, "secret")
		if strings.Contains(stack, "(*Tracker).loop") {
			loop = true
			require.False(t, secret, stack)
		}
		control = control || secret && strings.Contains(stack, "labelled")
	}
	require.True(t, loop)
	require.True(t, control, "labels show")
}

//go:noinline
func labelled(stop chan struct{}) { <-stop }

// TestGoleakChild is a test as users write them.
func TestGoleakChild(t *testing.T) {
	what := os.Getenv(goleakChild)
	if what == "" {
		t.Skip("run by TestGoleakIsContent")
	}
	ln := tcptest.Listen(t)
	l := tcpstate.Default().AddListener(ln, tcpstate.Origin{Name: "echo"})
	defer l.Remove(0)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	d := dialer.Dialer{Name: "echo"}
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	tcptest.WaitUntil(t, "the loop to watch", func() bool { return tcpstate.Default().Stats().Watched == 1 })
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 5))
	require.NoError(t, err)
	if what == "forgets to close" {
		runtime.SetFinalizer(c.(*tcpstate.Conn), nil)
		kept = c
		return
	}
	require.NoError(t, c.Close())
}

var kept net.Conn

func TestGoleakIsContent(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	child := func(what string) (string, error) {
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestGoleakChild$")
		cmd.Env = append(os.Environ(), goleakChild+"="+what)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := child("closes")
	require.NoError(t, err, out)
	out, err = child("forgets to close")
	require.Error(t, err, "goleak sees the loop while a connection is open")
	require.Contains(t, out, "(*Tracker).loop")
}

// A user's test dials in a bubble, where time passes only while every goroutine
// waits for it.
func TestABubbleIsNotDisturbed(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, tr *tcpstate.Tracker, f *far){
		"first use": func(*testing.T, *tcpstate.Tracker, *far) {},
		"used before": func(t *testing.T, tr *tcpstate.Tracker, f *far) {
			require.NoError(t, tr.Track(f.conn(true), tcpstate.Origin{}).Close())
			tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
		},
		"in use": func(t *testing.T, tr *tcpstate.Tracker, f *far) {
			c := tr.Track(f.conn(true), tcpstate.Origin{})
			t.Cleanup(func() { c.Close() })
			tcptest.WaitUntil(t, "the loop to watch", func() bool { return tr.Stats().Watched == 1 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := &tcpstate.Tracker{
				Logger: slog.New(slog.DiscardHandler),
				Config: tcpstate.Config{Thresholds: tcpstate.Thresholds{CloseWait: 10 * time.Millisecond}},
			}
			t.Cleanup(func() { tr.Close() })
			leaktest.Check(t, tr, leaktest.IgnoreFindings()) // they are expected
			outside := newFar(t)
			before(t, tr, outside)
			var left net.Conn
			synctest.Test(t, func(t *testing.T) {
				f := newFar(t)
				d := dialer.Dialer{Tracker: tr, Name: "bubble"}
				c, err := d.DialContext(t.Context(), "tcp", f.ln.Addr().String())
				require.NoError(t, err)
				s, err := f.ln.AcceptTCP()
				require.NoError(t, err)
				w := tr.Track(s, tcpstate.Origin{Role: tcpstate.Server})
				begin := time.Now()
				time.Sleep(time.Hour)
				require.Equal(t, time.Hour, time.Since(begin))
				_, err = c.Write([]byte("hello"))
				require.NoError(t, err)
				_, err = io.ReadFull(w, make([]byte, 5))
				require.NoError(t, err)
				require.NotEmpty(t, c.(*tcpstate.Conn).Watch().Snapshot().Local)
				_ = tr.Findings()
				_ = tr.Stats()
				stop := tr.Observe(&tcpstate.Observer{Closed: func(tcpstate.ClosedInfo) {}})
				require.NoError(t, c.Close())
				stop()
				require.NoError(t, tr.Set(func(*tcpstate.Config) {}))
				left = w
				synctest.Wait()
			})

			// What was left open in the bubble is watched once the tracker is
			// used outside.
			c := tr.Track(outside.conn(true), tcpstate.Origin{Role: tcpstate.Server})
			defer c.Close()
			defer left.Close()
			require.NoError(t, outside.other[len(outside.other)-1].Close())
			tcptest.WaitUntil(t, "the findings", func() bool { return len(tr.Findings()) == 2 })
			for _, f := range tr.Findings() {
				require.Less(t, f.Age(), time.Minute)
				require.WithinDuration(t, time.Now(), f.Since, time.Minute)
			}
		})
	}
}

func TestCloseLeavesNothingButConnsThatWork(t *testing.T) {
	tidy()
	tr := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	routines, fds, armed := runtime.NumGoroutine(), tcptest.FDCount(t), tcpstate.ArmedEverywhere()
	a, b := tcptest.Pair(t)
	c, d := tr.Track(a, tcpstate.Origin{}), tr.Track(b, tcpstate.Origin{Role: tcpstate.Server})
	tcptest.WaitUntil(t, "the loop to watch", func() bool { return tr.Stats().Watched == 2 })
	require.NoError(t, tr.Close())
	require.ErrorIs(t, tr.Close(), tcpstate.ErrClosed)
	require.ErrorIs(t, tr.Set(func(*tcpstate.Config) {}), tcpstate.ErrClosed)
	require.LessOrEqual(t, tcptest.FDCount(t), fds+2)
	tcptest.WaitUntil(t, "goroutines on their last instructions", func() bool { return runtime.NumGoroutine() <= routines })
	require.Equal(t, armed, tcpstate.ArmedEverywhere())
	s := tr.Stats()
	require.Zero(t, s.Open)
	require.Zero(t, s.Watched)

	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(d, make([]byte, 5))
	require.NoError(t, err)
	require.False(t, c.Watch().Open(), "the tracker does not know any more")
	require.Equal(t, a, c.NetConn())
	require.NoError(t, c.CloseWrite())
	n, err := d.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)
	require.NoError(t, c.Close())
	require.NoError(t, d.Close())

	e, f := tcptest.Pair(t)
	late := tr.Track(e, tcpstate.Origin{})
	require.Nil(t, late.Watch())
	require.False(t, tr.Attach(f, tcpstate.Origin{}))
	require.NoError(t, late.Close())
	require.False(t, tcpstate.Running(tr))
}

// requireEmptyCensus asks for a census in which nobody is left.
func requireEmptyCensus(t *testing.T, tr *tcpstate.Tracker) {
	t.Helper()
	for s := range tr.Series() {
		for _, st := range append(tcpstate.States(), tcpstate.Unknown) {
			require.Zero(t, s.InState(st), "%s %q in %v", s.Role, s.Name, st)
		}
		require.Equal(t, s.Opened, s.Closed)
	}
}

func TestTrackerConcurrentSafe(t *testing.T) {
	armed := tcpstate.ArmedEverywhere()
	tr := &tcpstate.Tracker{
		Logger: slog.New(slog.DiscardHandler),
		Config: tcpstate.Config{SweepInterval: 100 * time.Millisecond, Thresholds: tcpstate.Thresholds{
			CloseWait: 10 * time.Millisecond, DeadSocket: 10 * time.Millisecond, Reminder: 10 * time.Millisecond,
		}},
	}
	ln := tcptest.Listen(t)
	var d net.Dialer
	d.SetMultipathTCP(false)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	every := func(n int, f func()) {
		for range n {
			wg.Go(func() {
				for ctx.Err() == nil {
					f()
					runtime.Gosched()
				}
			})
		}
	}
	var dialing sync.Mutex // so that the two ends belong together
	every(4, func() {
		dialing.Lock()
		a, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			dialing.Unlock()
			return
		}
		b, err := ln.AcceptTCP()
		dialing.Unlock()
		if err != nil {
			a.Close()
			return
		}
		_ = a.(*net.TCPConn).SetLinger(0)
		_ = b.SetLinger(0)
		c := tr.Track(a.(*net.TCPConn), tcpstate.Origin{Name: "a"})
		var twice sync.WaitGroup
		twice.Go(func() { tr.Track(b, tcpstate.Origin{Role: tcpstate.Server, Name: "b"}) })
		twice.Go(func() { tr.Attach(b, tcpstate.Origin{Role: tcpstate.Server, Name: "b"}) })
		twice.Wait()
		done := c.Watch().Use(ctx, tcpstate.Use{Name: "use"})
		_, _ = c.Write([]byte("x"))
		switch rand.IntN(8) {
		case 0:
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		case 1:
			_ = c.CloseWrite()
			time.Sleep(30 * time.Millisecond)
		case 2:
			_ = b.Close()
			time.Sleep(30 * time.Millisecond)
		case 3:
			_ = c.NetConn().Close()
		case 4:
			runtime.GC()
			done()
			_ = b.Close()
			return // dropped
		}
		done()
		_ = c.Close()
		_ = b.Close()
	})
	every(1, func() {
		on := rand.IntN(2) == 0
		_ = tr.Set(func(c *tcpstate.Config) { c.Off = !on })
		time.Sleep(5 * time.Millisecond)
	})
	every(1, func() { _ = tr.Findings(); _ = tr.FindingCounts(); _ = tr.Facilities() })
	every(1, func() {
		for s := range tr.Conns() {
			if w := tr.Lookup(s.Local, s.Remote); w != nil {
				_ = w.Snapshot()
				w.Expect(tcpstate.Expect{Pooled: true})()
			}
			if ctx.Err() != nil {
				break
			}
		}
	})
	every(1, func() { _ = tr.Stats(); _ = tr.Report(io.Discard) })
	every(1, func() {
		stop := tr.Observe(&tcpstate.Observer{
			Token:    func(context.Context) any { return 1 },
			DialDone: func(tcpstate.DialInfo) any { return 2 },
			Closed:   func(tcpstate.ClosedInfo) {},
			Opened:   func(f tcpstate.Finding) { _ = f.Subject.Conn.Snapshot() },
			Cleared:  func(tcpstate.Finding) { _ = tr.Stats() },
		})
		time.Sleep(3 * time.Millisecond)
		stop()
	})
	wg.Wait()
	gone(t, tr)
	tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
	s := tr.Stats()
	require.Equal(t, s.Opened, s.Closed)
	require.Zero(t, s.Watched)
	require.Zero(t, s.Panics)
	requireEmptyCensus(t, tr)
	require.Equal(t, armed, tcpstate.ArmedEverywhere())
	require.NoError(t, tr.Close())
}

// Close comes while everything else goes on.
func TestCloseConcurrentSafe(t *testing.T) {
	f := newFar(t)
	for range 30 {
		tr := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
		var conns []*net.TCPConn
		for range 8 {
			conns = append(conns, f.conn(true))
		}
		var wg sync.WaitGroup
		for i, c := range conns {
			wg.Go(func() {
				w := tr.Track(c, tcpstate.Origin{})
				if i%2 == 0 {
					runtime.Gosched()
				}
				_ = w.Close()
			})
		}
		wg.Go(func() { _ = tr.Findings(); _ = tr.Set(func(c *tcpstate.Config) { c.Off = true }) })
		wg.Go(func() {
			for range rand.IntN(200) {
				runtime.Gosched()
			}
			_ = tr.Close()
		})
		wg.Wait()
		_ = tr.Close()
		require.False(t, tcpstate.Running(tr))
		s := tr.Stats()
		require.Zero(t, s.Open)
		require.Equal(t, s.Opened, s.Closed)
		requireEmptyCensus(t, tr)
	}
}

// More connections end than the loop is told of, because it hangs: they are
// counted, and the memory they take is bounded.
func TestALoopThatHangsDoesNotCollectEntries(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("takes tens of thousands of connections")
	}
	tr := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	defer tr.Observe(&tcpstate.Observer{Closed: func(tcpstate.ClosedInfo) {}})()
	c, _ := tcptest.Pair(t)
	keep, _ := tcptest.Pair(t)
	w := tr.Track(keep, tcpstate.Origin{})
	defer w.Close()
	resume := tcpstate.Stall(tr)
	for range tcpstate.MaxEnds + 1000 {
		tcpstate.Forget(tr.Track(c, tcpstate.Origin{}))
	}
	_, _, ends := tcpstate.Registered(tr)
	require.Equal(t, tcpstate.MaxEnds, ends)
	resume()
	tcptest.WaitUntil(t, "the loop to catch up", func() bool {
		_, _, ends := tcpstate.Registered(tr)
		return ends == 0
	})
	require.EqualValues(t, 1000, tr.Stats().QueueFull)
	require.Equal(t, 1, tr.Stats().Open)
	require.NoError(t, w.Close())
	tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
	requireEmptyCensus(t, tr)
}
