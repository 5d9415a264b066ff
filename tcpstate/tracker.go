package tcpstate

import (
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
)

// Tracker watches the connections that it is given and reports what is wrong
// with them. The zero value is ready for use. A Tracker must not be copied. All
// methods may be called from any goroutine.
//
// While it tracks a connection, one goroutine runs; shortly after the last one
// is closed, none does.
type Tracker struct {
	// Config is the initial configuration. It is read when the Tracker is
	// first used; later changes go through Set.
	Config Config

	// Logger receives findings while no Observer is attached. Nil means
	// slog.Default().
	Logger *slog.Logger

	once  sync.Once
	seam  *seam
	base  time.Time // time 0 of the loop's clock
	cfg   atomic.Pointer[settings]
	cfgMu sync.Mutex // serialises Set

	// epoch is a coarse clock in microseconds since base. It never stands
	// still over a pass of the loop, so that a Read after an event can be told
	// from one before. Every Read of every connection looks at it: it has a
	// cache line of its own.
	_     [64]byte
	epoch atomic.Uint64
	_     [64]byte

	poller  atomic.Pointer[pollerBox] // stored with mu held; nil while the loop does not run
	watched atomic.Int64              // connections that epoll watches
	peers   peerWatchers
	nextID  atomic.Uint64
	count   counters

	mu      sync.Mutex // guards following fields
	slots   []slot
	free    []uint32
	byFD    fdTable
	live    int
	pins    int        // what else keeps the loop running
	young   []*entry   // not yet known to the loop
	ends    []*entry   // closed, not yet known to the loop
	closes  []departed // accounted for, their sockets not yet known to the loop
	resets  []reset    // of connections that are accounted for, not yet known to the loop
	untold  int        // events that observers have not been woken for
	since   int64      // when the first of young, ends, closes, resets and events came; 0: not known
	running bool
	urgent  bool // do not wait to account for ends
	again   bool // pass once more without waiting
	guard   bool // do not sleep for longer than lastDelay the next time
	closed  bool
	sleep   time.Duration // what the loop sleeps for; 0 while awake or woken
	done    chan struct{} // closed when the loop that was started last has ended; nil: none was

	blindUntil atomic.Int64 // sockets cannot be looked up before this time

	obsMu     sync.Mutex // serialises Observe and its stop
	observers atomic.Pointer[[]*subscriber]

	// judge guards everything the loop owns, for those who look on. The loop
	// holds it while it works, never while it waits or calls a hook. Lock
	// order: judge, entry.mu, Tracker.mu.
	judge judgement
}

type pollerBox struct{ poller }

// poller is the event source of the loop; see package internal/epoll.
type poller interface {
	Wait(wait time.Duration, evs []epoll.Event) ([]epoll.Event, error)
	Handled()
	Quiet() bool
	Wake()
	Add(fd uintptr, token uint64) error
	Del(fd uintptr) error
	Close() error
}

var defaultTracker Tracker

// Default returns the tracker that is used where none is given.
func Default() *Tracker { return &defaultTracker }

func (t *Tracker) init() {
	t.once.Do(func() {
		if t.seam == nil {
			t.seam = newSeam(testclock.For(t))
		}
		t.base = t.seam.now()
		t.epoch.Store(1)
		cfg := t.Config.clone()
		if err := cfg.validate(); err != nil {
			cfg = Config{Off: cfg.Off}
			t.logger().Error("tcpstate: configuration refused, using the default", "error", err)
		}
		t.cfg.Store(newSettings(cfg))
		t.judge.init(t)
	})
}

func (t *Tracker) logger() *slog.Logger {
	if t.Logger != nil {
		return t.Logger
	}
	return slog.Default()
}

// Set changes the configuration while the tracker runs. It hands f a copy of
// the present configuration; a result that makes no sense is refused with an
// error and changes nothing.
func (t *Tracker) Set(f func(*Config)) error {
	t.init()
	t.cfgMu.Lock()
	defer t.cfgMu.Unlock()
	if t.isClosed() {
		return ErrClosed
	}
	old := t.cfg.Load()
	theirs := old.clone()
	f(&theirs)
	next := theirs.clone() // f may have kept what it was given
	if err := next.validate(); err != nil {
		return err
	}
	// A connection that is registered now either sees Off or is seen by
	// forgetAll: both look with mu held.
	t.cfg.Store(newSettings(next))
	if next.Off {
		t.forgetAll()
	}
	t.judge.listening.reconfigured(t.now())
	t.kick(0)
	return nil
}

// Track begins to watch c and returns the wrapper to use in its place.
// Tracking a connection twice is the same as tracking it once. A nil c gives a
// Conn whose methods return syscall.EINVAL, as those of a zero net.TCPConn do.
// After Close, and while Config.Off is set, the Conn is not watched.
func (t *Tracker) Track(c *net.TCPConn, o Origin) *Conn {
	if c == nil {
		c = new(net.TCPConn)
	}
	return &Conn{TCPConn: c, e: t.add(c, o, true, nil)}
}

// Wrap begins to watch c as well as its type permits: a *net.TCPConn is
// replaced by its Conn; what wraps a TCP connection and tells so by a NetConn
// method, like *tls.Conn, is returned as it is, and the connection below is
// watched; everything else is returned untouched.
func (t *Tracker) Wrap(c net.Conn, o Origin) net.Conn {
	if tc, ok := c.(*net.TCPConn); ok {
		if tc == nil {
			return c
		}
		return t.Track(tc, o)
	}
	t.Attach(c, o)
	return c
}

// Attach begins to watch the TCP connection in c, or below it where c has a
// NetConn method, without wrapping it: the application keeps the *net.TCPConn
// and every type assertion works. It reports whether it found one to watch.
//
// Without the wrapper nobody sees the application's reads: a finding cannot
// say who read the end of the stream, and evidence is what the kernel shows.
// Close is noticed at the next sweep. On js/wasm, where nothing would tell of
// it, no connection is attached.
func (t *Tracker) Attach(c net.Conn, o Origin) bool {
	for range maxUnwrap {
		switch v := c.(type) {
		case nil:
			return false
		case *Conn:
			return v != nil && v.e != nil
		case *net.TCPConn:
			return v != nil && t.add(v, o, false, nil) != nil
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return false
		}
	}
	return false
}

// maxUnwrap bounds the walk down NetConn methods, which may be a circle.
const maxUnwrap = 16

// Of returns the watch of c, or of the TCP connection below it, and nil when
// it is not tracked.
func (t *Tracker) Of(c net.Conn) *Watch {
	for range maxUnwrap {
		switch v := c.(type) {
		case nil:
			return nil
		case *Conn:
			if v == nil {
				return nil
			}
			return v.Watch()
		case *net.TCPConn:
			if v == nil {
				return nil
			}
			return t.byConn(v)
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// Of returns the watch of c in whichever tracker it was wrapped; a connection
// that was attached is found in the default tracker only.
func Of(c net.Conn) *Watch { return Default().Of(c) }

// Lookup returns the watch of the open connection between two addresses, and
// nil when there is none.
func (t *Tracker) Lookup(local, remote net.Addr) *Watch {
	l, r := addrPort(local), addrPort(remote)
	if !l.IsValid() || !r.IsValid() {
		return nil
	}
	for _, e := range t.entries() {
		if addrPort(e.remote) == r && addrPort(e.local) == l {
			return &Watch{e: e}
		}
	}
	return nil
}

// addrPort returns the address in a form that can be compared. An IPv4 address
// of a dual-stack socket is that address.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch v := a.(type) {
	case nil:
	case *net.TCPAddr:
		ap = v.AddrPort()
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Conns returns the connections that are tracked now, oldest first, each read
// from the kernel when the iteration reaches it.
func (t *Tracker) Conns() iter.Seq[Snapshot] {
	return func(yield func(Snapshot) bool) {
		for _, e := range t.entries() {
			if e.rawConn() == nil {
				continue
			}
			if !yield(e.snapshot(true)) {
				return
			}
		}
	}
}

// Close ends the tracker: connections go on working unwatched, attached
// observers receive what is still queued, and no goroutine is left when it
// returns. What was found is forgotten. It must not be called from a hook of an
// Observer. Later calls return ErrClosed, and connections tracked later are not
// watched.
func (t *Tracker) Close() error {
	t.init()
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ErrClosed
	}
	t.closed = true
	done := t.done
	t.wakeLocked()
	t.mu.Unlock()
	if done != nil {
		<-done
	}
	t.judge.dialing.ports.counting.Wait()
	t.judge.listening.syn.counting.Wait()
	t.judge.probes.wg.Wait()
	t.judge.mu.Lock()
	t.meet(t.now()) // what ended before is told
	t.flush(t.now())
	t.judge.mu.Unlock()
	t.forgetAll()
	t.stopObservers()
	t.forgetFindings()
	return nil
}

func (t *Tracker) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// depart takes e out of the registry and hands it to the loop. It reports true
// when the loop has not met e and nobody waits to be told: then e is accounted
// for, and only its socket may be left to follow.
func (t *Tracker) depart(e *entry) (unmet bool) {
	var r reset
	var wasReset bool
	if e.mayBeReset() {
		r, wasReset = e.reset(nil)
	}
	t.mu.Lock()
	if s := &t.slots[e.slot]; s.e == e {
		s.e = nil
		s.gen++
		t.free = append(t.free, e.slot)
		t.live--
	}
	t.byFD.clear(uintptr(e.fd), e)
	unmet = t.notYoungLocked(e) && !e.leaked && e.flags.Load()&flagPaired == 0 && t.observers.Load() == nil
	if unmet {
		// What the loop would do, as far as it applies.
		e.series.states[Established].Add(-1)
		e.series.record(e)
	}
	if t.closed && !t.running {
		t.mu.Unlock()
		if !unmet {
			t.judge.mu.Lock()
			e.series.states[e.state].Add(-1)
			t.judge.mu.Unlock()
		}
		return unmet
	}
	defer t.mu.Unlock()
	switch {
	case unmet:
		if d, ok := e.departure(); ok {
			t.departLocked(d)
		} else if wasReset {
			t.resetLocked(r)
		}
		if t.live == 0 {
			t.kickIdleLocked()
		}
		return true
	case len(t.ends) >= maxEnds:
		// The loop hangs. Most connections are what they were at first.
		t.count.queueFull.Add(1)
		t.judge.tunnels.drop(e)
		e.series.states[Established].Add(-1)
		return false
	}
	t.ends = append(t.ends, e)
	switch {
	case e.leaked || len(t.ends)%wakeQueue == 0:
		t.urgent = true
		t.kickLocked(0)
	case t.live == 0:
		t.kickIdleLocked()
	default:
		t.kickLocked(youngDelay)
	}
	return false
}
