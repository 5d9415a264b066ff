package tcpstate

import (
	"cmp"
	"errors"
	"math"
	"net"
	"runtime/debug"
	"slices"
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

// agenda is when the loop has to act next. Guarded by judgement.mu.
type agenda struct {
	young    int64 // arm new connections, account for ended ones; 0: none
	suspects int64 // 0: none
	sweep    int64
	remind   int64         // 0: none
	linger   int64         // end when nothing is tracked until then; 0: something is
	interval time.Duration // of the sweep, when it was planned
	cursor   int           // where the sweep goes on
	left     int           // slots left in this round of the sweep
}

// kick makes the loop act within d.
func (t *Tracker) kick(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kickLocked(d)
}

func (t *Tracker) kickLocked(d time.Duration) {
	if t.since == 0 {
		t.since = t.now()
	}
	switch {
	case !t.running:
		t.startLocked()
	case t.sleep > d:
		t.wakeLocked()
	case d == 0:
		t.again = true
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
			e.series.states[Established].Add(-1) // nobody has looked at it
		}
		t.ends, t.dials = nil, nil
		t.count.unwatched.Add(1)
		return
	}
	t.running = true
	if c := t.seam.clock; c != nil {
		c.Starting()
	}
	before, done := t.done, make(chan struct{})
	t.done = done
	// A goroutine that a timer starts has no pprof labels of whoever happened
	// to make the first connection.
	time.AfterFunc(0, func() { t.loop(before, done) })
}

// loop owns the evidence. It runs while something is tracked. It begins when
// the loop before it has ended, and closes done at its own end.
func (t *Tracker) loop(before, done chan struct{}) {
	defer close(done)
	if before != nil {
		<-before
	}
	p := t.openPoller()
	t.judge.readLimit(t.seam.maxWatches)

	t.begin()
	var evs []epoll.Event
	for wait := time.Duration(0); wait >= 0; {
		var err error
		evs, err = p.Wait(t.limitWait(wait), evs[:0])
		if err != nil {
			p.Close()
			p = t.goBlind(err)
			t.disarmAll()
		}
		wait = t.pass(evs)
		if c := t.seam.clock; c != nil {
			c.Passed()
		}
	}
	p.Close()
}

// openPoller opens the event source of the loop, or one that has no events.
func (t *Tracker) openPoller() poller {
	p, err := t.seam.newPoller()
	if err != nil {
		return t.goBlind(err)
	}
	t.judge.pollerErr.Store(nil)
	t.setPoller(p)
	return p
}

// goBlind goes on without events, because of err.
func (t *Tracker) goBlind(err error) poller {
	t.judge.pollerErr.Store(&err)
	p := epoll.NewBlind()
	t.setPoller(p)
	return p
}

func (t *Tracker) setPoller(p poller) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.poller.Store(&pollerBox{p})
	if c := t.seam.clock; c != nil {
		c.Started(p.Wake)
	}
}

// readLimit decides how many epoll watches we may take: a quarter of what the
// user has.
func (j *judgement) readLimit(maxWatches func() (int, error)) {
	n, err := maxWatches()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.limit, j.limitErr = int64(n)/4, err
	if err != nil {
		j.limit = -1
	}
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

// epochUnit is how long an epoch lasts when the loop does not pass more often.
const epochUnit = int64(time.Microsecond)

// bump moves the epoch on, to the present or at least by one.
func (t *Tracker) bump(now int64) uint64 {
	ep := max(t.epoch.Load()+1, uint64(now/epochUnit)+1)
	t.epoch.Store(ep)
	return ep
}

// epochTime returns when an epoch began.
func (t *Tracker) epochTime(ep uint64) int64 { return int64(ep) * epochUnit }

// pass handles what happened and what is due. It returns how long to wait, or a
// negative number when the loop is to end.
func (t *Tracker) pass(evs []epoll.Event) (wait time.Duration) {
	j, a := &t.judge, &t.judge.agenda
	defer func() {
		if r := recover(); r != nil {
			t.panicked(r)
			j.mu.Lock()
			defer j.mu.Unlock()
			wait = t.pause(t.now(), suspectInterval)
		}
	}()
	j.mu.Lock()
	defer j.mu.Unlock()
	now := t.now()
	ep := t.bump(now)
	t.reconfigured(now)

	for _, ev := range evs {
		if e := t.byToken(ev.Token); e != nil {
			t.look(e, now, ep, ev.Flags)
		}
	}

	t.mu.Lock()
	t.sleep, t.again = 0, false
	urgent := t.urgent
	t.mu.Unlock()
	a.configure(t.cfg.Load().sweep(), now)
	if a.young != 0 && now >= a.young || urgent {
		t.meet(now, ep)
	}
	if a.suspects != 0 && now >= a.suspects {
		t.lookAtSuspects(now, ep)
	}
	if now >= a.sweep {
		t.sweepOn(now, ep)
	}
	if a.remind != 0 && now >= a.remind {
		t.remind(now)
	}
	t.flush(now)
	wait = t.pause(now, a.next(now))
	if wait < 0 {
		j.suspects, j.spare, j.spareEnds = nil, nil, nil
		t.rest(now)
	}
	return wait
}

// pause decides how long the loop sleeps: wait, or less when something has come
// meanwhile. The result is negative when it is to end. The caller holds
// judgement.mu.
func (t *Tracker) pause(now int64, wait time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &t.judge.agenda
	pending := len(t.young)+len(t.ends)+len(t.dials) > 0
	delay := youngDelay
	if t.live > 0 {
		a.linger = 0
	} else {
		if a.linger == 0 {
			a.linger = now + int64(lastDelay)
		}
		delay = lastDelay
	}
	if t.closed || t.live == 0 && !pending && now >= a.linger {
		t.running = false
		t.poller.Store(nil)
		if c := t.seam.clock; c != nil {
			c.Ended()
		}
		return -1
	}
	if !pending {
		t.since = 0
	} else {
		if t.since == 0 {
			t.since = now
		}
		if due := max(t.since+int64(delay), now+1); a.young == 0 || due < a.young {
			a.young = due
		}
	}
	for _, at := range []int64{a.young, a.linger} {
		if at > now {
			wait = min(wait, time.Duration(at-now))
		}
	}
	if t.urgent || t.again {
		wait = 0
	}
	t.sleep = wait
	return wait
}

// panicked keeps a fault of ours from the application. What it cut short is
// made up for by the next sweep.
func (t *Tracker) panicked(r any) {
	if t.count.panics.Add(1) == 1 {
		t.logger().Error("tcpstate: the tracker panicked", "panic", r, "stack", string(debug.Stack()))
	}
}

// next returns the time until something is due for connections that were met.
func (a *agenda) next(now int64) time.Duration {
	at := min(a.sweep, now+int64(time.Hour))
	for _, d := range []int64{a.suspects, a.remind} {
		if d != 0 {
			at = min(at, d)
		}
	}
	return time.Duration(max(at-now, 1))
}

// configure plans the sweep anew when its interval has changed.
func (a *agenda) configure(interval time.Duration, now int64) {
	if interval == a.interval {
		return
	}
	a.interval = interval
	if a.left == 0 {
		a.sweep = after(now, interval)
	}
}

// after returns a time d later, or never when that is off.
func after(now int64, d time.Duration) int64 {
	if d == off {
		return math.MaxInt64
	}
	return now + int64(d)
}

// meet takes in the connections that are new, accounts for those that ended,
// and the dials. The caller holds judgement.mu.
func (t *Tracker) meet(now int64, ep uint64) {
	j := &t.judge
	t.mu.Lock()
	ends, dials := t.ends, t.dials
	t.ends, t.dials = j.spareEnds, nil
	var young []*entry
	if t.poller.Load() != nil {
		// Without a loop they wait for one.
		young, t.young = t.young, nil
		for _, e := range young {
			e.youngAt = 0
		}
	}
	t.since, t.urgent = 0, false
	t.mu.Unlock()
	j.agenda.young = 0
	for i := range dials {
		t.tellDial(&dials[i])
	}
	for _, e := range young {
		t.arm(e)
	}
	for _, e := range ends {
		if e.slow {
			e.slow = false
			j.unarmed--
		}
		e.settleFinal()
		t.account(e, now)
		e.release()
	}
	clear(ends)
	j.spareEnds = nil
	if cap(ends) <= maxEnds/16 {
		j.spareEnds = ends[:0]
	}
}

// settleFinal corrects the last sample by what the loop knew.
func (e *entry) settleFinal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.end != nil && e.sus != nil {
		s := &e.end.sample
		s.mptcp = s.mptcp || e.sus.mptcp
		s.correct(e.sus.hist)
	}
}

// arm begins to watch e by epoll, if the limit allows it. A FIN that has come
// before is reported at once.
func (t *Tracker) arm(e *entry) {
	j := &t.judge
	e.mu.Lock()
	defer e.mu.Unlock()
	p := t.poller.Load()
	if e.closed || e.armed || p == nil {
		return
	}
	err := epoll.ErrFull
	if j.limit < 0 || armedEverywhere.Load() < j.limit {
		if cerr := e.raw.Control(func(fd uintptr) { err = p.Add(fd, watchToken(e)) }); cerr != nil {
			return // closed behind our back: the sweep will see it
		}
		if errors.Is(err, epoll.ErrFull) {
			// Others use the allowance. What is left is for them.
			j.limit = armedEverywhere.Load()
			j.watchErrors++
		}
	}
	if slow := err != nil; slow != e.slow {
		e.slow = slow
		if slow {
			j.unarmed++
		} else {
			j.unarmed--
		}
	}
	if err == nil {
		e.armed = true
		armedEverywhere.Add(1)
		t.watched.Add(1)
	}
}

// unwatch ends the epoll watch of fd. It is called inside RawConn.Control.
func (t *Tracker) unwatch(fd uintptr) {
	if p := t.poller.Load(); p != nil {
		_ = p.Del(fd)
	}
}

// disarmAll leaves every connection to the sweep: the watches went with their
// poller.
func (t *Tracker) disarmAll() {
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range t.entries() {
		e.mu.Lock()
		if e.armed {
			e.armed, e.slow = false, true
			j.unarmed++
			t.disarmed()
		}
		e.mu.Unlock()
	}
}

// disarmed accounts for a watch that has ended.
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

// lookAtSuspects looks at those that are due, for at most a tick's budget.
func (t *Tracker) lookAtSuspects(now int64, ep uint64) {
	j, a := &t.judge, &t.judge.agenda
	due := j.suspects
	j.suspects, j.spare = j.spare[:0], nil
	for _, e := range due {
		e.sus.queued = false
	}
	spent := budget()
	n := 0
	for ; n < len(due) && (n%16 != 15 || !spent()); n++ {
		t.look(due[n], now, ep, 0) // queues it again if it is to be looked at again
	}
	wait := suspectInterval
	if n < len(due) {
		// Those that were not reached come first next time.
		for _, e := range due[n:] {
			e.sus.queued = true
		}
		j.suspects = slices.Insert(j.suspects, 0, due[n:]...)
		wait = busyDelay
	}
	clear(due)
	j.spare = due[:0]
	a.suspects = 0
	if len(j.suspects) > 0 {
		a.suspects = now + int64(wait)
	}
}

// sweepOn looks at the next part of all connections, for at most a tick's
// budget.
func (t *Tracker) sweepOn(now int64, ep uint64) {
	j, a := &t.judge, &t.judge.agenda
	start := time.Now()
	spent := budget()
	if a.left == 0 {
		t.mu.Lock()
		a.left = len(t.slots)
		t.mu.Unlock()
		a.cursor = 0
		j.sweepStart, j.sweepWork = now, 0
	}
	for n := 0; a.left > 0 && (n%32 != 31 || !spent()); n++ {
		e := t.inSlot(a.cursor) // nil as long as it is new
		a.cursor++
		a.left--
		if e == nil || e.sus != nil && e.sus.queued {
			continue
		}
		if e.slow {
			t.arm(e) // there may be room by now
		}
		t.look(e, now, ep, 0)
	}
	j.sweepWork += time.Since(start)
	if a.left > 0 {
		a.sweep = now + int64(busyDelay)
		return
	}
	t.count.sweeps.Add(1)
	t.count.sweepNanos.Add(int64(j.sweepWork))
	if a.interval == off {
		a.sweep = after(now, off)
		return
	}
	// Jitter keeps many processes from sweeping in step.
	interval := int64(a.interval)
	a.sweep = max(j.sweepStart+interval-interval/10+t.jitter(interval/5), now+int64(busyDelay))
}

// budget returns a function that reports whether a tick's work is done.
func budget() (spent func() bool) {
	start := time.Now()
	return func() bool { return time.Since(start) > tickBudget }
}

func (t *Tracker) inSlot(i int) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= len(t.slots) || t.slots[i].e == nil || t.slots[i].e.youngAt != 0 {
		return nil
	}
	return t.slots[i].e
}

// look samples e, moves its history on and judges it. flags are the bits of the
// event that is the reason, or none.
func (t *Tracker) look(e *entry, now int64, ep uint64, flags epoll.Flags) {
	s := t.judge.sampler
	seen, ok := e.observe(s, flags)
	if !ok {
		return
	}
	if f := t.seam.looked; f != nil {
		f(e.id, flags)
	}
	flags |= s.flags
	if s.err != nil {
		t.judge.noInfo(s.err)
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
	if !next.fin && !next.dead {
		e.setState(s.sample.state)
		switch {
		case sus != nil:
			sus.hist = next
		case next != (history{}):
			e.sus = &suspicion{hist: next}
		}
		return
	}

	if sus == nil {
		sus = new(suspicion)
		e.sus = sus
	}
	if sus.finEpoch == 0 {
		sus.finEpoch = ep
		if !s.full || !s.ask {
			// The first look that matters needs the queues, too.
			s.again(e)
		}
	}
	if next.fin && sus.finAt == 0 {
		sus.finAt = cmp.Or(sus.deadAt, now) // of a clean end it is known only later
	}
	if next.dead && sus.deadAt == 0 {
		sus.deadAt, sus.before = now, e.state
	}
	sus.hist = next
	s.sample.correct(next)
	sus.mptcp, sus.made = sus.mptcp || s.sample.mptcp, s.sample.made
	sus.progress(e, &s.sample, now)
	sus.used(seen.uses, seen.using, now)
	sus.sample, sus.sampledAt = s.sample, now
	e.setState(s.sample.state)
	t.judgeEntry(e, now, &seen.expect, seen.using, seen.readErr)
}

// observation is what a look found in the entry, beside the sample.
type observation struct {
	readErr readResult
	watched bool // an error that nobody has taken would be seen
	using   bool
	uses    uint32
	expect  Expect
}

// observe samples e because of an event with these bits, or none. It reports
// false when e has ended.
func (e *entry) observe(s *sampler, flags epoll.Flags) (o observation, ok bool) {
	s.fresh = flags != 0
	s.full = e.sus != nil || s.fresh
	s.ask = flags&epoll.ReadHup != 0 || e.sus != nil && e.sus.made
	s.poll = e.slow || e.sus != nil && e.sus.hist.pending
	o, err := e.sampled(s)
	if errors.Is(err, net.ErrClosed) {
		e.gone() // if it is not known yet
	}
	return o, err == nil
}

func (e *entry) sampled(s *sampler) (o observation, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err = s.take(e, false); err != nil {
		return o, err
	}
	return observation{
		readErr: e.readErr, watched: e.armed || s.poll, using: e.uses != nil, uses: e.useCount,
		expect: e.expectationLocked(),
	}, nil
}

// again samples e once more, with its queues and what they count.
func (s *sampler) again(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.full, s.ask = true, true
	_ = s.take(e, false)
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
