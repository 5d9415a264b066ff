package tcpstate

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// This file is about connections that ended by RST: whose it was, and whether
// something on this side explains it. It looks at each connection once, when it
// has ended. Single resets are normal, so they are counted by target or line,
// and only what repeats is judged.

const (
	// staleFIN is how long the peer's FIN must have been there for a write
	// after it to be avoidable: less is a race that nobody can win.
	staleFIN = 100 * time.Millisecond
	// atOnce is how much time passes at most between a goodbye, such as MySQL's
	// COM_QUIT, PostgreSQL's Terminate or a close_notify, and the Close after it.
	atOnce = 10 * time.Millisecond
	// resetWindow is the time in which severalResets are worth a warning.
	resetWindow   = int64(time.Minute)
	severalResets = 3
	// resetDelay is how long resets are collected: those of a peer that dies
	// come together.
	resetDelay = int64(2 * time.Second)
	// maxResets bounds the targets and lines that are told apart.
	maxResets = 512
	// maxScans bounds how often in one run all connections are gone through.
	maxScans = 3
)

// finalHistory returns the history of e up to its end, given what the loop
// remembers, if it does. The caller holds mu.
func (e *entry) finalHistory(sus *suspicion) history {
	var hist history
	if sus != nil {
		hist = sus.hist
	}
	f, fl := e.final(), e.flags.Load()
	return hist.observe(look{
		state: f.state, retransmits: f.retransmits, backoff: f.backoff, probes: f.probes,
		read: e.readErr, copied: fl&flagCopyFailed != 0, closeWrite: fl&flagCloseWrite != 0, closeRead: fl&flagCloseRead != 0,
		blind:   fl&flagWrapped == 0,
		watched: true, settled: true, // there is nothing to wait for any more
	})
}

// reset is a connection that ended by RST.
type reset struct {
	kind    Kind
	cause   string
	repeats bool // worth a warning if it happens again and again
	e       *entry
	closer  sites.ID
	at      int64
	before  State

	in, out        uint64
	unread, unsent int
	idle           time.Duration // before the last write, or else before the end; negative: not known
	finAge         time.Duration // of the FIN at the last write; negative: not known
}

// mayBeReset is a quick no for nearly all connections that the loop has not
// met. The caller is that of departure.
func (e *entry) mayBeReset() bool {
	return !e.forgotten && !e.leaked && e.end != nil && e.end.sample.ok &&
		(e.end.sample.state == Closed || e.end.reusedAfter > 0 && e.end.sample.state == CloseWait || e.discards())
}

// reset returns the reset that e, which has ended, ended by, given what the loop
// remembers, if it does. It reports false when there was none to count.
func (e *entry) reset(sus *suspicion) (r reset, ok bool) {
	t := e.t
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.end == nil {
		return r, false
	}
	p := parting{
		role: e.role, hist: e.finalHistory(sus), last: e.final(), read: e.readErr,
		discards: e.discards(), linger: e.flags.Load()&flagLingerZero != 0,
		http: e.end.http, reusedAfter: time.Duration(e.end.reusedAfter),
	}
	r.at = int64(e.end.at.Sub(t.base))
	sampledAt := r.at
	if sus != nil {
		if !p.last.ok && sus.sampled {
			p.last, sampledAt = sus.sample, sus.sampledAt
		}
		if sus.deadAt != 0 {
			r.at = min(r.at, sus.deadAt)
		}
		p.finSeen, p.finSent = sus.finFresh, sus.finSent
		p.goodbye = p.finSeen && e.saidGoodbye(sus)
	}
	p.young = time.Duration(r.at - int64(e.born.Sub(t.base)))
	r.kind, r.cause, r.repeats = p.reset()
	if x := e.expectationLocked(); r.kind == "" || x.ignores(r.kind) {
		return r, false
	}
	s := &p.last
	r.e, r.closer, r.before = e, e.end.closer, p.before()
	r.in, r.out, r.unread, r.unsent = s.bytesReceived, s.bytesSent, int(s.recvQueue), int(s.sendQueue)
	if p.hist.fin && r.in > 0 {
		r.in-- // the kernel counts the FIN
	}
	r.idle, r.finAge = -1, -1
	switch {
	case r.kind == KindResetReuseAfterFIN:
		switch {
		case r.cause == causeCrossed:
			r.idle = p.reusedAfter // the FIN came then
		case p.finSeen:
			r.finAge = time.Duration(max(sampledAt-int64(s.dataSent)-sus.finAt, 0))
			r.idle = sus.finIdle + r.finAge
		}
		r.repeats = r.finAge >= staleFIN
	case r.cause == "after_idle":
		r.idle = s.dataRecv - s.dataSent
	case r.cause == "after_request" && p.reusedAfter > 0:
		r.idle = p.reusedAfter
	case s.bytesReceived > 0:
		r.idle = max(min(s.dataRecv, s.dataSent)-time.Duration(sampledAt-r.at), 0)
	}
	return r, true
}

// saidGoodbye reports whether what the application wrote after the peer's FIN was
// the goodbye of its protocol: it waited for no answer and closed at once. A
// driver that finds its idle connection dead does so. The caller holds mu.
func (e *entry) saidGoodbye(sus *suspicion) bool {
	if u := e.lastUse; u != nil && u.begun >= sus.finAt {
		return false // it was used
	}
	s, end := e.final(), int64(e.end.at.Sub(e.t.base))
	return e.flags.Load()&flagWrapped != 0 && e.lastRead() == sus.finRead && s.ok && s.dataSent < atOnce &&
		(sus.deadAt == 0 || end-sus.deadAt < int64(atOnce))
}

// resetKey is what the resets of a record share.
type resetKey struct {
	kind   Kind
	role   Role
	name   string
	target string
	addr   netip.AddrPort // of the peer, or of our listener
	line   uint64         // of those by us
}

// resetRecord counts the resets of one kind at one target or line. It is what
// the findings about them are about.
type resetRecord struct {
	thing
	key    resetKey
	fresh  int // since the last run
	first  int64
	total  uint64
	latest reset
	recent [severalResets]int64 // when those came that count for a warning, oldest first
	limit  time.Duration        // after which the server closes idle connections, as far as is known; 0: it is not
	failed uint64               // of those, uses that got no answer for it

	count, warning *finding
	warnedAt       int64
}

// resetTable is the records of a tracker. Owned by the loop.
type resetTable struct {
	m   map[resetKey]*resetRecord
	due int64 // when there is something to report; 0: nothing
}

// add counts a reset.
func (tab *resetTable) add(t *Tracker, seen reset, now int64) {
	r := tab.record(t, &seen)
	if seen.kind == KindResetReuseAfterFIN && seen.e.flags.Load()&flagUseFailed != 0 {
		seen.repeats = true // whoever made the request has to deal with it
		r.failed++
	}
	if r.fresh == 0 {
		r.first = seen.at
	}
	r.fresh++
	r.total++
	r.latest = seen
	if seen.kind == KindResetReuseAfterFIN {
		if seen.cause == causeCrossed {
			t.judge.idle.note(seen.e, seen.idle, seen.at) // the FIN looks as if it followed the request
		}
		r.limit = t.judge.idle.limit(seen.e)
	}
	if seen.repeats {
		copy(r.recent[:], r.recent[1:])
		r.recent[severalResets-1] = seen.at
	}
	if tab.due == 0 {
		tab.due = now + resetDelay
	}
}

// record returns the record that counts seen. When there are too many, those of
// a kind share one.
func (tab *resetTable) record(t *Tracker, seen *reset) *resetRecord {
	e := seen.e
	byUs := seen.kind == KindResetByUsUnread || seen.kind == KindResetByUsLinger
	key := resetKey{kind: seen.kind, role: e.role, name: e.series.name}
	site, role := e.site, e.bornBy()
	e.mu.Lock()
	if !ownLine(site, t.judge.hide) {
		// The standard library dials on goroutines of its own.
		if u := e.latestUseLocked(); u != nil && ownLine(u.site, t.judge.hide) {
			site, role = u.site, "use"
			if isHTTP(u.use.Method) {
				role = "request"
			}
		}
	}
	switch {
	case byUs:
		site, role = seen.closedBy(t.judge.hide)
		key.line = site.OwnerKey(t.judge.hide)
	case e.role == Server:
		key.target, key.addr = e.target, plainAddr(e.local)
	case e.target == "" || seen.kind == KindResetUnexplained:
		key.target, key.addr = e.target, plainAddr(e.remote)
	default:
		key.target = e.target
	}
	e.mu.Unlock()
	r := tab.m[key]
	if r == nil && len(tab.m) >= maxResets {
		t.count.unfollowed.Add(1)
		key, site = resetKey{kind: key.kind, name: otherNames, target: otherNames}, 0
		r = tab.m[key]
	}
	if r != nil {
		return r
	}
	r = &resetRecord{key: key, thing: thing{
		kind: SubjectTarget, role: e.role, name: key.name, target: key.target, series: e.series,
		site: site, siteRole: role,
	}}
	if r.target == "" && key.addr.IsValid() {
		r.target = key.addr.String()
	}
	switch {
	case byUs:
		r.thing.kind = SubjectSite
	case e.role == Server:
		r.thing.kind = SubjectListener
	}
	r.facts = r.evidence
	if tab.m == nil {
		tab.m = make(map[resetKey]*resetRecord)
	}
	tab.m[key] = r
	return r
}

// closedBy returns the line that closed the connection, or else the one that
// used it. The caller holds the mu of the entry.
func (r *reset) closedBy(hide []string) (sites.ID, string) {
	u := r.e.latestUseLocked()
	switch {
	case u != nil && u.handler != 0:
		return u.handler, "handler"
	case ownLine(r.closer, hide):
		return r.closer, "close"
	case u != nil && u.site != 0:
		return u.site, "use"
	}
	return r.e.site, r.e.bornBy()
}

// judge reports what has come together, and forgets what lies behind.
func (tab *resetTable) judge(t *Tracker, now int64) {
	tab.due = 0
	scans := maxScans
	for key, r := range tab.m {
		if r.fresh > 0 {
			r.report(t, now, &scans)
		} else if now-r.latest.at > eventFor {
			delete(tab.m, key)
		}
	}
}

// report tells of the fresh resets of r.
func (r *resetRecord) report(t *Tracker, now int64, scans *int) {
	n := r.fresh
	r.fresh = 0
	several := r.recent[0] != 0 && now-r.recent[0] <= resetWindow+resetDelay && r.recent[severalResets-1]-r.recent[0] <= resetWindow
	if r.key.kind == KindResetUnexplained && r.role == Client && (several || n > 1) {
		alive := true
		if *scans > 0 {
			*scans--
			alive = t.livesOn(r.key.addr, min(r.first, r.latest.at))
		} else {
			several = false
		}
		if !alive {
			several = false
			if n > 1 {
				r.latest.cause = "peer_crashed"
			}
		}
	}
	v := verdict{kind: r.key.kind, cause: r.latest.cause, since: r.latest.at}
	r.count = t.events(r, r.count, n, v, now)
	if several && (r.warnedAt == 0 || now-r.warnedAt >= resetWindow) {
		r.warnedAt = now
		v.severity, v.since = Warning, r.recent[0]
		r.warning = t.events(r, r.warning, 1, v, now)
	}
}

// events reports n events about s. f, the last one before or nil, stands for
// them all as long as its group lasts. It returns the one that does so now.
func (t *Tracker) events(s subject, f *finding, n int, v verdict, now int64) *finding {
	j := &t.judge
	if f != nil {
		if _, kept := j.findings[f]; !kept || f.g.open == 0 {
			f = nil
		}
	}
	if f == nil {
		f = t.open(s, v, now)
		n--
	}
	f.cause = v.cause
	if n == 0 {
		return f
	}
	g := f.g
	g.growth.step(now, g.open)
	g.open += n
	g.opened += uint64(n)
	g.expires = now + eventFor
	t.remindAt(g.expires, now)
	if !g.news {
		t.remindSoon(g, now)
	}
	t.count.openFindings[f.severity].Add(int64(n))
	t.count.findings[f.severity].Add(uint64(n))
	if t.muted(g) {
		t.count.muted.Add(uint64(n))
	}
	return f
}

// livesOn reports whether a connection to remote that was open before then is
// still open.
func (t *Tracker) livesOn(remote netip.AddrPort, then int64) bool {
	const stretch = 512
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := 0; i < len(t.slots); i++ {
		if i%stretch == stretch-1 {
			t.mu.Unlock() // others want to open and close, too
			t.mu.Lock()
			if i >= len(t.slots) {
				break
			}
		}
		e := t.slots[i].e
		if e != nil && e.role == Client && e.state == Established && int64(e.born.Sub(t.base)) < then && plainAddr(e.remote) == remote {
			return true
		}
	}
	return false
}

// evidence adds what is known of the resets, and of the latest one.
func (r *resetRecord) evidence(pub *Finding, now int64) {
	l := &r.latest
	pub.State = l.before
	if r.thing.kind != SubjectSite {
		pub.Subject.Local, pub.Subject.Remote = addrString(l.e.local), addrString(l.e.remote)
	}
	ev := &pub.Evidence
	ev.BytesIn, ev.BytesOut, ev.RecvQueue, ev.SendQueue = l.in, l.out, l.unread, l.unsent
	ev.Died = Duration(max(now-l.at, 0))
	ev.note("resets so far", strconv.FormatUint(r.total, 10))
	ev.note("the last", age(time.Duration(ev.Died))+" ago")
	ev.note("state before", l.before.String())
	ev.note("bytes in", thousands(int(l.in)))
	ev.note("out", thousands(int(l.out)))
	switch r.key.kind {
	case KindResetByUsUnread:
		ev.note("unread", thousands(l.unread))
	case KindResetByUsLinger:
		ev.note("unread", thousands(l.unread))
		ev.note("not delivered", thousands(l.unsent))
	case KindResetReuseAfterFIN:
		if l.idle >= 0 {
			ev.note("idle at reuse", age(l.idle))
		}
		if l.finAge >= 0 {
			ev.note("age of the FIN", age(l.finAge))
		}
		ev.idleLimit(r.limit)
		if r.failed > 0 {
			ev.note(noteFailed, strconv.FormatUint(r.failed, 10))
		}
	default:
		if l.idle >= time.Second {
			ev.note("idle before", age(l.idle))
		}
	}
	if r.thing.kind != SubjectSite {
		ev.note("conn", strconv.FormatUint(l.e.id, 10))
	}
}

const noteFailed = "requests failed"
