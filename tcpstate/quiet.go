package tcpstate

import (
	"encoding/binary"
	"errors"
	"net"
	"time"
)

// This file is for the connections that lie idle, as most do at most sweeps: a
// look at one of them has no effect. What matters is how soon that is known.

// glance is observe for a sweep, of an entry that is no suspect and watched by
// epoll. When it leaves quiet set, nothing else is known of e, nor needed.
//
// It is one function around RawConn.Control, and glancer one inside: after a
// system call the processor mispredicts the return of each function that was
// entered before, which costs as much as half of all that is done here.
func (e *entry) glance(s *sampler) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.quiet = false; e.raw == nil {
		return net.ErrClosed
	}
	s.entry = e
	err := e.raw.Control(s.glanced)
	s.entry = nil
	if err == nil && !s.quiet {
		s.seen = observation{}
		e.observedLocked(s, &s.seen)
	}
	return err
}

// glancer returns what glance does with the descriptor: as control, but that it
// is done when e is quiet.
func (s *sampler) glancer() func(fd uintptr) {
	return func(fd uintptr) {
		e := s.entry
		s.n, s.err = e.t.seam.info(fd, s.buf[:])
		if s.quiet = s.err == nil && e.quiet(s.buf[:s.n]); s.quiet {
			return
		}
		s.sample, s.flags = sample{}, 0
		s.full, s.ask, s.poll, s.fresh, s.last = false, false, false, false, false
		s.informed(fd)
	}
}

// lookOn is look after a glance at e that was not enough.
func (t *Tracker) lookOn(e *entry, now int64, err error) {
	if errors.Is(err, net.ErrClosed) {
		e.gone() // if it is not known yet
	}
	if s := t.judge.sampler; err == nil {
		t.lookInto(e, now, 0, &s.seen)
		s.seen = observation{}
	}
}

// quiet reports whether nothing has happened to e since the last look, and
// nothing is asked about it, by the TCP_INFO in b: then a look has no effect.
// Most connections of most sweeps are like that, so it reads only what it has to,
// at the offsets that parse knows. When in doubt it says no. It is called by the
// loop, which holds mu, for e that is no suspect and is watched by epoll.
func (e *entry) quiet(b []byte) bool {
	if len(b) < windowEnd || e.state != Established || State(b[0]) != Established {
		return false
	}
	if b[2]|b[3] != 0 || u32At(b, 144) != 0 || u32At(b, 100) != e.last.retransmits {
		return false // it retransmits or probes, or something is not sent yet
	}
	in, out := binary.NativeEndian.Uint64(b[128:]), binary.NativeEndian.Uint64(b[200:])
	if in != e.last.in || out != e.last.out || e.uses != nil || e.ctxDone != nil || e.lent.Load() != nil {
		return false
	}
	fl := e.flags.Load()
	if fl&flagSilent != 0 || e.listener != nil && in|out == 0 {
		return false // see countSilent
	}
	cfg := e.t.cfg.Load()
	sent, recv, ack := msAt(b, 44), msAt(b, 52), msAt(b, 56)
	if min(recv, ack) > cfg.limits.Idle || !e.audited && recv > cfg.limits.Idle/20 {
		return false // inTransfer and auditable ask more
	}
	if x := e.expect.Load(); x != nil && (x.Heartbeat > 0 || x.Silence > 0 || x.Pooled && cfg.ProbePooled > 0) {
		return false
	}
	if in == 0 {
		return true
	}
	if !e.drained && e.copying.Load() == 0 {
		return false // bytes may wait
	}
	switch {
	case e.role != Server:
		return true
	case fl&flagRequests != 0:
		return out > 0 && recv >= sent
	}
	return out > 0 // else as accepted asks
}

func u32At(b []byte, off int) uint32 { return binary.NativeEndian.Uint32(b[off:]) }

func msAt(b []byte, off int) time.Duration { return time.Duration(u32At(b, off)) * time.Millisecond }
