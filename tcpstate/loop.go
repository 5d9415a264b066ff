package tcpstate

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/epoll"
)

const (
	// youngDelay is how long a new connection waits to be watched, and an ended
	// one to be accounted for. Most short-lived connections never reach epoll.
	youngDelay = time.Second
	// lastDelay is how long the loop outlives the last connection: long enough
	// not to be restarted for each of a series of short ones, short enough for
	// goroutine leak detectors.
	lastDelay = 100 * time.Millisecond
	// tickBudget bounds the work of one tick; what is left waits for the next.
	tickBudget = 2 * time.Millisecond
	// busyDelay separates ticks while work is left over.
	busyDelay = 500 * time.Millisecond
)

// armedEverywhere counts the epoll watches of all trackers in the process,
// which share one allowance with Go's own poller.
var armedEverywhere atomic.Int64

// agenda is when the loop has to act next. Owned by the loop.
type agenda struct {
	young    int64 // arm new connections, account for ended ones; 0: none
	suspects int64 // 0: none
	sweep    int64
	remind   int64 // 0: none
	cursor   int   // where the sweep goes on
	left     int   // slots left in this round of the sweep
}

// kick makes the loop act within d.
func (t *Tracker) kick(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kickLocked(d)
}

func (t *Tracker) kickLocked(d time.Duration) {
	if !t.running {
		t.startLocked()
		return
	}
	if t.sleep > d {
		t.wakeLocked()
	}
}

func (t *Tracker) wakeLocked() {
	if t.sleep == 0 {
		return // awake, or about to be
	}
	t.sleep = 0
	if p := t.poller.Load(); p != nil {
		p.Wake()
	}
}

// startLocked starts the loop, unless there is nothing to do or the program
// runs in a bubble of testing/synctest: there connections are counted, not
// watched.
func (t *Tracker) startLocked() {
	if t.closed || t.live == 0 && len(t.ends) == 0 && len(t.dials) == 0 {
		return
	}
	if t.seam.clock == nil && t.seam.fakeTime() {
		for _, e := range t.ends {
			e.series.states[e.state].Add(-1)
		}
		t.young, t.ends, t.dials = nil, nil, nil
		t.count.unwatched.Add(1)
		return
	}
	t.running = true
	if c := t.seam.clock; c != nil {
		c.Starting()
	}
	t.done = make(chan struct{})
	// A goroutine that a timer starts has no pprof labels of whoever happened
	// to make the first connection.
	time.AfterFunc(0, t.loop)
}

// loop owns the evidence. It runs while something is tracked.
func (t *Tracker) loop() {
	done := t.done
	p, err := t.seam.newPoller()
	if err != nil {
		t.judge.pollerErr.Store(&err)
		p = epoll.NewBlind()
	} else {
		t.judge.pollerErr.Store(nil)
	}
	t.poller.Store(&pollerBox{p})
	if c := t.seam.clock; c != nil {
		c.Started(p.Wake)
	}
	t.judge.readLimit(t.seam.maxWatches)

	t.begin()
	var evs []epoll.Event
	wait := time.Duration(0)
	for {
		evs, err = p.Wait(t.limitWait(wait), evs[:0])
		if err != nil && errors.Is(err, epoll.ErrClosed) {
			break
		}
		wait = t.pass(evs)
		if c := t.seam.clock; c != nil {
			c.Passed()
		}
		if wait < 0 {
			break
		}
	}

	t.poller.Store(nil)
	p.Close()
	if c := t.seam.clock; c != nil {
		c.Ended()
	}
	close(done)
}

// limitWait is the time the poller really waits: a test's clock does not pass
// by itself, so the loop is woken when it has moved.
func (t *Tracker) limitWait(wait time.Duration) time.Duration {
	if t.seam.clock != nil && wait > 0 {
		return -1
	}
	return wait
}

// now returns the loop's time.
func (t *Tracker) now() int64 { return max(int64(t.seam.now().Sub(t.base)), 1) }

// wall turns the loop's time into a time of day.
func (t *Tracker) wall(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return t.base.Add(time.Duration(at))
}

// bump moves the epoch on, to the present or at least by one.
func (t *Tracker) bump(now int64) uint64 {
	ep := max(t.epoch.Load()+1, uint64(now/int64(time.Millisecond))+1)
	t.epoch.Store(ep)
	return ep
}

// epochTime returns when an epoch began.
func (t *Tracker) epochTime(ep uint64) int64 { return int64(ep) * int64(time.Millisecond) }

// pass handles what happened and what is due. It returns how long to wait, or a
// negative number when the loop is to end.
func (t *Tracker) pass(evs []epoll.Event) time.Duration {
	j := &t.judge
	j.mu.Lock()
	now := t.now()
	ep := t.bump(now)
	t.reconfigured(now)

	for _, ev := range evs {
		if e := t.byToken(ev.Token); e != nil {
			t.look(e, now, ep, ev.Flags)
		}
	}

	t.mu.Lock()
	t.sleep = 0
	urgent := t.urgent
	t.urgent = false
	due := len(t.young)+len(t.ends)+len(t.dials) > 0
	last := t.live == 0
	t.mu.Unlock()
	a := &j.agenda
	if due && a.young == 0 {
		a.young = now + int64(youngDelay)
		if last {
			a.young = now + int64(lastDelay)
		}
	} else if last && due {
		a.young = min(a.young, now+int64(lastDelay))
	}
	if a.young != 0 && now >= a.young || urgent {
		a.young = 0
		t.meet(now, ep)
	}
	if a.suspects != 0 && now >= a.suspects || now >= a.sweep {
		t.tick(now, ep)
	}
	if a.remind != 0 && now >= a.remind {
		t.remind(now)
	}
	t.flush(now)

	t.mu.Lock()
	pending := len(t.young)+len(t.ends)+len(t.dials) > 0
	if t.closed || t.live == 0 && !pending && a.young == 0 {
		t.running = false
		t.mu.Unlock()
		t.rest(now)
		j.mu.Unlock()
		return -1
	}
	wait := a.next(now)
	if pending && a.young == 0 {
		wait = min(wait, youngDelay)
	}
	t.sleep = max(wait, 1)
	t.mu.Unlock()
	j.mu.Unlock()
	return max(wait, 0)
}

// next returns the time until the loop has to act.
func (a *agenda) next(now int64) time.Duration {
	at := a.sweep
	for _, d := range []int64{a.young, a.suspects, a.remind} {
		if d != 0 {
			at = min(at, d)
		}
	}
	return time.Duration(max(at-now, 1))
}

// meet takes in the connections that are new, accounts for those that ended,
// and the dials.
func (t *Tracker) meet(now int64, ep uint64) {
	t.mu.Lock()
	young, ends, dials := t.young, t.ends, t.dials
	t.young, t.ends, t.dials = nil, nil, nil
	t.mu.Unlock()
	for i := range dials {
		t.tellDial(&dials[i])
	}
	for _, e := range young {
		t.arm(e)
	}
	for _, e := range ends {
		t.account(e, now)
	}
}

// arm begins to watch e by epoll, if the limit allows it. A FIN that has come
// before is reported at once.
func (t *Tracker) arm(e *entry) {
	j := &t.judge
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.armed {
		return
	}
	if j.limit >= 0 && armedEverywhere.Load() >= j.limit {
		e.slow = true
		j.unarmed++
		return
	}
	p := t.poller.Load()
	if p == nil {
		return
	}
	var err error
	if cerr := e.raw.Control(func(fd uintptr) { err = p.Add(fd, watchToken(e)) }); cerr != nil {
		return // closed behind our back: the sweep will see it
	}
	if err != nil {
		e.slow = true
		j.unarmed++
		if errors.Is(err, epoll.ErrFull) {
			j.watchErrors++
		}
		return
	}
	e.armed, e.slow = true, false
	armedEverywhere.Add(1)
	t.watched.Add(1)
}

func (t *Tracker) disarmed() {
	armedEverywhere.Add(-1)
	t.watched.Add(-1)
}

func watchToken(e *entry) uint64 { return uint64(e.gen)<<32 | uint64(e.slot) }

// byToken returns the entry that an event is about, or nil when its connection
// has left the slot.
func (t *Tracker) byToken(tok uint64) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, gen := uint32(tok), uint32(tok>>32)
	if int(i) >= len(t.slots) || t.slots[i].gen != gen {
		return nil
	}
	return t.slots[i].e
}

// tick looks at the suspects that are due and at the next part of all
// connections, for at most its budget.
func (t *Tracker) tick(now int64, ep uint64) {
	j, a := &t.judge, &t.judge.agenda
	start := time.Now()
	spent := func() bool { return time.Since(start) > tickBudget }

	due := j.suspects
	j.suspects = j.spare[:0]
	for i, e := range due {
		if i%16 == 15 && spent() {
			j.suspects = append(j.suspects, due[i:]...)
			break
		}
		if e.sus != nil {
			e.sus.queued = false
		}
		t.look(e, now, ep, 0) // queues it again if it is to be looked at again
	}
	clear(due)
	j.spare = due[:0]
	a.suspects = 0
	if len(j.suspects) > 0 {
		a.suspects = now + int64(suspectInterval)
	}

	if now < a.sweep {
		return
	}
	if a.left == 0 {
		t.mu.Lock()
		a.left = len(t.slots)
		t.mu.Unlock()
		a.cursor = 0
		j.sweepStart, j.sweepWork = now, 0
	}
	for a.left > 0 {
		if a.left%32 == 0 && spent() {
			break
		}
		if e := t.inSlot(a.cursor); e != nil && (e.sus == nil || !e.sus.queued) {
			t.look(e, now, ep, 0)
		}
		a.cursor++
		a.left--
	}
	j.sweepWork += time.Since(start)
	if a.left > 0 {
		a.sweep = now + int64(busyDelay)
		return
	}
	t.count.sweeps.Add(1)
	t.count.sweepNanos.Add(int64(j.sweepWork))
	interval := int64(t.cfg.Load().sweep())
	if interval == int64(off) {
		a.sweep = now + int64(time.Hour)
		return
	}
	// Jitter keeps many processes from sweeping in step.
	a.sweep = max(j.sweepStart+interval-interval/10+int64(t.jitter(interval/5)), now+int64(busyDelay))
}

func (t *Tracker) inSlot(i int) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= len(t.slots) {
		return nil
	}
	return t.slots[i].e
}

// look samples e, moves its history on and judges it. flags are the bits of the
// event that is the reason, or none.
func (t *Tracker) look(e *entry, now int64, ep uint64, flags epoll.Flags) {
	s := t.judge.sampler
	s.full = e.sus != nil || flags != 0
	s.ask = flags&epoll.ReadHup != 0 || e.sus != nil && e.sus.sample.mptcp
	e.mu.Lock()
	err := s.take(e, false)
	if err != nil {
		closed := e.closed
		e.mu.Unlock()
		if !closed && errors.Is(err, net.ErrClosed) {
			e.gone()
		}
		return
	}
	if !s.sample.ok {
		t.judge.noInfo(s.err)
	}
	readErr, using, watched := e.readErr, e.uses != nil, e.armed
	uses := e.useCount
	expect := e.expectationLocked()
	e.mu.Unlock()

	e.sampledAt = now
	t.judge.traffic(e, &s.sample)
	fl := e.flags.Load()
	l := look{
		state: s.sample.state, mptcp: s.sample.mptcp,
		rdhup: flags&epoll.ReadHup != 0, hup: flags&epoll.Hup != 0, err: flags&epoll.Err != 0,
		retransmits: s.sample.retransmits, backoff: s.sample.backoff, probes: s.sample.probes,
		read: readErr, copied: fl&flagCopyFailed != 0,
		closeRead: fl&flagCloseRead != 0, closeWrite: fl&flagCloseWrite != 0,
		blind: fl&flagWrapped == 0, watched: watched,
		settled: e.sus != nil && e.sus.deadAt != 0 && now-e.sus.deadAt >= int64(suspectInterval),
	}
	var hist history
	if e.sus != nil {
		hist = e.sus.hist
	}
	next := hist.observe(l)
	if !next.fin && !next.dead {
		e.setState(s.sample.state)
		if e.sus != nil {
			e.sus.hist = next
		} else if next != (history{}) {
			e.sus = &suspicion{hist: next}
		}
		return
	}

	sus := e.sus
	if sus == nil {
		sus = new(suspicion)
		e.sus = sus
	}
	if sus.finEpoch == 0 {
		sus.finEpoch = ep
		if !s.full {
			// The first look that matters needs the queues, too.
			e.mu.Lock()
			s.full = true
			_ = s.take(e, false)
			e.mu.Unlock()
		}
	}
	if next.fin && sus.finAt == 0 {
		sus.finAt = now
	}
	if next.dead && sus.deadAt == 0 {
		sus.deadAt, sus.before = now, e.state
	}
	sus.hist = next
	sus.progress(e, &s.sample, now)
	sus.used(uses, using, now)
	sus.sample = s.sample
	e.setState(shownState(next, s.sample.state))
	t.judgeEntry(e, now, &expect, using, readErr)
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
func (sus *suspicion) progress(e *entry, s *sample, now int64) {
	re, moved := e.readEpoch.Load(), e.moved.Load()
	if !s.ok {
		return
	}
	acked, consumed := s.bytesAcked, s.consumed()
	if !sus.sampled {
		sus.sampled = true
	} else if acked > sus.sentOut && !sus.hist.dead || consumed > sus.consumed || re != sus.readEpoch || moved != sus.moved {
		sus.progressAt = now
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
func (t *Tracker) judgeEntry(e *entry, now int64, expect *Expect, using bool, readErr readResult) {
	sus := e.sus
	cfg := t.cfg.Load()
	re := e.readEpoch.Load()
	f := facts{
		now: now, role: e.role, blind: e.flags.Load()&flagWrapped == 0,
		hist:  sus.hist,
		finAt: sus.finAt, deadAt: sus.deadAt, progressAt: sus.progressAt,
		sample: sus.sample,
		// A RawConn reads unseen, as os does for io.CopyN to a file. Of the bytes
		// received one may be the FIN.
		everRead:  re != 0 || sus.sample.consumed() > 1,
		everWrote: sus.sample.bytesSent > 0,
		copying:   e.copying.Load() > 0,
		readErr:   readErr,
		using:     using,
		pooled:    expect.Pooled,
		halfClose: expect.HalfClose,
		closeWait: cfg.Thresholds.closeWait(), deadSocket: cfg.Thresholds.deadSocket(),
	}
	if re >= markFirst {
		f.lastRead = readErr
	}
	if sus.finding != nil {
		f.open = sus.finding.kind
	}
	v := diagnose(&f)
	if v.kind != "" && expect.ignores(v.kind) {
		v = verdict{due: v.due}
	}
	t.judge.settle(t, e, v, now)
	if v.due != 0 {
		t.suspect(e, now)
	}
}

// suspect puts e on the list that is looked at every second.
func (t *Tracker) suspect(e *entry, now int64) {
	j := &t.judge
	if e.sus.queued {
		return
	}
	e.sus.queued = true
	j.suspects = append(j.suspects, e)
	if j.agenda.suspects == 0 {
		j.agenda.suspects = now + int64(suspectInterval)
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
