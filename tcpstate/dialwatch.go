package tcpstate

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// dialingChore watches dials while they run, and what they run into. Most dials
// end within milliseconds: they leave nothing but two turns of a lock. The loop
// is woken for those that last.
type dialingChore struct {
	mu      sync.Mutex // guards following fields; taken last
	first   *dial      // in progress, oldest first
	last    *dial
	watch   dialWatch
	timer   uint32 // number of the timer that counts
	due     int64
	over    []*dial // ended, with something to be told
	targets targetTable
	ports   portWatch
	shakes  shakeList

	// Owned by the loop.
	judged map[*dial]struct{} // dials with findings that are open
	batch  []*dial
	skip   int // dials that had their turn
}

// dialWatch says who takes care of the dials in progress.
type dialWatch uint8

const (
	restingWatch   dialWatch = iota // nobody: there is none
	waitingWatch                    // a timer: all are young
	attendingWatch                  // the loop, which is pinned
)

const (
	// watchAfter is how old a dial is when the loop begins to look at it.
	// Before that the kernel has not sent its SYN again (TCP_TIMEOUT_INIT in
	// include/net/tcp.h).
	watchAfter = time.Second
	// maxLooks bounds the dials that one run looks at. The others have their
	// turn in the next.
	maxLooks = 1024
)

// begin takes d among the dials in progress.
func (c *dialingChore) begin(t *Tracker, d *dial) {
	now := t.loopTime(d.start)
	c.mu.Lock()
	d.prev = c.last
	if c.last != nil {
		c.last.next = d
	} else {
		c.first = d
	}
	c.last = d
	c.ports.learn(t)
	d.dest = c.targets.of(targetKey{d.origin.Name, d.origin.Target}, now)
	d.dest.dialing++
	d.dest.usedAt = now
	wake := c.watch == restingWatch
	if wake {
		c.watch = waitingWatch
	}
	c.mu.Unlock()
	if wake {
		c.wait(t, watchAfter)
	}
}

// wait lets the loop attend to the dials when the oldest may be old enough. A
// timer is no goroutine, and does not keep the loop running for dials that end
// at once. It is never reset: one made in a bubble of testing/synctest could
// not be, outside.
func (c *dialingChore) wait(t *Tracker, d time.Duration) {
	c.mu.Lock()
	c.timer++
	n := c.timer
	c.mu.Unlock()
	if t.seam.clock != nil {
		c.attend(t, n)
		return
	}
	time.AfterFunc(d, func() { c.attend(t, n) })
}

// attend hands the dials to the loop, unless all of them are young. It is
// called when timer n has expired.
func (c *dialingChore) attend(t *Tracker, n uint32) {
	c.mu.Lock()
	switch {
	case c.timer != n || c.watch != waitingWatch:
		c.mu.Unlock()
		return
	case c.first == nil:
		c.watch = restingWatch
		c.mu.Unlock()
		return
	}
	left := watchAfter - t.seam.now().Sub(c.first.start)
	if left > 0 && t.seam.clock == nil {
		c.mu.Unlock()
		c.wait(t, left)
		return
	}
	c.callLocked(t.now())
	c.mu.Unlock()
	t.pin(+1)
	t.kick(0)
}

// callLocked makes the chore due. It reports whether the caller is to pin the
// loop, without mu. The caller holds mu.
func (c *dialingChore) callLocked(now int64) (pin bool) {
	c.due = now
	pin = c.watch != attendingWatch
	c.watch = attendingWatch
	return pin
}

// end takes d, which is over, from the dials in progress, and learns from what
// became of it. tc is the connection that was made, if any. It returns how
// often a SYN was seen to be sent again.
func (c *dialingChore) end(t *Tracker, d *dial, tc *net.TCPConn, err error) (resent uint32) {
	how := classifyDial(err)
	took := d.ended.Sub(d.start)
	limits := &t.cfg.Load().limits

	d.mu.Lock()
	d.over = true
	for i := range d.tried {
		a := d.attemptLocked(i)
		a.raw = nil
		resent += uint32(a.resent)
	}
	d.starving = how == dialTimeout && d.starvedLocked()
	if d.dns != nil && d.dns.end.IsZero() {
		d.dns.failed = true
	}
	urgent := d.awaited
	tell := urgent || d.starving || d.dns != nil && !d.dns.told && d.dns.took(d.ended) >= limits.DNS
	d.mu.Unlock()

	var to netip.AddrPort
	switch {
	case tc != nil:
		to = remoteOf(tc)
	case how == dialNoPort:
		to = failedAt(err)
	}
	now := t.loopTime(d.ended)
	c.mu.Lock()
	c.unlinkLocked(d)
	tg := d.dest
	tg.dialing--
	tg.usedAt = now
	tg.count(how, took, now)
	if tc != nil {
		tg.reach(to, now)
	}
	hot := false
	if tg.index != sharedTarget {
		hot = c.learnLocked(tg, d, how, to, now) && !tg.hot
		tg.hot = tg.hot || hot
	}
	if tell && len(c.over) < maxDials {
		d.shared = true
		c.over = append(c.over, d)
	} else if tell {
		t.count.dialsMissed.Add(1)
	}
	pin := (tell || hot) && c.callLocked(now)
	c.mu.Unlock()
	if pin {
		t.pin(+1)
	}
	if urgent || hot {
		t.kick(0)
	}
	return resent
}

func (c *dialingChore) unlinkLocked(d *dial) {
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		c.first = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		c.last = d.prev
	}
	d.next, d.prev = nil, nil
}

// learnLocked notes what the end of d says of its target, and reports whether
// that is to be judged. The caller holds mu.
func (c *dialingChore) learnLocked(tg *target, d *dial, how dialEnd, to netip.AddrPort, now int64) bool {
	switch how {
	case dialOK:
		return false
	case dialNoPort:
		tg.origin, tg.site, tg.tokens = d.origin, d.site, d.tokens
		tg.portless, tg.portlessTo = now, to
		return true
	case dialTimeout, dialCancel:
		tg.origin, tg.site, tg.tokens = d.origin, d.site, d.tokens
		sum := tg.recent(now)
		return sum.stormy(false)
	}
	return false
}

// loopTime turns a time of day into the loop's time.
func (t *Tracker) loopTime(at time.Time) int64 { return max(int64(at.Sub(t.base)), 1) }

// next implements chore.
func (c *dialingChore) next() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	due := c.due
	if s := c.shakes.due; s != 0 && (due == 0 || s < due) {
		due = s
	}
	return due
}

// run implements chore.
func (c *dialingChore) run(t *Tracker, now int64) {
	c.lookAtShakes(t, now)
	c.mu.Lock()
	over, due := c.over, c.due
	c.over = nil
	c.mu.Unlock()
	if due == 0 || now < due {
		return
	}
	for _, d := range over {
		c.settleOver(t, d, now)
	}
	whole := c.lookAtDials(t, now)
	busy := c.judgeTargets(t, now)
	c.plan(t, now, busy, whole)
}

// plan decides when to run next, and whether the loop has to run for that.
func (c *dialingChore) plan(t *Tracker, now int64, busy, whole bool) {
	c.mu.Lock()
	busy = busy || len(c.judged) > 0
	left := time.Duration(-1)
	if c.first != nil {
		left = max(watchAfter-time.Duration(now-t.loopTime(c.first.start)), 0)
	}
	switch {
	case len(c.over) > 0:
		c.due = now
	case !whole:
		c.due = now + int64(busyDelay)
	case busy, left == 0, left > 0 && t.seam.clock != nil:
		c.due = now + int64(suspectInterval)
	case left > 0:
		c.due, c.watch = 0, waitingWatch
	default:
		c.due, c.watch = 0, restingWatch
	}
	watch := c.watch
	c.mu.Unlock()
	if watch == attendingWatch {
		return
	}
	t.pin(-1)
	if watch == waitingWatch {
		c.wait(t, left)
	}
}

// lookAtDials looks at the dials that have lasted, and reports whether it has
// reached all of them.
func (c *dialingChore) lookAtDials(t *Tracker, now int64) (whole bool) {
	old := now - int64(watchAfter)
	batch, n := c.batch[:0], 0
	c.mu.Lock()
	d := c.first
	for ; d != nil && len(batch) < maxLooks && t.loopTime(d.start) <= old; d = d.next {
		if n++; n > c.skip {
			d.shared = true
			batch = append(batch, d)
		}
	}
	whole = d == nil || t.loopTime(d.start) > old
	c.mu.Unlock()
	spent := budget()
	for i, d := range batch {
		if i%16 == 15 && spent() {
			whole = false
			n -= len(batch) - i
			break
		}
		c.lookAt(t, d, now)
	}
	if c.skip = n; whole {
		c.skip = 0
	}
	clear(batch)
	c.batch = batch[:0]
	return whole
}

// lookAt judges a dial in progress.
func (c *dialingChore) lookAt(t *Tracker, d *dial, now int64) {
	limits := &t.cfg.Load().limits
	d.mu.Lock()
	if d.over {
		d.mu.Unlock()
		return // it waits in c.over, if it matters
	}
	slow := d.dns != nil && !d.dns.told && d.dns.took(t.seam.now()) >= limits.DNS
	if slow {
		d.dns.told = true
	}
	n := d.tried
	d.mu.Unlock()
	if slow {
		c.tellSlowDNS(t, d, now)
	}
	for i := range n {
		c.lookAtAttempt(t, d, i, now)
	}
}

// settleOver ends the findings about a dial that is over, and tells what only
// the end shows.
func (c *dialingChore) settleOver(t *Tracker, d *dial, now int64) {
	if _, ok := c.judged[d]; ok {
		delete(c.judged, d)
		for i := range d.tried { // does not change any more
			if l := d.attemptLocked(i).look; l != nil && l.th != nil {
				l.th.judge(t, verdict{}, now)
			}
		}
	}
	limits := &t.cfg.Load().limits
	d.mu.Lock()
	slow := d.dns != nil && !d.dns.told && d.dns.took(d.ended) >= limits.DNS
	if slow {
		d.dns.told = true
	}
	d.mu.Unlock()
	if slow {
		c.tellSlowDNS(t, d, now)
	}
	if d.starving {
		c.tellStarved(t, d, now)
	}
}
