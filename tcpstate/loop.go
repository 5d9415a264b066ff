package tcpstate

import (
	"math"
	"runtime/debug"
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
	// What else a tick does is to find room within two milliseconds.
	tickBudget = 1500 * time.Microsecond
	// busyDelay separates ticks while work is left over: they take 0.3 % of a
	// core. Of what is left to 0.4 % each takes some that is the Go runtime's, to
	// wake up and to sleep again, so that more ticks would be less work.
	busyDelay = 500 * time.Millisecond
	// Up to fewSuspects are looked at when the verdict on one of them is due,
	// but at most once in dueDelay.
	fewSuspects = 64
	dueDelay    = 100 * time.Millisecond
)

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

// kickIdleLocked makes the loop act within lastDelay, because nothing is tracked
// any more. When something is again by then, it stays on guard for as long: a
// program with one connection after the other would wake it for each. The caller
// holds mu.
func (t *Tracker) kickIdleLocked() {
	t.guard = true
	t.kickLocked(lastDelay)
}

// startLocked starts the loop, unless there is nothing to do or the program
// runs in a bubble of testing/synctest: there connections are counted, not
// watched.
func (t *Tracker) startLocked() {
	if t.closed || t.live == 0 && t.pins == 0 && len(t.ends)+len(t.closes)+len(t.resets)+t.untold == 0 {
		return
	}
	if t.seam.clock == nil && t.seam.fakeTime() {
		for _, e := range t.ends {
			e.series.states[Established].Add(-1) // nobody has looked at it
			t.judge.tunnels.drop(e)
		}
		t.ends, t.closes, t.resets, t.untold = nil, nil, nil, 0
		if subs := t.observers.Load(); subs != nil {
			for _, s := range *subs {
				s.forget()
			}
		}
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
	t.judge.readLimit(t.seam.maxWatches) // first: WatchPeer works as soon as there is a poller
	p := t.openPoller()

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
		t.peersClosed(evs)
		p.Handled()
		t.poll()
		wait = t.pass(evs)
		t.tellPeers()
		if c := t.seam.clock; c != nil {
			c.Passed(wait)
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

// limitWait is the time the poller really waits: a test's clock does not pass
// by itself, so the loop is woken when it has moved.
func (t *Tracker) limitWait(wait time.Duration) time.Duration {
	if t.seam.clock != nil && wait > 0 {
		return -1
	}
	return wait
}

// now returns the loop's time.
func (t *Tracker) now() int64 { return max(t.elapsed(), 1) }

// elapsed is now for what needs no other sign that it was set than to exist.
// time.Since reads one clock where time.Now reads two.
func (t *Tracker) elapsed() int64 {
	if t.seam.clock == nil {
		return int64(time.Since(t.base))
	}
	return int64(t.seam.now().Sub(t.base))
}

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
func (t *Tracker) bump(now int64) {
	t.epoch.Store(max(t.epoch.Load()+1, uint64(now/epochUnit)+1))
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
	t.bump(now)
	t.reconfigured(now)

	for _, ev := range evs {
		if e := t.byToken(ev.Token); e != nil {
			t.look(e, now, ev.Flags)
		}
	}

	t.mu.Lock()
	t.sleep, t.again = 0, false
	urgent := t.urgent
	t.mu.Unlock()
	j.closing.take(t, now)
	a.configure(t.cfg.Load().sweep(), now)
	if a.young != 0 && now >= a.young || urgent {
		t.meet(now)
	}
	suspects, sweep := a.suspects != 0 && now >= a.suspects, now >= a.sweep
	most := tickBudget
	if chore := j.process.at != 0 && now >= j.process.at; sweep && (suspects || chore) {
		most /= 2
	}
	if suspects {
		t.lookAtSuspects(now, most)
	}
	if sweep {
		t.sweepOn(now, most)
	}
	if a.remind != 0 && now >= a.remind {
		t.remind(now)
	}
	t.doChores(now)
	t.flush(now)
	wait = t.pause(now, j.next(now))
	if wait < 0 {
		j.suspects, j.spare, j.spareEnds = nil, nil, nil
		j.closing.rest(t, now)
		t.flush(now)
		for _, s := range t.everybody() {
			s.rest()
		}
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
	pending := len(t.young)+len(t.ends)+len(t.closes)+len(t.resets)+t.untold > 0
	delay := youngDelay
	if t.live > 0 || t.pins > 0 {
		a.linger = 0
	} else {
		if a.linger == 0 {
			a.linger = now + int64(lastDelay)
		}
		delay = lastDelay
	}
	if t.closed || t.live == 0 && t.pins == 0 && !pending && len(t.judge.closing.waiting) == 0 && now >= a.linger {
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
	if t.guard {
		wait = min(wait, lastDelay)
		t.guard = false
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
func (j *judgement) next(now int64) time.Duration {
	a := &j.agenda
	at := min(a.sweep, now+int64(time.Hour))
	for _, d := range []int64{a.suspects, a.remind, j.nextChore(), j.polls.next()} {
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
