package tcpstate

import (
	"net"
	"sync/atomic"
	"time"
)

// ProtocolTLS is the name of TLS in Watch.Handshaking.
const ProtocolTLS = "TLS"

// HandshakeInfo describes a handshake above TCP that has ended.
type HandshakeInfo struct {
	ID            uint64 // of the connection
	Role          Role
	Name, Target  string
	Protocol      string // ProtocolTLS, "ssh", …
	Local, Remote net.Addr
	Start, End    time.Time
	Err           error // nil when it succeeded
	DialToken     any
}

// handshake is one in progress.
type handshake struct {
	e        *entry
	protocol string
	start    time.Time
	ended    atomic.Bool

	next, prev *handshake // guarded by dialingChore.mu
	linked     bool
}

// shakeList is the handshakes that are too young for the loop to look at,
// oldest first. It is guarded by dialingChore.mu.
type shakeList struct {
	first, last *handshake
	due         int64 // 0: empty since the loop has last looked
}

// Handshaking says that a handshake of protocol (ProtocolTLS, "ssh",
// "postgres") begins on the connection. The caller calls done with its outcome as soon as
// it ends. Until then a connection that does not get on is reported as
// handshake.stalled.
func (w *Watch) Handshaking(protocol string) (done func(error)) {
	if w == nil {
		return func(error) {}
	}
	e := w.e
	h := &handshake{e: e, protocol: protocol, start: e.t.seam.now()}
	e.t.judge.dialing.shaking(e.t, h)
	return func(err error) {
		if h.ended.CompareAndSwap(false, true) {
			e.t.judge.dialing.shaken(e.t, h, err)
		}
	}
}

// halfway is when the loop begins to look at a handshake: what it finds then is
// what progress is measured by.
func (h *handshake) halfway(t *Tracker) int64 {
	d := t.cfg.Load().limits.Handshake
	if d == off {
		return after(t.loopTime(h.start), d)
	}
	return t.loopTime(h.start) + int64(d/2)
}

func (c *dialingChore) shaking(t *Tracker, h *handshake) {
	half := h.halfway(t)
	c.mu.Lock()
	l := &c.shakes
	h.prev, h.linked = l.last, true
	if l.last != nil {
		l.last.next = h
	} else {
		l.first = h
	}
	l.last = h
	first := l.due == 0
	if first {
		l.due = half
	}
	c.mu.Unlock()
	if first {
		t.kick(time.Duration(half - t.loopTime(h.start)))
	}
}

// shaken takes h, which has ended, off the list and tells of it.
func (c *dialingChore) shaken(t *Tracker, h *handshake, err error) {
	c.mu.Lock()
	c.unlinkShakeLocked(h)
	c.mu.Unlock()
	if !t.anybody(func(o *Observer) bool { return o.HandshakeDone != nil }) {
		return
	}
	e := h.e
	info := &HandshakeInfo{
		ID: e.id, Role: e.role, Name: e.name, Protocol: h.protocol, Local: e.local, Remote: e.remote,
		Start: h.start, End: t.seam.now(), Err: err,
	}
	e.mu.Lock()
	info.Target = e.target
	e.mu.Unlock()
	t.tellSoon(func(s *subscriber) {
		if s.o.HandshakeDone != nil {
			s.pushSoon(event{what: eventHandshake, shake: info, e: e})
		}
	})
}

func (c *dialingChore) unlinkShakeLocked(h *handshake) {
	if !h.linked {
		return
	}
	h.linked = false
	l := &c.shakes
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		l.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		l.last = h.prev
	}
	h.next, h.prev = nil, nil
}

// lookAtShakes puts the connections whose handshake lasts among the suspects.
func (c *dialingChore) lookAtShakes(t *Tracker, now int64) {
	var old []*handshake
	c.mu.Lock()
	l := &c.shakes
	if l.due == 0 || now < l.due {
		c.mu.Unlock()
		return
	}
	for l.first != nil && len(old) < maxLooks && l.first.halfway(t) <= now {
		h := l.first
		c.unlinkShakeLocked(h)
		old = append(old, h)
	}
	l.due = 0
	if l.first != nil {
		l.due = max(l.first.halfway(t), now+int64(busyDelay))
	}
	c.mu.Unlock()
	for _, h := range old {
		e := h.e
		if e.rawConn() == nil || h.ended.Load() {
			continue
		}
		if e.sus == nil {
			e.sus = new(suspicion)
		}
		e.sus.shake = h
		t.suspect(e, now, 0)
	}
}
