package tcpstate

import (
	"math"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// slot is a place in the registry. Its index and generation are the token of
// an epoll watch: an event of a connection that left the slot is recognised.
type slot struct {
	e   *entry
	gen uint32
}

// add registers c. It returns nil when c is not to be watched, and the entry
// that is there already when c was registered before.
func (t *Tracker) add(c *net.TCPConn, o Origin, wrapped bool, d *dial) *entry {
	t.init()
	if c == nil || t.cfg.Load().Off || !wrapped && !numbered {
		return nil
	}
	var raw syscall.RawConn
	if d != nil {
		raw = d.socket()
	}
	if raw == nil {
		var err error
		if raw, err = c.SyscallConn(); err != nil {
			return nil
		}
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
		t: t, raw: raw, fd: uint32(fd), role: o.Role, name: o.Name, target: o.Target, listener: o.listener,
		local: tcpAddr(c.LocalAddr()), remote: tcpAddr(c.RemoteAddr()),
		state: Established,
	}
	e.mayMove = len(e.local.IP) > 0 && !e.local.IP.IsLoopback()
	if !o.Expect.isZero() {
		x := o.Expect
		e.expect.Store(&x)
	}
	if wrapped {
		e.flags.Store(flagWrapped)
	}
	if d != nil {
		e.site, e.tokens, e.born = d.site, d.tokens, d.ended
		e.dialTook = uint32(min(max(d.ended.Sub(d.start), 0)/time.Microsecond+1, math.MaxUint32))
		e.dest, e.plain = d.dest.index, d.plain
		if wrapped && !o.Expect.Pooled && !o.Expect.LongLived {
			e.ctxDone = d.ctx.Done()
		}
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
	t.judge.polls.lends(e)
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
	e.listener.opened()
	e.series.states[Established].Add(1)
	if t.judge.dialing.opened(e) {
		t.pins++
	}
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
// it, unless it has not met e yet and nobody waits to be told: then depart has.
func (t *Tracker) ended(e *entry) {
	t.count.closed.Add(1)
	e.series.closed.Add(1)
	e.listener.closed()
	e.unlend()
	t.judge.dialing.closed(t, e)
	if t.depart(e) {
		e.release()
	}
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
	all := t.unsorted()
	sortEntries(all)
	return all
}

// unsorted returns the registered entries in any order.
func (t *Tracker) unsorted() []*entry {
	t.mu.Lock()
	all := make([]*entry, 0, t.live)
	for i := range t.slots {
		if e := t.slots[i].e; e != nil {
			all = append(all, e)
		}
	}
	t.mu.Unlock()
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
