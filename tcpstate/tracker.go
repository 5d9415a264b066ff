package tcpstate

import (
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
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

	// epoch is a coarse clock in microseconds since base. It never stands
	// still over a pass of the loop, so that a Read after an event can be told
	// from one before. Every Read of every connection looks at it: it has a
	// cache line of its own.
	_     [64]byte
	epoch atomic.Uint64
	_     [64]byte

	poller  atomic.Pointer[pollerBox] // stored with mu held; nil while the loop does not run
	watched atomic.Int64              // connections that epoll watches
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
	since   int64    // when the first of young, ends and dials came; 0: not known
	running bool
	urgent  bool // do not wait to account for ends
	again   bool // pass once more without waiting
	closed  bool
	sleep   time.Duration // what the loop sleeps for; 0 while awake or woken
	done    chan struct{} // closed when the loop that was started last has ended; nil: none was

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
		if t.seam.clock == nil && t.seam.fakeTime() {
			// First used in a bubble of testing/synctest: the clock of the
			// program outside counts.
			t.base = machineTime()
		}
		t.epoch.Store(1)
		cfg := t.Config.clone()
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
	theirs := old.clone()
	f(&theirs)
	next := theirs.clone() // f may have kept what it was given
	if err := next.validate(); err != nil {
		return err
	}
	// A connection that is registered now either sees Off or is seen by
	// forgetAll: both look with mu held.
	t.cfg.Store(&next)
	if next.Off {
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
	t.judge.mu.Lock()
	t.meet(t.now(), t.epoch.Load()) // what ended before is told
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

// add registers c. It returns nil when c is not to be watched, and the entry
// that is there already when c was registered before.
func (t *Tracker) add(c *net.TCPConn, o Origin, wrapped bool, d *Dialing) *entry {
	t.init()
	if c == nil || t.cfg.Load().Off || !wrapped && !numbered {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	e, seen, fd, err := t.known(raw)
	if err != nil {
		return nil // closed already
	}
	if e != nil {
		e.adopt(o, wrapped)
		return e
	}

	e = &entry{
		t: t, raw: raw, fd: uint32(fd), role: o.Role, name: o.Name, target: o.Target,
		local: tcpAddr(c.LocalAddr()), remote: tcpAddr(c.RemoteAddr()),
		state: Established, dialTook: -1,
	}
	if !o.Expect.isZero() {
		x := o.Expect
		e.expect.Store(&x)
	}
	if wrapped {
		e.flags.Store(flagWrapped)
	}
	if d != nil {
		e.site, e.tokens, e.born, e.dialTook = d.site, d.tokens, d.ended, max(d.ended.Sub(d.start), 0)
	} else {
		e.site, e.born = sites.Capture(2), t.seam.now()
	}
	e.series = t.judge.seriesOf(o.Role, o.Name)
	e.id = t.nextID.Add(1)
	e.addCleanup(c)
	for !t.register(e, seen) {
		// Somebody else has used the place meanwhile: for this connection, or
		// for another one with the same number while this one was closed.
		var other *entry
		if other, seen, _, err = t.known(raw); other != nil || err != nil {
			e.cleanup.Stop()
			if other != nil {
				other.adopt(o, wrapped)
			}
			return other
		}
	}
	runtime.KeepAlive(c) // not collected before it is registered
	if e.flags.Load()&flagClosed != 0 {
		return nil
	}
	return e
}

// register puts e into the registry. It reports false when the entry with the
// number of e's descriptor is another one than seen. When nothing is to be
// watched any more, e is closed instead.
func (t *Tracker) register(e, seen *entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.cfg.Load().Off {
		e.cleanup.Stop()
		e.closed = true
		e.flags.Or(flagClosed)
		return true
	}
	if t.byFD.get(uintptr(e.fd)) != seen {
		return false
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
	t.byFD.set(uintptr(e.fd), e)
	t.live++
	t.young = append(t.young, e)
	e.youngAt = uint32(len(t.young))
	t.count.opened.Add(1)
	e.series.opened.Add(1)
	e.series.states[Established].Add(1)
	t.kickLocked(youngDelay)
	return true
}

// tcpAddr returns a, or an empty address for one that is not known: that of the
// peer of a connection that was reset before it was accepted.
func tcpAddr(a net.Addr) *net.TCPAddr {
	if v, ok := a.(*net.TCPAddr); ok && v != nil {
		return v
	}
	return new(net.TCPAddr)
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

// known returns the entry of the connection behind raw, its descriptor's number
// and the entry that had this number, which is e or has ended. The error says
// that the connection is closed.
//
// Two open connections never share a number. So an entry that is open while raw
// is held open, and has the same number, is this connection; one that is not
// open was closed behind our back.
func (t *Tracker) known(raw syscall.RawConn) (e, seen *entry, fd uintptr, err error) {
	h := holders.Get().(*holder)
	defer holders.Put(h)
	h.t = t
	err = raw.Control(h.fn)
	e, seen, fd = h.e, h.seen, h.fd
	h.t, h.e, h.seen = nil, nil, nil
	return e, seen, fd, err
}

// numbered reports whether connections have descriptors of their own. In the
// fake network of js/wasm all have number 0, and none tells that it was closed:
// there, connections are not recognised by their number, nor attached, and one
// that was dropped is not called leaked.
const numbered = runtime.GOOS != "js" && runtime.GOOS != "wasip1"

// holder runs known inside RawConn.Control. It is reused, because a new
// function value per call would be an allocation.
type holder struct {
	t       *Tracker
	fd      uintptr
	e, seen *entry
	fn      func(fd uintptr)
}

var holders = sync.Pool{New: func() any {
	h := new(holder)
	h.fn = h.control
	return h
}}

func (h *holder) control(fd uintptr) {
	h.fd = fd
	h.t.mu.Lock()
	e := h.t.byFD.get(fd)
	h.t.mu.Unlock()
	h.seen = e
	if e == nil || !numbered {
		return
	}
	raw := e.rawConn()
	if raw == nil {
		return // it is about to leave the registry
	}
	if raw.Control(func(uintptr) {}) == nil {
		h.e = e
		return
	}
	e.gone()
	h.seen = nil
}

func (t *Tracker) byConn(c *net.TCPConn) *Watch {
	t.init()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	e, _, _, err := t.known(raw)
	if e == nil || err != nil {
		return nil
	}
	return &Watch{e: e}
}

// maxEnds bounds the ended connections that wait for the loop, which is woken
// when a part of them has come together.
const maxEnds = 1 << 16

// ended takes e, which is closed, out of the registry. The loop accounts for
// it, unless it has not met e yet and nobody waits to be told.
func (t *Tracker) ended(e *entry) {
	t.count.closed.Add(1)
	e.series.closed.Add(1)
	if !t.depart(e) {
		return
	}
	// What the loop would do, as far as it applies.
	e.series.states[Established].Add(-1)
	e.series.record(e)
	e.release()
}

// depart takes e out of the registry and hands it to the loop. It reports true
// when the caller is to account for it.
func (t *Tracker) depart(e *entry) (unmet bool) {
	t.mu.Lock()
	if s := &t.slots[e.slot]; s.e == e {
		s.e = nil
		s.gen++
		t.free = append(t.free, e.slot)
		t.live--
	}
	t.byFD.clear(uintptr(e.fd), e)
	unmet = t.notYoungLocked(e) && !e.leaked && t.observers.Load() == nil
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
		if t.live == 0 {
			t.kickLocked(lastDelay)
		}
		return true
	case len(t.ends) >= maxEnds:
		// The loop hangs. Most connections are what they were at first.
		t.count.queueFull.Add(1)
		e.series.states[Established].Add(-1)
		return false
	}
	t.ends = append(t.ends, e)
	switch {
	case e.leaked || len(t.ends)%(maxEnds/16) == 0:
		t.urgent = true
		t.kickLocked(0)
	case t.live == 0:
		t.kickLocked(lastDelay)
	default:
		t.kickLocked(youngDelay)
	}
	return false
}

// notYoungLocked takes e off the list of new connections, and reports whether it
// was on it. The caller holds mu.
func (t *Tracker) notYoungLocked(e *entry) bool {
	if e.youngAt == 0 {
		return false
	}
	last := len(t.young) - 1
	moved := t.young[last]
	t.young[e.youngAt-1], moved.youngAt = moved, e.youngAt
	t.young[last] = nil
	t.young = t.young[:last]
	e.youngAt = 0
	return true
}

// entries returns the registered entries, oldest first.
func (t *Tracker) entries() []*entry {
	t.mu.Lock()
	all := make([]*entry, 0, t.live)
	for i := range t.slots {
		if e := t.slots[i].e; e != nil {
			all = append(all, e)
		}
	}
	t.mu.Unlock()
	sortEntries(all)
	return all
}

// forgetAll lets go of every connection.
func (t *Tracker) forgetAll() {
	for _, e := range t.entries() {
		if e.forget() {
			t.ended(e)
		}
	}
}
