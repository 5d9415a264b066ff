package tcpstate

import (
	"cmp"
	"errors"
	"net"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
)

// look samples e, moves its history on and judges it. flags are the bits of the
// event that is the reason, or none.
func (t *Tracker) look(e *entry, now int64, flags epoll.Flags) {
	s := t.judge.sampler
	// It is of the sampler because judgement lets it escape.
	if s.seen = (observation{}); e.observe(s, &s.seen, flags) {
		t.lookInto(e, now, flags, &s.seen)
		s.seen = observation{}
	}
}

// lookInto is look with what observe has found.
func (t *Tracker) lookInto(e *entry, now int64, flags epoll.Flags, seen *observation) {
	s := t.judge.sampler
	if f := t.seam.looked; f != nil {
		f(e.id, flags)
	}
	byEvent := flags != 0
	flags |= s.flags
	if s.err != nil {
		t.judge.noInfo(s.err)
	}
	if n := s.sample.short; n != 0 {
		t.judge.infoShort = n
	}
	t.judge.traffic(e, &s.sample)
	fl, sus := e.flags.Load(), e.sus
	l := look{
		state: s.sample.state, mptcp: s.sample.mptcp,
		rdhup: flags&epoll.ReadHup != 0, hup: flags&epoll.Hup != 0, err: flags&epoll.Err != 0,
		retransmits: s.sample.retransmits, backoff: s.sample.backoff, probes: s.sample.probes,
		gaveUp: s.sample.gaveUp,
		read:   seen.readErr, copied: fl&flagCopyFailed != 0,
		closeRead: fl&flagCloseRead != 0, closeWrite: fl&flagCloseWrite != 0,
		blind: fl&flagWrapped == 0, watched: seen.watched,
		settled: sus != nil && sus.deadAt != 0 && now-sus.deadAt >= int64(suspectInterval),
	}
	var hist history
	if sus != nil {
		hist = sus.hist
	}
	next := hist.observe(l)
	e.countSilent(&s.sample, &next, now)
	if ended := next.fin || next.dead; ended && fl&flagPaired != 0 || seen.behalf != nil {
		t.lookPaired(e, ended, seen, now)
	}
	if next.fin || next.dead {
		t.peerClosed(e)
	}
	if !next.fin && !next.dead {
		t.lookOpen(e, now, next, seen)
		return
	}

	if sus == nil {
		sus = new(suspicion)
		e.sus = sus
	}
	if sus.finAt == 0 && sus.deadAt == 0 {
		if !s.full || !s.ask {
			// The first look that matters needs the queues, too.
			s.again(e)
		}
	}
	if next.fin && sus.finAt == 0 {
		sus.finAt = cmp.Or(sus.deadAt, now) // of a clean end it is known only later
		sus.finFresh, sus.finSent = s.sample.ok && !next.dead, s.sample.bytesSent
		sus.finIdle, sus.finRead = s.sample.idleBefore(), e.lastRead()
		sus.parted = byEvent && sus.finFresh && s.sample.parting()
		if byEvent && sus.finFresh && e.liesIdle(&s.sample, seen) {
			t.judge.idle.note(e, sus.finIdle, now)
		}
	}
	if next.dead && sus.deadAt == 0 {
		if byEvent && sus.finAt == 0 && next.end == endReset && e.liesIdle(&s.sample, seen) {
			t.judge.idle.note(e, s.sample.idleBefore(), now) // some servers are that short
		}
		sus.deadAt = now
	}
	sus.hist = next
	s.sample.correct(next)
	sus.mptcp, sus.made = sus.mptcp || s.sample.mptcp, s.sample.made
	sus.progress(e, &s.sample, now)
	sus.used(seen.uses, seen.using, now)
	sus.sample, sus.sampledAt = s.sample, now
	e.setState(s.sample.state)
	t.judgeEntry(e, now, seen)
}

// liesIdle reports whether e lies in a pool, or looks like it, as its peer ends
// it.
func (e *entry) liesIdle(s *sample, seen *observation) bool {
	if e.role != Client || seen.using || e.copying.Load() > 0 {
		return false
	}
	return s.complete() || s.parting() || seen.expect.Pooled || e.lent.Load().mayBeIdle()
}

// observation is what a look found in the entry, beside the sample.
type observation struct {
	readErr  readResult
	wait     answerWait
	watched  bool // an error that nobody has taken would be seen
	using    bool
	upgraded bool // the use in progress has no answer to be read to the end
	uses     uint32
	expect   Expect
	behalf   *Usage // the only use in progress, if it is on behalf of down
	down     *entry
}

// observe samples e because of an event with these bits, or none. It reports
// false when e has ended.
func (e *entry) observe(s *sampler, o *observation, flags epoll.Flags) (ok bool) {
	s.fresh = flags != 0
	s.full = e.sus != nil || s.fresh
	s.ask = flags&epoll.ReadHup != 0 || e.sus != nil && e.sus.made
	s.poll = e.slow || e.sus != nil && e.sus.hist.pending
	err := e.sampled(s, o)
	if errors.Is(err, net.ErrClosed) {
		e.gone() // if it is not known yet
	}
	return err == nil
}

// sampled takes a sample and fills o, which is zero.
func (e *entry) sampled(s *sampler, o *observation) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := s.take(e, false); err != nil {
		return err
	}
	e.observedLocked(s, o)
	return nil
}

// observedLocked fills o, which is zero, beside a sample that was just taken.
func (e *entry) observedLocked(s *sampler, o *observation) {
	o.readErr, o.watched, o.using, o.uses = e.readErr, e.armed || s.poll, e.uses != nil, e.useCount
	o.expect = e.expectationLocked()
	o.wait = e.waitLocked(&o.expect)
	if u := e.uses; u != nil && u.next == nil {
		o.upgraded = u.upgraded
		if u.down != nil {
			o.behalf, o.down = u, u.down
		}
	}
}

// again samples e once more, with its queues and what they count.
func (s *sampler) again(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.full, s.ask = true, true
	_ = s.take(e, false)
}

// unread reports whether bytes wait at e, of which s has a sample without the
// queues. Of a socket made for MPTCP the sample need not count what comes, so
// that one is asked each time.
func (s *sampler) unread(e *entry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.raw == nil {
		return false
	}
	s.entry, s.ask, s.n = e, !e.plain, 0
	err := e.raw.Control(s.countUnread)
	s.entry = nil
	if err != nil || s.n < 0 {
		return true // for all that is known
	}
	e.plain = e.plain || s.plain
	e.drained = s.n == 0 && e.plain
	return s.n > 0
}

// shownState is the state to show: the TCP state of an MPTCP subflow does not
// know of the peer's DATA_FIN.
func shownState(h history, s State) State {
	if h.fin && s == Established {
		return CloseWait
	}
	return s
}

// progress notes what moved since the last look: bytes that the peer
// acknowledged, bytes that the application took, a Read, or what a use told.
// Where the kernel does not count bytes, anything sent or received is progress.
func (sus *suspicion) progress(e *entry, s *sample, now int64) {
	re, moved := e.lastRead(), e.moved.Load()
	if !s.ok {
		return
	}
	acked, consumed := s.bytesAcked, s.consumed()
	if !sus.sampled {
		sus.sampled, sus.askedAt = true, now
	} else {
		if acked > sus.sentOut && !sus.hist.dead {
			sus.progressAt, sus.ackedAt = now, now
		}
		if s.lacks(bytesEnd) && min(s.dataSent, s.dataRecv) < time.Duration(now-sus.sampledAt) {
			sus.progressAt, sus.ackedAt = now, now
		}
		if consumed > sus.consumed || re != sus.readEpoch || moved != sus.moved {
			sus.progressAt = now
		}
	}
	sus.sentOut, sus.consumed, sus.readEpoch, sus.moved = acked, consumed, re, moved
}

// used notes that a use began or ended: somebody takes care of the connection.
func (sus *suspicion) used(uses uint32, using bool, now int64) {
	if uses != sus.uses || using != sus.using {
		if sus.counted {
			sus.progressAt = now
		}
		sus.uses, sus.using = uses, using
	}
	sus.counted = true
}

// judgeEntry asks for the verdict and acts on it.
func (t *Tracker) judgeEntry(e *entry, now int64, seen *observation) {
	sus, expect, readErr := e.sus, &seen.expect, seen.readErr
	cfg := t.cfg.Load()
	re := e.lastRead()
	f := facts{
		now: now, born: int64(e.born.Sub(t.base)), role: e.role, blind: e.flags.Load()&flagWrapped == 0,
		hist:  sus.hist,
		finAt: sus.finAt, deadAt: sus.deadAt, progressAt: sus.progressAt,
		askedAt: sus.askedAt, ackedAt: sus.ackedAt, aliveAt: e.movedAt(),
		wait:   seen.wait,
		sample: sus.sample, addrGone: sus.cutOff(now),
		// A RawConn reads unseen, as os does for io.CopyN to a file. Of the bytes
		// received one may be the FIN.
		everRead:  re != 0 || sus.sample.consumed() > 1,
		everWrote: sus.sample.bytesSent > 0 || !sus.sample.ok || sus.sample.lacks(bytesEnd), // for all that is known
		copying:   e.copying.Load() > 0,
		readErr:   readErr,
		using:     seen.using,
		upgraded:  seen.upgraded,
		expect:    expect,
		near:      e.t.seam.near(e.remote.IP),
		pooled:    expect.Pooled || e.lent.Load().mayBeIdle(),
		parted:    sus.parted,
		halfClose: expect.HalfClose,
		halfAt:    sus.halfAt, heardAt: sus.heardAt,
		limits: &cfg.limits,
	}
	if re >= markFirst {
		f.lastRead = readErr
	}
	if sus.finding != nil {
		f.open = sus.finding.kind
	}
	e.acceptedFacts(&f)
	f.setUp(e, sus)
	v := diagnose(&f)
	if v.kind != "" && (expect.ignores(v.kind) || e.listener.drains(v.kind, now)) {
		v = verdict{due: v.due}
	}
	if v.kind != "" && e.flags.Load()&flagPaired != 0 && t.judge.tunnels.explains(e, v.kind) {
		v = f.lookAgain()
	}
	t.settle(e, &sus.finding, v, now)
	// What is due only after the next sweep is left to that one.
	if v.due != 0 && (sus.hist.fin || sus.hist.dead || v.due-now <= int64(cfg.sweep())) {
		t.suspect(e, now, v.due)
	}
}

// setState moves e in the census.
func (e *entry) setState(s State) {
	if s == e.state || int(s) >= len(e.series.states) {
		return
	}
	e.series.states[e.state].Add(-1)
	e.series.states[s].Add(1)
	e.state = s
}
