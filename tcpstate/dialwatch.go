package tcpstate

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// dialingChore watches dials while they run, and what they run into. Most dials
// end within milliseconds: they leave nothing but two turns of a lock. The loop
// is woken for those that last.
type dialingChore struct {
	mu      sync.Mutex // guards following fields; taken last
	first   *Dialing   // in progress, oldest first
	last    *Dialing
	watch   dialWatch
	timer   uint32 // number of the timer that counts
	due     int64
	over    []*Dialing // ended, with something to be told
	targets targetTable
	ports   portWatch
	shakes  shakeList

	// Owned by the loop.
	judged map[*Dialing]struct{} // dials with findings that are open
	batch  []*Dialing
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
func (c *dialingChore) begin(t *Tracker, d *Dialing) {
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
func (c *dialingChore) end(t *Tracker, d *Dialing, tc *net.TCPConn, err error) (resent uint32) {
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

func (c *dialingChore) unlinkLocked(d *Dialing) {
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
func (c *dialingChore) learnLocked(tg *target, d *Dialing, how dialEnd, to netip.AddrPort, now int64) bool {
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
func (c *dialingChore) lookAt(t *Tracker, d *Dialing, now int64) {
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
func (c *dialingChore) settleOver(t *Tracker, d *Dialing, now int64) {
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

// attemptLook is what the loop knows of an attempt.
type attemptLook struct {
	th    *thing // nil: was never judged
	asked bool   // the kernel was, and has answered
	state State
	local netip.AddrPort
	to    netip.AddrPort
}

// lookAtAttempt asks the kernel about attempt i of d, where there is a socket
// to ask, and judges it.
func (c *dialingChore) lookAtAttempt(t *Tracker, d *Dialing, i int, now int64) {
	d.mu.Lock()
	a := d.attemptLocked(i)
	raw, ended, start := a.raw, a.ended || d.over, t.loopTime(a.start)
	resent := a.resent
	if a.look == nil {
		a.look = &attemptLook{to: parseAddrPort(a.address)}
	}
	l := a.look
	d.mu.Unlock()
	if raw != nil && !ended {
		l.state, l.asked = Unknown, false
		p, err := askAttempt(t, raw)
		switch {
		case err != nil:
			ended = true // closed: its place is another address's now
		case p.sample.ok:
			l.asked, l.state, l.local = true, p.sample.state, p.local
			resent = max(resent, p.sample.retransmits)
		default:
			t.judge.noInfo(p.err)
		}
	}
	d.mu.Lock()
	a.resent = resent
	d.mu.Unlock()

	f := attemptFacts{
		now: now, start: start, asked: l.asked, resent: resent,
		open:   !ended && (!l.asked || l.state == SynSent),
		limits: &t.cfg.Load().limits,
	}
	c.mu.Lock()
	f.reachable = l.to.IsValid() && d.dest.index != sharedTarget && d.dest.reachedSince(l.to, start)
	c.mu.Unlock()
	v := f.verdict()
	if v.kind != "" && (d.origin.Expect.ignores(v.kind) || t.cfg.Load().Off) {
		v = verdict{}
	}
	if v.kind == "" && l.th == nil {
		return
	}
	if l.th == nil {
		l.th = d.thing(SubjectDial)
		l.th.facts = func(pub *Finding, now int64) { d.describeAttempt(t, a, pub, now) }
	}
	l.th.judge(t, v, now)
	c.await(d)
}

// await asks to be told of the end of d.
func (c *dialingChore) await(d *Dialing) {
	if _, ok := c.judged[d]; ok {
		return
	}
	d.mu.Lock()
	over := d.over
	d.awaited = true
	d.mu.Unlock()
	if c.judged == nil {
		c.judged = make(map[*Dialing]struct{})
	}
	c.judged[d] = struct{}{}
	if over {
		c.mu.Lock()
		c.over = append(c.over, d)
		c.mu.Unlock()
	}
}

// attemptFacts is what a verdict on an attempt rests on.
type attemptFacts struct {
	now, start int64
	asked      bool  // the kernel was
	open       bool  // nothing has come back, as far as is known
	resent     uint8 // SYNs, if asked
	reachable  bool  // another dial has reached the same address meanwhile
	limits     *Thresholds
}

const (
	// synRetries is how many SYNs sent again are more than chance.
	synRetries = 2
	// blindDial is how old an attempt is by which the SYN has been sent again
	// twice, where nobody can say how often it was: after 1 s and 3 s (RFC
	// 6298, section 2), or each second (net.ipv4.tcp_syn_linear_timeouts).
	blindDial = 4 * time.Second
)

func (f *attemptFacts) verdict() verdict {
	age := time.Duration(f.now - f.start)
	switch {
	case !f.open || age < f.limits.Dial:
		return verdict{}
	case f.asked && f.resent < synRetries, !f.asked && age < blindDial:
		return verdict{}
	}
	v := verdict{kind: KindDialNoAnswer, since: f.start}
	if f.reachable {
		v.kind = KindDialTupleStuck
	}
	return v
}

// attemptProbe reads the socket of an attempt inside RawConn.Control.
type attemptProbe struct {
	sample sample
	local  netip.AddrPort
	err    error // why there is no sample
}

func askAttempt(t *Tracker, raw syscall.RawConn) (p attemptProbe, err error) {
	s := samplers.Get().(*sampler)
	defer samplers.Put(s)
	err = raw.Control(func(fd uintptr) {
		var n int
		if n, p.err = t.seam.info(fd, s.buf[:]); p.err == nil {
			p.sample.parse(s.buf[:n])
			if !p.sample.ok {
				p.err = errShortInfo
			}
		}
		p.local = localAddr(fd)
	})
	return p, err
}

func parseAddrPort(s string) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// thing returns a subject that stands for d or its target.
func (d *Dialing) thing(kind SubjectType) *thing {
	return &thing{
		kind: kind, role: d.origin.Role, name: d.origin.Name, target: d.origin.Target,
		series: d.t.judge.seriesOf(d.origin.Role, d.origin.Name), opened: d.start,
		site: d.site, siteRole: "dial", tokens: d.tokens,
	}
}

// describeAttempt adds to a finding what is known of a.
func (d *Dialing) describeAttempt(t *Tracker, a *attempt, pub *Finding, now int64) {
	d.mu.Lock()
	start, deadline, resent := a.start, a.deadline, a.resent
	if deadline.IsZero() {
		deadline, _ = d.ctx.Deadline()
	}
	d.mu.Unlock()
	l, ev := a.look, &pub.Evidence
	pub.Subject.Remote = a.address
	if l.asked {
		pub.State, ev.Retransmits = SynSent, uint32(resent)
		if l.local.Port() != 0 {
			pub.Subject.Local = l.local.String()
			ev.note(noteFrom, pub.Subject.Local)
		}
		ev.note(noteResent, counted(int(resent), "time"))
	} else {
		ev.note(noteResent, "an unknown number of times")
	}
	wall := t.wall(now)
	ev.note(noteAge, age(wall.Sub(start)))
	switch left := deadline.Sub(wall); {
	case deadline.IsZero():
		ev.note(noteDeadline, "none")
	case left > 0:
		ev.note(noteDeadline, "in "+age(left))
	default:
		ev.note(noteDeadline, "over")
	}
}

// Names of notes, which the words of a finding refer to.
const (
	noteFrom     = "from"
	noteResent   = "SYN sent again"
	noteAge      = "age"
	noteDeadline = "deadline"
)

// took returns how long the resolution lasted, or lasts at now.
func (l *lookup) took(now time.Time) time.Duration {
	if !l.end.IsZero() {
		now = l.end
	}
	return now.Sub(l.start)
}

// tellSlowDNS reports a resolution that took, or takes, too long.
func (c *dialingChore) tellSlowDNS(t *Tracker, d *Dialing, now int64) {
	if d.origin.Expect.ignores(KindDialDNSSlow) || t.cfg.Load().Off {
		return
	}
	d.mu.Lock()
	dns := *d.dns
	over := d.over
	d.mu.Unlock()
	v := verdict{kind: KindDialDNSSlow, since: t.loopTime(dns.start), cause: "slow"}
	took := dns.took(t.wall(now))
	switch {
	case dns.end.IsZero() && over:
		v.cause, took = "gave_up", d.ended.Sub(dns.start)
	case dns.end.IsZero():
		v.cause = "silent"
	case dns.failed:
		v.cause = "failed"
	}
	th := d.thing(SubjectTarget)
	th.facts = func(pub *Finding, _ int64) { pub.Evidence.note(noteLookup, age(took)) }
	t.event(th, v, now)
}

const noteLookup = "lookup"

// starvedLocked reports whether the dial has failed although half of what the
// name stands for was never tried. The caller holds mu.
func (d *Dialing) starvedLocked() bool {
	if d.network != "tcp" || d.dns == nil || d.dns.v4 == 0 || d.dns.v6 == 0 || d.tried == 0 {
		return false
	}
	first := parseAddrPort(d.first.address).Addr()
	for _, a := range d.more {
		if parseAddrPort(a.address).Addr().Is4() != first.Is4() {
			return false
		}
	}
	return first.IsValid()
}

// tellStarved reports a dial that never came to the second family of addresses.
func (c *dialingChore) tellStarved(t *Tracker, d *Dialing, now int64) {
	if d.origin.Expect.ignores(KindDialFallbackStarved) || t.cfg.Load().Off {
		return
	}
	th := d.thing(SubjectTarget)
	th.facts = func(pub *Finding, _ int64) {
		first, second, untried := "IPv6", "IPv4", d.dns.v4 // nothing changes any more
		if parseAddrPort(d.first.address).Addr().Is4() {
			first, second, untried = "IPv4", "IPv6", d.dns.v6
		}
		ev := &pub.Evidence
		ev.note(noteTried, fmt.Sprintf("%d %s", d.tried, first))
		ev.note(noteUntried, fmt.Sprintf("%d %s", untried, second))
		ev.note(noteBudget, age(d.ended.Sub(d.start)))
		if d.dns.took(d.ended) >= 10*time.Millisecond {
			ev.note(noteLookup, age(d.dns.took(d.ended)))
		}
		ev.note("last", d.attemptLocked(d.tried-1).address)
	}
	t.event(th, verdict{kind: KindDialFallbackStarved, since: t.loopTime(d.start)}, now)
}

const (
	noteTried   = "tried"
	noteUntried = "not tried"
	noteBudget  = "budget"
)
