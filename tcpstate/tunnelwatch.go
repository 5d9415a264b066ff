package tcpstate

import (
	"fmt"
	"time"
)

// This file is the loop's part of tunnels. It looks at both connections as soon
// as one of them has come to an end.

// tunnelSeen is what the loop remembers of such a tunnel.
type tunnelSeen struct {
	down, up   side
	at         int64  // of the last look
	ackedAtFIN uint64 // by the client, when its FIN was noticed
	usesAtEnd  uint32 // of the upstream connection, when the other one came to its end
	sentAtEnd  uint64 // upstream, when the downstream connection was closed
}

// side is a leg with what moved on it.
type side struct {
	leg
	tally   tally
	looked  bool
	movedAt int64
	expect  Expect
	uses    uint32 // ever
	using   bool
	single  *Usage // in progress, unless there are several
	request bool   // an HTTP request is in progress
}

// tally is what moves while a connection is in use.
type tally struct{ sent, acked, received, consumed uint64 }

// lookPaired asks about the tunnels that e is part of: because e has come to an
// end, or because it is used on behalf of a connection that has.
func (t *Tracker) lookPaired(e *entry, ended bool, seen *observation, now int64) {
	tt := &t.judge.tunnels
	if u := seen.behalf; u != nil && e.role == Client && seen.down.ending() {
		tt.adopt(e, seen.down, u)
		ended = true
	}
	if ended && e.flags.Load()&flagPaired != 0 {
		tt.each(e, func(tn *Tunnel) bool { tt.suspect(tn, now); return true })
	}
}

// ending reports whether the peer of e has ended its direction or is gone.
func (e *entry) ending() bool {
	return e.role == Server && e.sus != nil && (e.sus.hist.fin || e.sus.hist.dead)
}

// adopt pairs up with the connection that its use u is made for.
func (tt *tunnelTable) adopt(up, down *entry, u *Usage) {
	tt.mu.Lock()
	old := tt.up[up]
	tt.mu.Unlock()
	if old != nil && (old.use == nil || old.use == u) {
		return
	}
	role := "use"
	up.mu.Lock()
	if isHTTP(u.use.Method) {
		role = "request"
	}
	up.mu.Unlock()
	tt.link(&Tunnel{t: up.t, down: down, up: up, use: u, site: u.site, siteRole: role})
}

// suspect puts tn on the list that is looked at every second.
func (tt *tunnelTable) suspect(tn *Tunnel, now int64) {
	if tn.queued {
		return
	}
	tn.queued = true
	tt.suspects = append(tt.suspects, tn)
	if tt.due == 0 {
		tt.due = now
	}
}

// next implements chore.
func (tt *tunnelTable) next() int64 { return tt.due }

// run implements chore.
func (tt *tunnelTable) run(t *Tracker, now int64) {
	due := tt.suspects
	tt.suspects, tt.spare = tt.spare[:0], nil
	next := now + int64(suspectInterval)
	spent := budget()
	for n, tn := range due {
		if n%16 == 15 && spent() {
			tt.suspects = append(tt.suspects, due[n:]...)
			next = now + int64(busyDelay)
			break
		}
		tn.queued = false
		if again, at := t.judgeTunnel(tn, now); again {
			tt.suspect(tn, now)
			next = min(next, lookAt(len(tt.suspects), now, at))
		}
	}
	clear(due)
	tt.spare = due[:0]
	tt.due = 0
	if len(tt.suspects) > 0 {
		tt.due = next
	}
}

// explains reports whether a finding of this kind about e is one about a tunnel
// of e, or is about to be.
func (tt *tunnelTable) explains(e *entry, k Kind) bool {
	if k != KindLeakDeadSocket && !Kind("close_wait").covers(k) && !Kind("closing").covers(k) {
		return false
	}
	found := false
	tt.each(e, func(tn *Tunnel) bool { found = tn.pending; return !found })
	return found
}

// judgeTunnel looks at both connections of tn and judges them. It reports
// whether tn is to be looked at again although nothing happens, and when the
// verdict is due, unless that is 0.
func (t *Tracker) judgeTunnel(tn *Tunnel, now int64) (again bool, due int64) {
	tt := &t.judge.tunnels
	if tt.ended(tn) {
		tn.settle(verdict{}, now)
		return false, 0
	}
	first := tn.seen == nil
	s := tn.remember()
	if !t.lookSide(tn.down, &s.down, now) || !t.lookSide(tn.up, &s.up, now) {
		return true, 0 // closed a moment ago: meet will see it
	}
	s.at = now
	if first {
		s.usesAtEnd = s.up.uses
	}
	if s.ackedAtFIN == 0 && s.down.fin {
		s.ackedAtFIN = s.down.sample.bytesAcked
	}
	if tn.outlived() {
		tt.unlink(tn)
		tn.settle(verdict{}, now)
		return false, 0
	}
	f := tunnelFacts{
		now: now, down: s.down.leg, up: s.up.leg, downMoved: s.down.movedAt, upMoved: s.up.movedAt,
		raw: !s.down.request, halfClose: s.down.expect.HalfClose || s.up.expect.HalfClose,
		ignores: s.ignores, limits: &t.cfg.Load().limits,
	}
	v := f.verdict()
	tn.settle(v, now)
	tn.pending = v.kind != "" || v.due != 0
	return tn.pending, v.due
}

func (tn *Tunnel) remember() *tunnelSeen {
	if tn.seen == nil {
		tn.seen = new(tunnelSeen)
	}
	return tn.seen
}

func (s *tunnelSeen) ignores(k Kind) bool { return s.down.expect.ignores(k) || s.up.expect.ignores(k) }

// outlived reports whether the upstream connection serves somebody else by now,
// or nobody.
func (tn *Tunnel) outlived() bool {
	s := tn.seen
	switch {
	case tn.use != nil:
		// Whoever goes on after its handler has returned means to.
		return s.up.single != tn.use || !s.down.using || s.down.endedAt != 0
	case s.up.uses != s.usesAtEnd:
		return true
	}
	return s.down.endedAt != 0 && s.up.sample.bytesSent > s.sentAtEnd
}

// lookSide samples e. It reports false when e has ended and meet has not come
// to it.
func (t *Tracker) lookSide(e *entry, s *side, now int64) bool {
	if s.endedAt != 0 {
		return true
	}
	sampler := t.judge.sampler
	if err := s.observe(e, sampler); err != nil {
		e.gone() // if it is not known yet
		return false
	}
	s.sample = sampler.sample
	s.leg.history(e)
	s.leg.noticed(now)
	s.sample.correct(s.hist)
	p := &s.sample
	if !p.ok {
		return true
	}
	moved := tally{p.bytesSent, p.bytesAcked, p.bytesReceived, p.consumed()}
	if s.looked && moved != s.tally {
		s.movedAt = now
	}
	s.tally, s.looked = moved, true
	return true
}

// observe reads what e shows. The only error says that e is closed.
func (s *side) observe(e *entry, sampler *sampler) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	sampler.full, sampler.fresh, sampler.poll = true, false, false
	sampler.ask = e.sus != nil && e.sus.made
	if err := sampler.take(e, false); err != nil {
		return err
	}
	s.expect, s.uses, s.using, s.single, s.request = e.expectationLocked(), e.useCount, e.uses != nil, nil, false
	if s.using && e.uses.next == nil {
		s.single = e.uses
	}
	if u := e.oldestUseLocked(); u != nil {
		s.request = isHTTP(u.use.Method) && !u.hijacked
	}
	return nil
}

// history sets what the loop knows of e.
func (l *leg) history(e *entry) {
	fl := e.flags.Load()
	l.told = fl&flagCloseWrite != 0
	if sus := e.sus; sus != nil {
		l.hist, l.finAt, l.deadAt = sus.hist, sus.finAt, sus.deadAt
	}
	switch l.sample.state {
	case CloseWait, LastAck, Closing, TimeWait:
		l.fin = true
	}
	l.fin, l.dead = l.fin || l.hist.fin, l.hist.dead || l.sample.state == Closed
	l.told = l.told || l.hist.closeWrite
}

// noticed gives a time to what this look has seen before any event told of it.
func (l *leg) noticed(now int64) {
	if l.fin && l.finAt == 0 {
		l.finAt = now
	}
	if l.dead && l.deadAt == 0 {
		l.deadAt = now
	}
}

// settle brings the finding about tn in line with v.
func (tn *Tunnel) settle(v verdict, now int64) {
	tn.pending = false
	if tn.th == nil {
		if v.kind == "" {
			return
		}
		tn.th = tn.thing(tn.describe)
	}
	tn.th.judge(tn.t, v, now)
}

// legEnded takes note of the end of e, which is part of tunnels.
func (t *Tracker) legEnded(e *entry, now int64) {
	if e.flags.Load()&flagPaired == 0 {
		return
	}
	tt := &t.judge.tunnels
	var all []*Tunnel
	tt.each(e, func(tn *Tunnel) bool { all = append(all, tn); return true })
	for _, tn := range all {
		if tn.lost(e, now) {
			tt.suspect(tn, now)
		} else {
			tt.unlink(tn)
			tn.settle(verdict{}, now)
		}
	}
}

// lost notes that e has ended, and reports whether the tunnel lives on.
func (tn *Tunnel) lost(e *entry, now int64) bool {
	s := tn.remember()
	mine, other, o := &s.down, &s.up, tn.up
	if e == tn.up {
		mine, other, o = &s.up, &s.down, tn.down
	}
	e.mu.Lock()
	letGo := e.leaked || e.forgotten
	mine.expect = e.expectationLocked()
	if f := e.final(); f.ok {
		mine.sample = f
	} else {
		mine.sample.ok = false
	}
	e.mu.Unlock()
	mine.leg.history(e)
	if other.endedAt == 0 && !tn.t.lookSide(o, other, now) {
		// It was closed a moment later.
		o.mu.Lock()
		other.sample = o.final()
		o.mu.Unlock()
		other.leg.history(o)
	}
	if letGo {
		return false
	}
	if tn.use == nil {
		tn.judgeEnd(e, mine, other, now)
	}
	mine.endedAt = now
	s.at, s.usesAtEnd, s.sentAtEnd = now, s.up.uses, s.up.sample.bytesSent
	return other.endedAt == 0
}

// judgeEnd asks whether the Close of e has cut off what was on its way to the
// other side.
func (tn *Tunnel) judgeEnd(e *entry, mine, other *side, now int64) {
	s := tn.seen
	end := tunnelEnd{
		closed: mine.leg, other: other.leg, closedIsUp: e == tn.up,
		unwanted: e.flags.Load()&(flagCloseRead|flagCopyFailed) != 0 || tn.failed(),
		listens:  s.ackedAtFIN != 0 && other.sample.bytesAcked > s.ackedAtFIN+tail,
	}
	cause, cut := end.truncated()
	if !cut || s.ignores(KindTunnelTruncated) {
		return
	}
	frozen := *tn
	frozen.seen = &tunnelSeen{down: s.down, up: s.up, at: now}
	th := tn.thing(func(pub *Finding, now int64) {
		frozen.describe(pub, now)
		end.describe(pub)
	})
	tn.t.event(th, verdict{kind: KindTunnelTruncated, cause: cause}, now)
}

// failed reports whether a Read of either connection brought an error that is
// the end of it.
func (tn *Tunnel) failed() bool {
	for _, e := range [...]*entry{tn.down, tn.up} {
		e.mu.Lock()
		fatal := e.readErr.fatal()
		e.mu.Unlock()
		if fatal {
			return true
		}
	}
	return false
}

// thing makes the subject of findings about tn.
func (tn *Tunnel) thing(facts func(pub *Finding, now int64)) *thing {
	named := tn.up
	if named.name == "" && tn.down.name != "" {
		named = tn.down
	}
	th := &thing{
		kind: SubjectTunnel, role: named.role, name: named.name, series: named.series, opened: tn.up.born,
		site: tn.site, siteRole: tn.siteRole, facts: facts,
	}
	if tn.use != nil {
		th.used = tn.use.tokens
	}
	tn.up.mu.Lock()
	th.target, th.tokens = tn.up.target, tn.up.tokens
	tn.up.mu.Unlock()
	if th.target == "" {
		th.target = tn.up.remote.String()
	}
	return th
}

// describe adds what is known of both connections. Addresses are those of the
// upstream one: that of a client is personal.
func (tn *Tunnel) describe(pub *Finding, now int64) {
	s, sub, ev := tn.seen, &pub.Subject, &pub.Evidence
	sub.Local, sub.Remote = addrString(tn.up.local), addrString(tn.up.remote)
	tn.up.mu.Lock()
	if u := tn.up.oldestUseLocked(); u != nil {
		sub.Use, sub.UseOpen, sub.HTTP = u.use.String(), true, isHTTP(u.use.Method)
		sub.UseFor = Duration(tn.t.elapsed() - u.begun)
	}
	tn.up.mu.Unlock()
	tn.down.mu.Lock()
	if u := tn.down.oldestUseLocked(); u != nil && u.done != nil {
		told := false
		select {
		case <-u.done:
			told = true
		default:
		}
		ev.ContextDone = &told
	}
	tn.down.mu.Unlock()
	if s.up.sample.ok {
		ev.sampled(&s.up.sample, s.up.fin, Duration(max(now-s.at, 0)))
	}
	for _, at := range [...]int64{s.down.finAt, s.up.finAt} {
		if d := Duration(max(now-at, 0)); at != 0 {
			ev.PeerFIN = max(ev.PeerFIN, d)
		}
	}
	if at := s.down.deadAt; at != 0 {
		ev.Died = Duration(max(now-at, 0))
	}
	ev.note("downstream", s.down.String(tn.down))
	ev.note("upstream", s.up.String(tn.up))
	if last := max(s.down.finAt, s.up.finAt, s.down.movedAt, s.up.movedAt); last != 0 {
		ev.note("quiet", age(time.Duration(now-last)))
	}
}

// String describes the connection of s, which is e.
func (s *side) String(e *entry) string {
	in := s.sample.bytesReceived
	if s.fin && !s.sample.mptcp && in > 0 {
		in-- // the kernel counts the FIN
	}
	state := shownState(s.hist, s.sample.state).String()
	if s.endedAt != 0 {
		state = "closed"
	}
	name := ""
	if e.name != "" {
		name = fmt.Sprintf(" %q", e.name)
	}
	return fmt.Sprintf("conn %d%s %s, %s in, %s out", e.id, name, state,
		counted(int(in), "byte"), counted(int(s.sample.bytesSent), "byte"))
}

// describe adds what the Close has cut off.
func (end *tunnelEnd) describe(pub *Finding) {
	ev := &pub.Evidence
	ev.Notes = ev.Notes[:2]
	ev.RecvQueue = int(end.closed.sample.recvQueue)
	from := "client"
	if end.closedIsUp {
		from = "server"
	}
	ev.note("sender", from)
	switch {
	case !end.other.fin:
		ev.note("other side", "open")
	case end.listens:
		ev.note("other side", "had ended its direction, and read on")
	default:
		ev.note("other side", "had ended its direction")
	}
}
