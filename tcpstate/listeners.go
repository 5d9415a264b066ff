package tcpstate

import (
	"cmp"
	"errors"
	"iter"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// Listening is the watch of one listener. Package listener makes and tells it
// everything; other listeners can do the same. Every method works on nil and
// may be called from any goroutine.
//
// Like an entry it holds the RawConn, which does not point back to the listener.
type Listening struct {
	t      *Tracker
	origin Origin
	addr   net.Addr // nil: it has no accept queue to look at
	site   sites.ID // where it was made

	// Written by those who accept, read by the loop.
	accepting  atomic.Int32 // calls of Accept in progress
	accepted   atomic.Uint64
	failed     atomic.Uint64
	acceptedAt atomic.Int64                 // the loop's time; 0: never
	failure    atomic.Pointer[acceptFailed] // the last one
	serving    atomic.Int64                 // since when somebody is to accept; 0: not yet
	acceptSite atomic.Uint32                // of the first Accept; 0: none
	nested     atomic.Bool                  // an Accept of another listener calls ours

	draining atomic.Int64 // since when; 0: it is not
	grace    atomic.Int64 // how long the connections are in drain
	declared atomic.Bool  // Drain was called
	conns    atomic.Int64 // tracked and open

	cleanup runtime.Cleanup

	mu         sync.Mutex // guards following fields
	raw        syscall.RawConn
	inside     *entry // first read from inside an outer Accept, and there last
	insideSite sites.ID
	pin        pin
	removed    bool

	watch listenWatch // owned by the loop
}

// acceptFailed is an Accept that returned an error.
type acceptFailed struct {
	err error
	at  int64 // the loop's time
}

// AddListener begins to watch the accept queue of ln, until Remove, or until ln
// is closed or dropped. Of a listener that is not TCP only the accepted
// connections are watched. It returns nil when ln is nil.
func (t *Tracker) AddListener(ln net.Listener, o Origin) *Listening {
	t.init()
	tl, ok := ln.(*net.TCPListener)
	if ln == nil || ok && tl == nil {
		return nil
	}
	l := &Listening{t: t, origin: o, site: sites.Capture(1)}
	l.origin.listener = l
	if !ok {
		return l
	}
	raw, err := tl.SyscallConn()
	if err != nil {
		return l
	}
	l.raw, l.addr = raw, tl.Addr()
	l.cleanup = runtime.AddCleanup(tl, (*Listening).dropped, l)
	t.judge.listening.add(t, l)
	return l
}

// Serving says that connections are to be accepted from now on. Without it that
// is so once Accept was called: a listener that was inherited may be shared
// with somebody who accepts, or the program may not be ready.
func (l *Listening) Serving() {
	if l != nil {
		l.serving.CompareAndSwap(0, l.t.now())
	}
}

// Accepting says that an Accept begins. Accepted has to follow.
func (l *Listening) Accepting() {
	if l == nil {
		return
	}
	if l.acceptSite.Load() == 0 {
		l.firstAccept()
	}
	l.accepting.Add(1)
}

// firstAccept looks once at who accepts.
func (l *Listening) firstAccept() {
	id := sites.Capture(2)
	l.nested.Store(acceptAbove(id) > 1)
	l.acceptSite.Store(uint32(id))
	l.Serving()
}

// Accepted says what the Accept returned. With wrap a *net.TCPConn is returned
// as a *Conn, as by Tracker.Wrap; without, it is watched as by Tracker.Attach.
func (l *Listening) Accepted(c net.Conn, err error, wrap bool) net.Conn {
	if l == nil {
		return c
	}
	defer l.accepting.Add(-1) // after the counts: the loop takes it for no Accept in between
	if err != nil {
		l.acceptFailed(err)
		return c
	}
	l.acceptedAt.Store(l.t.now())
	l.accepted.Add(1)
	if wrap {
		return l.t.Wrap(c, l.origin)
	}
	l.t.Attach(c, l.origin)
	return c
}

func (l *Listening) acceptFailed(err error) {
	if errors.Is(err, net.ErrClosed) {
		l.Remove(0) // closed behind our back, if it is not known yet
		return
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return // a deadline: the caller has something else to do at times
	}
	l.failure.Store(&acceptFailed{err, l.t.now()})
	l.failed.Add(1)
}

// Drain says that the listener takes its leave: its queue is not reported any
// more, nor its connections for what is normal then. The kinds of accept,
// closing, handshake, idle, keepalive and local, peer.silent and
// peer.no_response stay silent from now on. Those of close_wait, reset and
// tunnel, and leak.dead_socket, come back after grace.
func (l *Listening) Drain(grace time.Duration) {
	if l == nil {
		return
	}
	l.declared.Store(true)
	l.drainFor(grace)
	l.t.judge.listening.soon(l.t.now())
	l.t.kick(youngDelay)
}

// Remove ends the watch of the accept queue: the listener is about to be
// closed. For grace its connections are in drain; then everything is reported
// again but for what Drain has declared.
func (l *Listening) Remove(grace time.Duration) {
	if l == nil {
		return
	}
	if grace > 0 {
		l.drainFor(grace)
	}
	l.mu.Lock()
	known := l.raw != nil
	l.mu.Unlock()
	if known {
		l.cleanup.Stop()
		l.leave()
	}
}

func (l *Listening) drainFor(grace time.Duration) {
	l.grace.Store(int64(max(grace, 0)))
	l.draining.CompareAndSwap(0, l.t.now())
}

// dropped runs when the listener was garbage collected.
func (l *Listening) dropped() { l.leave() }

// leave takes l out of the table. The descriptor goes with the RawConn, if
// nobody has closed it.
func (l *Listening) leave() {
	l.mu.Lock()
	first := !l.removed
	l.removed, l.raw, l.inside = true, nil, nil
	l.mu.Unlock()
	if !first {
		return
	}
	l.t.judge.listening.remove(l.t, l)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pin.held {
		l.pin.hold(l.t, false)
		l.t.kick(lastDelay) // to end what is open
	}
}

// ListenerSnapshot is one listener at one moment.
type ListenerSnapshot struct {
	Name string // Origin.Name
	Addr net.Addr
	// Queue is how many connections are established and wait for Accept, and
	// Limit how many may: when the queue is longer, the kernel drops
	// handshakes. TCP_INFO of a listening socket gives them as tcpi_unacked and
	// tcpi_sacked (net/ipv4/tcp.c, tcp_get_info).
	Queue, Limit int
	Accepting    int       // calls of Accept in progress
	Accepted     uint64    // connections ever accepted
	Failed       uint64    // calls of Accept that failed, but for deadlines
	LastAccept   time.Time // when a connection was last accepted
	LastError    error     // of the last Accept that failed, at LastErrorAt
	LastErrorAt  time.Time
	Conns        int    // its connections that are tracked and open
	Draining     bool   // its connections are in drain
	Site         Site   // the line that listens
	Findings     []Kind // open now
}

// Listeners returns the open listeners by name and address, each read from the
// kernel, which takes one system call. Where the kernel does not tell (other
// systems than Linux), Queue and Limit are 0.
func (t *Tracker) Listeners() iter.Seq[ListenerSnapshot] {
	return func(yield func(ListenerSnapshot) bool) {
		t.init()
		for _, l := range t.judge.listening.sorted() {
			if s, ok := l.snapshot(); ok && !yield(s) {
				return
			}
		}
	}
}

// snapshot reads l. It reports false when the listener is closed.
func (l *Listening) snapshot() (s ListenerSnapshot, ok bool) {
	t := l.t
	var buf [tcpinfo.MaxSize]byte
	queue, limit, _, err := l.readQueue(buf[:])
	if err != nil {
		l.leave() // closed behind our back, if it is not known yet
		return s, false
	}
	now := t.now()
	s = ListenerSnapshot{
		Name: l.origin.Name, Addr: l.addr, Queue: queue, Limit: limit,
		Accepting: int(l.accepting.Load()), Accepted: l.accepted.Load(), Failed: l.failed.Load(),
		LastAccept: t.wall(l.acceptedAt.Load()),
		Conns:      int(l.conns.Load()), Draining: l.drain(now) != notDraining,
		Site: Site{Role: "listen", Frames: publicFrames(l.site.Owner(t.cfg.Load().HideFrames))},
	}
	if f := l.failure.Load(); f != nil {
		s.LastError, s.LastErrorAt = f.err, t.wall(f.at)
	}
	t.judge.mu.Lock()
	s.Findings = l.watch.openKinds()
	t.judge.mu.Unlock()
	return s, true
}

// readQueue asks the kernel for the accept queue. The error is net.ErrClosed
// when the listener is closed; known is false when the kernel does not tell.
func (l *Listening) readQueue(buf []byte) (queue, limit int, known bool, err error) {
	l.mu.Lock()
	raw := l.raw
	l.mu.Unlock()
	if raw == nil {
		return 0, 0, false, net.ErrClosed
	}
	err = raw.Control(func(fd uintptr) {
		n, err := l.t.seam.info(fd, buf)
		if err != nil || n < 32 {
			return
		}
		if info := decodeInfo(buf[:n]); info.State == Listen {
			queue, limit, known = int(info.Unacked), int(info.Sacked), true
		}
	})
	return queue, limit, known, err
}

func sortListeners(all []*Listening) {
	slices.SortFunc(all, func(a, b *Listening) int {
		return cmp.Or(cmp.Compare(a.origin.Name, b.origin.Name), cmp.Compare(a.addr.String(), b.addr.String()))
	})
}
