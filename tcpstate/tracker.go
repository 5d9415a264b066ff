package tcpstate

import (
	"iter"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
	"github.com/tcpstate/tcpstate-go/internal/sites"
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

	once   sync.Once
	seam   *seam
	base   time.Time // time 0 of the loop's clock
	cfg    atomic.Pointer[Config]
	cfgMu  sync.Mutex // serialises Set
	refuse error      // why Config was not accepted; immutable after init

	// epoch is a coarse clock in milliseconds since base. It never stands
	// still over a pass of the loop, so that a Read after an event can be told
	// from one before.
	epoch   atomic.Uint64
	poller  atomic.Pointer[pollerBox]
	watched atomic.Int64 // connections that epoll watches
	nextID  atomic.Uint64
	count   counters

	mu      sync.Mutex // guards following fields
	slots   []slot
	free    []uint32
	byFD    fdTable
	live    int
	young   []*entry // not yet known to the loop
	ends    []*entry // closed, not yet known to the loop
	dials   []dialed // ended dials, not yet known to the loop
	running bool
	urgent  bool // do not wait to account for ends
	closed  bool
	sleep   time.Duration // what the loop sleeps for; 0 while awake or woken
	done    chan struct{} // closed when the loop has ended

	listeners listenerTable

	obsMu     sync.Mutex // serialises Observe and its stop
	observers atomic.Pointer[[]*subscriber]

	// judge guards everything the loop owns, for those who look on. The loop
	// holds it while it works, never while it waits or calls a hook. Lock
	// order: judge, entry.mu, Tracker.mu.
	judge judgement
}

// slot is a place in the registry. Its index and generation are the token of
// an epoll watch: an event of a connection that left the slot is recognised.
type slot struct {
	e   *entry
	gen uint32
}

type pollerBox struct{ poller }

// poller is the event source of the loop; see package internal/epoll.
type poller interface {
	Wait(wait time.Duration, evs []epoll.Event) ([]epoll.Event, error)
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
		cfg := t.Config
		if t.refuse = cfg.validate(); t.refuse != nil {
			cfg = Config{Off: cfg.Off}
			t.logger().Error("tcpstate: configuration refused, using the default", "error", t.refuse)
		}
		t.cfg.Store(&cfg)
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
	next := old.clone()
	f(&next)
	if err := next.validate(); err != nil {
		return err
	}
	t.cfg.Store(&next)
	if next.Off && !old.Off {
		t.forgetAll()
	}
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
// Close is noticed at the next sweep.
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
	if local == nil || remote == nil {
		return nil
	}
	l, r := local.String(), remote.String()
	for _, e := range t.entries() {
		if e.remote != nil && e.remote.String() == r && e.local.String() == l {
			return &Watch{e: e}
		}
	}
	return nil
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
// returns. It must not be called from a hook of an Observer. Later calls return
// ErrClosed, and connections tracked later are not watched.
func (t *Tracker) Close() error {
	t.init()
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ErrClosed
	}
	t.closed = true
	done := t.done
	running := t.running
	t.wakeLocked()
	t.mu.Unlock()
	if running {
		<-done
	}
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

// add registers c. It returns nil when c is not to be watched, and the entry
// that is there already when c was registered before.
func (t *Tracker) add(c *net.TCPConn, o Origin, wrapped bool, d *Dialing) *entry {
	t.init()
	if c == nil || t.cfg.Load().Off {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	fd, err := descriptor(raw)
	if err != nil {
		return nil // closed already
	}
	if e := t.known(fd); e != nil {
		e.adopt(o, wrapped)
		return e
	}

	e := &entry{
		t: t, raw: raw, fd: fd, role: o.Role, name: o.Name, target: o.Target,
		local: c.LocalAddr(), remote: c.RemoteAddr(), state: Established,
	}
	if !o.Expect.isZero() {
		x := o.Expect
		e.expect.Store(&x)
	}
	if wrapped {
		e.flags.Store(flagWrapped)
	}
	if d != nil {
		e.site, e.tokens, e.born, e.dialStart = d.site, d.tokens, d.ended, d.start
	} else {
		e.site, e.born = sites.Capture(2), t.seam.now()
	}
	e.series = t.judge.seriesOf(o.Role, o.Name)
	e.id = t.nextID.Add(1)

	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	if n := len(t.free); n > 0 {
		e.slot = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		e.slot = uint32(len(t.slots))
		t.slots = append(t.slots, slot{})
	}
	s := &t.slots[e.slot]
	s.gen++
	s.e, e.gen = e, s.gen
	t.byFD.set(fd, e)
	t.live++
	t.young = append(t.young, e)
	t.kickLocked(youngDelay)
	t.mu.Unlock()

	t.count.opened.Add(1)
	e.series.opened.Add(1)
	e.series.states[Established].Add(1)
	e.addCleanup(c)
	return e
}

// adopt merges what a second Track or Attach says into an entry.
func (e *entry) adopt(o Origin, wrapped bool) {
	if wrapped {
		e.flags.Or(flagWrapped)
	}
	if !o.Expect.isZero() {
		(&Watch{e: e}).Expect(o.Expect)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.target == "" {
		e.target = o.Target
	}
}

// known returns the entry of the open connection with descriptor fd. Two open
// connections never share a descriptor, so an entry that is still open and has
// this number is this connection; one that is not was closed behind our back.
func (t *Tracker) known(fd uintptr) *entry {
	t.mu.Lock()
	e := t.byFD.get(fd)
	t.mu.Unlock()
	if e == nil {
		return nil
	}
	if raw := e.rawConn(); raw != nil {
		if now, err := descriptor(raw); err == nil && now == fd {
			return e
		}
		e.gone()
	}
	return nil
}

func (t *Tracker) byConn(c *net.TCPConn) *Watch {
	t.init()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	fd, err := descriptor(raw)
	if err != nil {
		return nil
	}
	if e := t.known(fd); e != nil {
		return &Watch{e: e}
	}
	return nil
}

// descriptor returns the number of an open descriptor, to be compared, never
// to be used in a system call.
func descriptor(raw syscall.RawConn) (fd uintptr, err error) {
	err = raw.Control(func(n uintptr) { fd = n })
	return fd, err
}

// ended takes e, which is closed, out of the registry and hands it to the loop.
func (t *Tracker) ended(e *entry) {
	t.count.closed.Add(1)
	e.series.closed.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := &t.slots[e.slot]; s.e == e {
		s.e = nil
		s.gen++
		t.free = append(t.free, e.slot)
		t.live--
	}
	t.byFD.clear(e.fd, e)
	if t.closed {
		e.series.states[e.state].Add(-1)
		return
	}
	t.ends = append(t.ends, e)
	switch {
	case e.leaked:
		t.urgent = true
		t.kickLocked(0)
	case t.live == 0:
		t.kickLocked(lastDelay)
	default:
		t.kickLocked(youngDelay)
	}
}

// entries returns the registered entries, oldest first.
func (t *Tracker) entries() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*entry, 0, t.live)
	for i := range t.slots {
		if e := t.slots[i].e; e != nil {
			all = append(all, e)
		}
	}
	sortEntries(all)
	return all
}

// forgetAll lets go of every connection.
func (t *Tracker) forgetAll() {
	for _, e := range t.entries() {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			continue
		}
		e.forgetLocked()
		e.mu.Unlock()
		t.ended(e)
	}
	t.mu.Lock()
	if t.closed {
		t.young, t.ends, t.dials = nil, nil, nil
	}
	t.mu.Unlock()
}

// forgetLocked ends the watch of an open connection.
func (e *entry) forgetLocked() {
	if e.armed {
		_ = e.raw.Control(func(fd uintptr) {
			if p := e.t.poller.Load(); p != nil {
				_ = p.Del(fd)
			}
		})
		e.t.disarmed()
	}
	e.cleanup.Stop()
	e.forgotten = true
	e.closeLocked()
}
