package tcpstate

import (
	"cmp"
	"errors"
	"iter"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// This file follows sockets after Close. The kernel goes on with the connection
// on its own then, and no descriptor shows it: only a lookup by its addresses.
// Most sockets are through with their peer within a round trip, so the question
// is put a second later, and first to all of them at once.

const (
	// maxClosing bounds the closed connections that wait to be looked up, and
	// those that were found to wait for their peer.
	maxClosing = 4096
	// wakeClosing is how many closes come together before the loop is woken.
	wakeClosing = maxClosing / 4
	// ripeAge is how long a closed socket has to be through with its peer.
	ripeAge = int64(500 * time.Millisecond)
	// closingBudget bounds the lookups of one tick, and closingPause separates
	// ticks while lookups are left over: that is half a percent of a core.
	closingBudget = time.Millisecond
	closingPause  = 250 * time.Millisecond
	// closingBatch is how many sockets one call asks for.
	closingBatch = 64
	// reportedInterval is how often a socket is looked at that was reported.
	reportedInterval = 5 * time.Second
	// maxUnanswered lookups in a row give up a socket.
	maxUnanswered = 10
	// diagRetry is how long lookups that failed are not tried again.
	diagRetry = time.Minute
)

// departed is a connection that was closed and whose socket may wait for the
// peer.
type departed struct {
	e      *entry
	at     int64
	closer sites.ID // the call of Close, where data was left to send; else 0
	first  bool     // the peer had not closed before
}

// departure returns e, which has ended, as departed. It reports false when
// there is nothing to follow: the connection goes on, or its socket is gone.
// The caller is the one that has just ended e, or the loop before release.
func (e *entry) departure() (d departed, ok bool) {
	if e.leaked || e.forgotten || e.end == nil {
		return d, false
	}
	s := &e.end.sample
	if s.ok && s.state == Closed || e.discards() {
		return d, false
	}
	return departed{
		e: e, at: int64(e.end.at.Sub(e.t.base)), closer: e.end.closer,
		first: s.state == Established || s.state == FinWait1 || s.state == FinWait2,
	}, true
}

// discards reports whether the Close of e sent an RST in place of a FIN: the
// kernel does when something was left unread, and when SO_LINGER asks for it
// (net/ipv4/tcp.c, __tcp_close). The caller is that of departure.
func (e *entry) discards() bool {
	s := &e.end.sample
	fl := e.flags.Load()
	return s.ok && s.state != Closed && fl&flagFile == 0 && (s.recvQueue > 0 || fl&flagLingerZero != 0)
}

// departLocked hands d to the loop. The caller holds mu.
func (t *Tracker) departLocked(d departed) {
	switch n := len(t.closes); {
	case d.at < t.blindUntil.Load():
	case n >= maxClosing:
		t.count.unfollowed.Add(1)
	default:
		t.closes = append(t.closes, d)
		if (n+1)%wakeClosing == 0 {
			t.kickLocked(0)
		}
	}
}

// resetLocked hands r to the loop. The caller holds mu.
func (t *Tracker) resetLocked(r reset) {
	n := len(t.resets)
	if n >= maxClosing {
		t.count.unfollowed.Add(1)
		return
	}
	t.resets = append(t.resets, r)
	if (n+1)%wakeClosing == 0 {
		t.kickLocked(0)
	}
}

// closingChore follows the sockets of closed connections. Owned by the loop.
type closingChore struct {
	at      int64      // of the next run; 0: none
	waiting []departed // to be looked up, in order of Close
	open    []*lingerer
	halves  halfOpenPolls
	resets  resetTable
	pinned  bool

	spareCloses []departed // for Tracker.closes
	spareResets []reset    // for Tracker.resets

	diag     diagnoser // nil while there is nothing to ask
	diagErr  error     // why sockets cannot be looked up
	statErr  error     // why sockstat could not be read
	lookedAt int64

	tuples  []sockdiag.Tuple
	results []sockdiag.Result
}

// diagnoser looks up sockets; see package internal/sockdiag.
type diagnoser interface {
	Lookup(dst []sockdiag.Result, tuples []sockdiag.Tuple) ([]sockdiag.Result, error)
	LookupInfo(dst []sockdiag.Result, info []byte, tuples []sockdiag.Tuple) ([]sockdiag.Result, []byte, error)
	Close() error
}

func (c *closingChore) next() int64 { return c.at }

// wake plans a run for at, if none comes before.
func (c *closingChore) wake(at int64) {
	if c.at == 0 || at < c.at {
		c.at = at
	}
}

// take takes over what was closed since the last pass.
func (c *closingChore) take(t *Tracker, now int64) {
	t.mu.Lock()
	closes, resets, idle := t.closes, t.resets, t.live == 0
	t.closes, t.resets = c.spareCloses, c.spareResets
	t.mu.Unlock()
	for _, d := range closes {
		c.add(t, d)
	}
	for _, r := range resets {
		c.resets.add(t, r, now)
	}
	c.spareCloses, c.spareResets = emptied(closes), emptied(resets)
	c.arrange(idle, now)
}

// emptied returns s for another time, or nil if it has become large.
func emptied[T any](s []T) []T {
	if cap(s) > 2*wakeClosing {
		return nil
	}
	clear(s)
	return s[:0]
}

func (c *closingChore) add(t *Tracker, d departed) {
	switch n := len(c.waiting); {
	case d.at < t.blindUntil.Load():
		return
	case n < maxClosing:
		c.waiting = append(c.waiting, d)
	case d.closer != 0:
		c.waiting[rand.IntN(n)] = d
		fallthrough
	default:
		t.count.unfollowed.Add(1)
	}
}

// arrange plans a run for those that wait. When the tracker is idle, the loop
// is to end soon.
func (c *closingChore) arrange(idle bool, now int64) {
	if c.resets.due != 0 {
		c.wake(c.resets.due)
		if idle {
			c.wake(now)
		}
	}
	switch n := len(c.waiting); {
	case n == 0:
	case n >= maxClosing/2:
		c.wake(now)
	case idle:
		c.wake(max(c.waiting[0].at+int64(lastDelay), now))
	default:
		c.wake(max(c.waiting[0].at+int64(youngDelay), now))
	}
}

func (c *closingChore) run(t *Tracker, now int64) {
	c.at = 0
	if t.cfg.Load().Off {
		c.forget(t, now)
		return
	}
	if len(c.waiting)+len(c.open) > 0 && !c.anyOrphan(t) {
		for _, d := range c.waiting {
			c.halves.consider(d)
		}
		clear(c.waiting)
		c.waiting = c.waiting[:0]
		for _, l := range c.open {
			l.ended(t, now)
		}
		c.open = nil
	}
	if r := &c.resets; r.due != 0 && (now >= r.due || t.idle()) {
		r.judge(t, now)
	}
	c.halves.choose(now)
	if len(c.waiting)+len(c.open)+len(c.halves.polls) > 0 {
		if wait := c.lookedAt + int64(closingPause) - now; c.lookedAt == 0 || wait <= 0 {
			c.lookUp(t, now)
		} else {
			c.wake(now + wait)
		}
	}
	c.halves.judge(t, now)
	c.plan(t, now)
}

// anyOrphan reports whether anybody's closed socket waits for its peer, on the
// whole machine: a question of some microseconds, often with the answer no.
func (c *closingChore) anyOrphan(t *Tracker) bool {
	n, err := t.seam.orphans()
	c.statErr = err
	return err != nil || n > 0
}

// lookUp asks for the sockets that are due, for about a tick's budget: those
// that were found before, then the new ones, then the polls.
func (c *closingChore) lookUp(t *Tracker, now int64) {
	if c.diag == nil {
		d, err := t.seam.diag()
		if err != nil {
			c.fail(t, err, now)
			return
		}
		c.diag, c.diagErr = d, nil
	}
	c.lookedAt = now
	q := questions{c: c, start: time.Now()}

	var due, later []*lingerer
	for _, l := range c.open {
		if l.next <= now {
			due = append(due, l)
		} else {
			later = append(later, l)
		}
	}
	left := ask(&q, due, func(l *lingerer) *entry { return l.e }, func(l *lingerer, r *sockdiag.Result) {
		if l.seen(t, r, now) {
			later = append(later, l)
		} else if halfOpen(r) {
			c.halves.consider(departed{e: l.e, at: l.closedAt, first: true})
		}
	})
	c.open = append(left, later...) // those that were not reached come first next time

	ripe := len(c.waiting)
	if !t.idle() {
		for ripe = 0; ripe < len(c.waiting) && now-c.waiting[ripe].at >= ripeAge; {
			ripe++
		}
	}
	notReached := ask(&q, c.waiting[:ripe], func(d departed) *entry { return d.e }, func(d departed, r *sockdiag.Result) {
		switch {
		case r.Status == sockdiag.Unknown, waitsForPeer(r) && len(c.open) >= maxClosing:
			t.count.unfollowed.Add(1)
		case waitsForPeer(r):
			l := &lingerer{e: d.e, closedAt: d.at, closer: d.closer, cookie: r.Socket.Cookie}
			if l.seen(t, r, now) {
				c.open = append(c.open, l)
			}
		default:
			c.halves.consider(d)
		}
	})
	c.waiting = slices.Delete(c.waiting, 0, ripe-len(notReached))
	c.halves.ask(&q, now)
	if q.err != nil {
		c.fail(t, q.err, now)
	}
}

// questions is what the lookups of one tick share.
type questions struct {
	c     *closingChore
	start time.Time
	err   error // nothing is answered
}

func (q *questions) spent() bool { return q.err != nil || time.Since(q.start) > closingBudget }

// ask looks up the sockets of all while there is time, hands each its answer,
// and returns those that were not reached.
func ask[T any](q *questions, all []T, of func(T) *entry, seen func(T, *sockdiag.Result)) (left []T) {
	c := q.c
	for len(all) > 0 && !q.spent() {
		n := min(len(all), closingBatch)
		c.tuples = c.tuples[:0]
		for _, v := range all[:n] {
			c.tuples = append(c.tuples, of(v).tuple())
		}
		var err error
		c.results, err = c.diag.Lookup(c.results[:0], c.tuples)
		answered := false
		for i := range c.results {
			answered = answered || c.results[i].Status != sockdiag.Unknown
			seen(all[i], &c.results[i])
		}
		if err != nil && !answered {
			q.err = err
		}
		all = all[n:]
	}
	return all
}

func (e *entry) tuple() sockdiag.Tuple {
	return sockdiag.Tuple{Local: plainAddr(e.local), Remote: plainAddr(e.remote)}
}

func plainAddr(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// waitsForPeer reports whether a socket that no descriptor shows waits for the
// acknowledgement of our FIN.
func waitsForPeer(r *sockdiag.Result) bool {
	if r.Status != sockdiag.Found || r.Socket.Inode != 0 {
		return false
	}
	switch State(r.Socket.State) {
	case FinWait1, Closing, LastAck:
		return true
	}
	return false
}

// plan decides when to run next, and whether the loop has to stay for it.
func (c *closingChore) plan(t *Tracker, now int64) {
	if len(c.waiting) > 0 {
		c.arrange(t.idle(), now+int64(closingPause))
	}
	for _, l := range c.open {
		c.wake(max(l.next, now+int64(closingPause)))
	}
	if at := c.halves.next(); at != 0 {
		c.wake(max(at, now+int64(closingPause)))
	}
	if c.resets.due != 0 {
		c.wake(c.resets.due)
	}
	t.count.lingering.Store(int64(len(c.open)))
	if pin := len(c.open) > 0; pin != c.pinned {
		c.pinned = pin
		if pin {
			t.pin(+1)
		} else {
			t.pin(-1)
		}
	}
	if len(c.waiting)+len(c.open)+len(c.halves.polls) == 0 {
		c.hangUp()
	}
}

// idle reports whether no connection is tracked.
func (t *Tracker) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live == 0
}

// fail gives up following for a while, because of err.
func (c *closingChore) fail(t *Tracker, err error, now int64) {
	c.diagErr = err
	until := now + int64(diagRetry)
	if errors.Is(err, errors.ErrUnsupported) {
		until = math.MaxInt64
	}
	t.blindUntil.Store(until)
	c.forget(t, now)
}

// forget drops everything that is followed.
func (c *closingChore) forget(t *Tracker, now int64) {
	t.count.unfollowed.Add(uint64(len(c.open) + len(c.waiting)))
	for _, l := range c.open {
		l.ended(t, now)
	}
	c.waiting, c.open = nil, nil
	c.halves.forget(t, now)
	c.plan(t, now)
}

// rest gives back what is not needed while the loop does not run.
func (c *closingChore) rest(t *Tracker, now int64) {
	c.halves.forget(t, now)
	c.resets.judge(t, now)
	c.hangUp()
	c.waiting, c.spareCloses, c.spareResets, c.tuples, c.results, c.lookedAt, c.at = nil, nil, nil, nil, nil, 0, 0
}

func (c *closingChore) hangUp() {
	if c.diag != nil {
		_ = c.diag.Close()
		c.diag = nil
	}
}

// unable returns why sockets cannot be looked up, or nil.
func (c *closingChore) unable(t *Tracker) error {
	if c.diagErr != nil || c.diag != nil {
		return c.diagErr
	}
	d, err := t.seam.diag()
	if err == nil {
		_ = d.Close()
	}
	return err
}

// facilities says what following rests on. noDiag is the answer of unable.
func (c *closingChore) facilities(t *Tracker, noDiag error) []Facility {
	follows := []Kind{KindClosingFINUnacked, KindClosingDataUndelivered, KindPeerKeepsHalfOpen}
	diag := Facility{Name: "sock_diag", OK: true, Detail: "sockets are looked up after Close"}
	if noDiag != nil {
		diag.OK, diag.Kinds = false, follows
		diag.Detail = "closed sockets cannot be looked up: " + noDiag.Error() + "; what becomes of a connection after Close is not seen"
	}
	stat := Facility{Name: "sockstat", OK: true, Detail: "closed sockets are looked up only while some wait for their peer"}
	err := c.statErr
	if err == nil {
		_, err = t.seam.orphans()
	}
	if err != nil {
		stat.OK, stat.Kinds = false, follows[:2]
		stat.Detail = "the number of orphans could not be read: " + err.Error() + "; every closed socket is looked up, and of too many some are not"
	}
	return []Facility{diag, stat}
}

// lingerer is a closed connection whose socket waits for the peer. It is a
// subject, in place of its entry.
type lingerer struct {
	e        *entry
	closedAt int64
	closer   sites.ID
	cookie   uint64

	state      State
	timer      sockdiag.Timer
	retrans    uint8
	sendQueue  uint32 // our FIN counts as one byte
	progressAt int64
	seenAt     int64
	next       int64
	unanswered int
	sample     sample // of when the finding was opened
	sampledAt  int64
	finding    *finding
}

// seen takes in what a lookup said. It reports false when the socket waits no
// longer, or cannot be followed.
func (l *lingerer) seen(t *Tracker, r *sockdiag.Result, now int64) bool {
	s := &r.Socket
	switch {
	case r.Status == sockdiag.Unknown && l.unanswered < maxUnanswered:
		l.unanswered++
		l.next = now + int64(suspectInterval)
		return true
	case !waitsForPeer(r), s.Cookie != l.cookie:
		l.ended(t, now)
		return false
	}
	if l.seenAt != 0 && s.SendQueue < l.sendQueue {
		l.progressAt = now
	}
	l.unanswered, l.seenAt = 0, now
	l.state, l.timer, l.retrans, l.sendQueue = State(s.State), s.Timer, s.Retrans, s.SendQueue
	l.next = now + int64(suspectInterval)
	v := l.verdict(&t.cfg.Load().limits, now)
	if x := l.e.expect.Load(); v.kind != "" && x != nil && x.ignores(v.kind) {
		v = verdict{}
	}
	if v.kind != "" {
		l.next = now + int64(reportedInterval)
		if l.finding == nil {
			l.ask(t, now)
		}
	}
	t.settle(l, &l.finding, v, now)
	return true
}

// ended ends the finding about a socket that is gone, or followed no longer.
func (l *lingerer) ended(t *Tracker, now int64) { t.settle(l, &l.finding, verdict{}, now) }

// minFINRetries is how often the kernel must have sent our FIN again: fewer
// losses happen on every path.
const minFINRetries = 3

// verdict judges. It is pure.
func (l *lingerer) verdict(limits *Thresholds, now int64) verdict {
	since := max(l.closedAt, l.progressAt)
	v := verdict{since: since, severity: l.weight()}
	switch {
	case l.timer == sockdiag.ZeroWindow && l.sendQueue > 1:
		v.kind = KindClosingDataUndelivered
		if limits.Undelivered == off || now-since < int64(limits.Undelivered) {
			return verdict{}
		}
	case l.timer == sockdiag.Retransmit && l.retrans >= minFINRetries:
		v.kind = KindClosingFINUnacked
		if limits.FINUnacked == off || now-since < int64(limits.FINUnacked) {
			return verdict{}
		}
	default:
		// Between two timers. What is open stays open.
		if f := l.finding; f != nil && l.progressAt <= f.since {
			return verdict{kind: f.kind, severity: f.severity, cause: f.cause, since: f.since}
		}
		return verdict{}
	}
	return v
}

// weight is the severity for this peer: clients from the internet vanish every
// day, without anything to be done about it here.
func (l *lingerer) weight() Severity {
	a := plainAddr(l.e.remote).Addr()
	if l.e.role == Server && !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
		return Inventory
	}
	return 0
}

// ask reads TCP_INFO once, for the evidence.
func (l *lingerer) ask(t *Tracker, now int64) {
	c := &t.judge.closing
	if c.diag == nil {
		return
	}
	rs, _, _ := c.diag.LookupInfo(nil, nil, []sockdiag.Tuple{l.e.tuple()})
	if len(rs) == 1 && rs[0].Status == sockdiag.Found && rs[0].Socket.Cookie == l.cookie {
		l.sample.parse(rs[0].Socket.Info)
		l.sampledAt = now
	}
}

func (l *lingerer) label() string { return l.e.name }

func (l *lingerer) dimension() (name string, role Role) { return l.e.dimension() }

func (l *lingerer) reported(Kind) {}

// ownerSite implements subject: data is lost by the line that closes, a FIN by
// the path.
func (l *lingerer) ownerSite(k Kind, hide []string) sites.ID {
	if k == KindClosingDataUndelivered && ownLine(l.closer, hide) {
		return l.closer
	}
	return l.e.ownerSite(k, hide)
}

// ownLine reports whether a line of the program, or of what it uses, is on the
// stack.
func ownLine(id sites.ID, hide []string) bool {
	frames := id.Owner(hide)
	return len(frames) > 0 && !frames[0].IsStd()
}

// describe implements subject.
func (l *lingerer) describe(t *Tracker, f *finding, s *subscriber, now int64, pub *Finding) {
	l.e.describe(t, f, s, now, pub)
	pub.State = l.state
	ev := &pub.Evidence
	if l.sample.ok {
		ev.sampled(&l.sample, l.state != FinWait1, Duration(max(now-l.sampledAt, 0)))
	}
	ev.RecvQueue, ev.SendQueue, ev.Timeouts, ev.Probes = 0, int(l.sendQueue), 0, 0
	ev.note("closed", age(time.Duration(now-l.closedAt))+" ago")
	if l.timer == sockdiag.ZeroWindow {
		ev.Probes = l.retrans
		ev.note("timer", "window probe")
		ev.note("unanswered probes", strconv.Itoa(int(l.retrans)))
	} else {
		ev.Timeouts = l.retrans
		ev.note("timer", "retransmission")
		ev.note("retransmissions", strconv.Itoa(int(l.retrans)))
	}
	if hide := t.judge.hide; ownLine(l.closer, hide) {
		site := Site{Role: "close", Frames: publicFrames(l.closer.Owner(hide))}
		if f.kind == KindClosingDataUndelivered {
			pub.Sites = slices.Insert(pub.Sites, 0, site)
		} else {
			pub.Sites = append(pub.Sites, site)
		}
	}
}

// ClosingSnapshot is one socket that this program has closed and that still
// waits for the peer's acknowledgement, as it was when it was last looked up.
type ClosingSnapshot struct {
	ID            uint64 // of the connection
	Role          Role
	Name, Target  string
	Local, Remote net.Addr
	State         State     // FinWait1, Closing or LastAck
	Closed        time.Time // when Close was called
	Looked        time.Time // at most some seconds ago
	SendQueue     int       // bytes not acknowledged; our FIN counts as one, as in ss
	Retries       int       // retransmissions, or window probes, without an answer
	NoWindow      bool      // the peer does not read: Retries are window probes
	Site          Site      // the call of Close where data was left to send, else as in Snapshot
	Finding       Kind      // open now; empty: none
}

// Closing returns the sockets of closed connections that wait for their peer in
// FIN-WAIT-1, CLOSING or LAST-ACK, oldest connection first. No descriptor shows
// them. They appear a second after Close, at most 4,096 of them, on Linux only.
// Sockets in FIN-WAIT-2 and TIME-WAIT are not among them: the kernel ends those
// by itself within a minute.
func (t *Tracker) Closing() iter.Seq[ClosingSnapshot] {
	return func(yield func(ClosingSnapshot) bool) {
		t.init()
		for _, s := range t.closingNow() {
			if !yield(s) {
				return
			}
		}
	}
}

func (t *Tracker) closingNow() []ClosingSnapshot {
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make([]ClosingSnapshot, 0, len(j.closing.open))
	for _, l := range j.closing.open {
		s := ClosingSnapshot{
			ID: l.e.id, Role: l.e.role, Name: l.e.name, Local: l.e.local, Remote: l.e.remote,
			State: l.state, Closed: t.wall(l.closedAt), Looked: t.wall(l.seenAt),
			SendQueue: int(l.sendQueue), Retries: int(l.retrans), NoWindow: l.timer == sockdiag.ZeroWindow,
			Site: Site{Role: l.e.bornBy()},
		}
		l.e.mu.Lock()
		s.Target = l.e.target
		if places := l.e.sitesLocked(KindLeakCollected, j.hide); len(places) > 0 {
			s.Site = places[0]
		}
		l.e.mu.Unlock()
		if ownLine(l.closer, j.hide) {
			s.Site = Site{Role: "close", Frames: publicFrames(l.closer.Owner(j.hide))}
		}
		if l.finding != nil {
			s.Finding = l.finding.kind
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b ClosingSnapshot) int { return cmp.Compare(a.ID, b.ID) })
	return all
}
