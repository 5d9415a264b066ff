package tcpstate

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// judgement is what the loop owns beside the entries: the findings that are
// open and their groups.
type judgement struct {
	mu sync.Mutex // guards following fields, and those of entries marked as owned by the loop

	agenda     agenda
	sampler    *sampler
	suspects   []*entry
	spare      []*entry
	spareEnds  []*entry // for Tracker.ends
	sweepStart int64
	sweepWork  time.Duration

	audits map[auditKey]*thing // nil things are in order

	pathLooksAt int64 // see mayAskSiblings
	pathLooks   int

	findings  map[*finding]struct{} // that are open
	groups    map[groupKey]*group
	news      []*group // that opened in this pass: told of at its end, with all members
	lastID    uint64   // of findings and groups
	dialing   dialingChore
	listening listeningChore
	closing   closingChore
	tunnels   tunnelTable
	process   processChore
	pooling   poolingChore
	polls     pollTable
	idle      idleTable
	churning  churnChore
	probes    pooledProbes
	paths     pathWatch

	cfg      *settings // as last acted upon
	hide     []string  // Config.HideFrames that the groups were formed by
	fallback []*subscriber
	late     *time.Timer // ends groups while the loop does not run; nil: none

	limit    int64 // epoll watches we may take; negative: not known, no limit of ours
	limitErr error
	unarmed  uint64 // connections that are left to the sweep now
	infoErr  error  // why TCP_INFO could not be read, once
	// infoShort is the length of the kernel's TCP_INFO if fields of it are missing.
	infoShort uint16

	pollerErr atomic.Pointer[error] // nil: epoll works, or has not been tried
	series    seriesTable
}

func (j *judgement) init(t *Tracker) {
	j.sampler = samplers.New().(*sampler)
	j.findings = make(map[*finding]struct{})
	j.groups = make(map[groupKey]*group)
	j.cfg = t.cfg.Load()
	j.hide = j.cfg.HideFrames
	j.limit = -1
	j.series.m = make(map[seriesKey]*series)
	j.series.names = make(map[string]struct{})
	j.fallback = []*subscriber{{t: t, o: slogObserver(t)}}
}

func (j *judgement) noInfo(err error) {
	if j.infoErr == nil {
		j.infoErr = err
	}
}

func (t *Tracker) jitter(n int64) int64 {
	if n <= 0 {
		return 0
	}
	if t.seam.clock != nil {
		return n / 2
	}
	return rand.Int64N(n)
}

// subject is what a finding is about: an entry, or a thing. Its methods are
// called with judgement.mu held.
type subject interface {
	// ownerSite returns the place that a finding of this kind is grouped by:
	// the line that has to change. It is 0 where none is known.
	ownerSite(k Kind, hide []string) sites.ID
	// label is the name as declared, dimension the bounded one and the role.
	label() string
	dimension() (name string, role Role)
	// describe adds what the public form of f shows of the subject to s.
	describe(t *Tracker, f *finding, s *subscriber, now int64, pub *Finding)
	// reported remembers that f was made.
	reported(f *finding)
}

// finding is one fault of one subject.
type finding struct {
	id       uint64
	kind     Kind
	severity Severity
	cause    string
	since    int64
	openedAt int64
	about    subject
	g        *group

	next, prev *finding // members of g that are kept, oldest first
}

// eventFor is how long a group of events stays open after its last member: a
// connection that was dropped is closed soon, the bug is not.
const eventFor = int64(10 * time.Minute)

// maxEvents bounds the events of one group that Findings shows; the others are
// counted.
const maxEvents = 64

// settle brings the open finding about s, at most one, in line with the verdict
// on s.
func (t *Tracker) settle(s subject, open **finding, v verdict, now int64) {
	f := *open
	switch {
	case v.kind == "" && f == nil:
	case v.kind == "":
		*open = nil
		t.clear(f, now)
	case f == nil:
		*open = t.open(s, v, now)
	case f.kind != v.kind || f.severity != v.weight():
		t.change(f, v, now)
	default:
		f.cause = v.cause
	}
}

// open opens a finding. Of an event, which has no end of its own, the caller
// forgets the result.
func (t *Tracker) open(s subject, v verdict, now int64) *finding {
	j := &t.judge
	j.lastID++
	f := &finding{id: j.lastID, kind: v.kind, severity: v.weight(), cause: v.cause, since: v.since, openedAt: now, about: s}
	t.join(f, f.id, "", now)
	s.reported(f)
	t.count.findings[f.severity].Add(1)
	if t.muted(f.g) {
		t.count.muted.Add(1)
	}
	return f
}

// clear ends f.
func (t *Tracker) clear(f *finding, now int64) {
	delete(t.judge.findings, f)
	t.leave(f, "", now)
}

// change turns f into another kind. Identity and age stay.
func (t *Tracker) change(f *finding, v verdict, now int64) {
	was, g := f.kind, f.g
	t.leave(f, v.kind, now)
	f.kind, f.severity, f.cause = v.kind, v.weight(), v.cause
	if v.since != 0 {
		f.since = min(f.since, v.since)
	}
	id := g.id // one fault, one number, as long as nobody else has it
	if g.open > 0 {
		t.judge.lastID++
		id = t.judge.lastID
	}
	t.join(f, id, was, now)
	f.about.reported(f)
}

// reported remembers, for the end of the connection, what was found.
func (e *entry) reported(f *finding) {
	if e.sus == nil {
		e.sus = new(suspicion)
	}
	if !slices.Contains(e.sus.kinds, f.kind) {
		e.sus.kinds = append(e.sus.kinds, f.kind)
	}
	if f.g.site != 0 {
		e.sus.site = f.g.site
	}
}

// account takes leave of a connection that has ended.
func (t *Tracker) account(e *entry, now int64) {
	e.series.states[e.state].Add(-1)
	e.notSilent()
	e.mu.Lock()
	leaked, forgotten := e.leaked, e.forgotten
	dropped := leaked
	if x := e.expect.Load(); x != nil && x.ignores(KindLeakCollected) {
		leaked = false
	}
	e.mu.Unlock()
	leaked = leaked && t.cfg.Load().Thresholds.Collected >= 0

	var f *finding
	if e.sus != nil && e.sus.finding != nil {
		f = e.sus.finding
		e.sus.finding = nil
	}
	v := verdict{kind: KindLeakCollected, since: now}
	switch {
	case leaked && f != nil:
		// One bug: what was seen while it was open, and now its cause.
		t.change(f, v, now)
	case leaked:
		t.open(e, v, now)
	case f != nil:
		t.clear(f, now)
	}
	e.series.record(e)
	if !forgotten {
		if !dropped {
			if r, ok := e.reset(e.sus); ok {
				t.judge.closing.resets.add(t, r, now)
			}
		}
		t.tellClosed(e)
	}
}

// reconfigured brings groups in line with a configuration that has changed.
func (t *Tracker) reconfigured(now int64) {
	j := &t.judge
	cfg := t.cfg.Load()
	if j.cfg == cfg {
		return
	}
	j.cfg = cfg
	if cfg.Off {
		for f := range j.findings {
			if th, ok := f.about.(*thing); ok && th.finding == f {
				th.judge(t, verdict{}, now)
			}
		}
		for _, g := range j.groups {
			if g.key.kind.info().Event {
				t.expire(g, now) // the others end with their connections
			}
		}
	}
	if !slices.Equal(j.hide, cfg.HideFrames) {
		t.regroup(cfg.HideFrames, now)
	}
	t.replan(now) // what was muted may no longer be
}

// replan makes sure that what is to be told is told, and what has to end ends.
func (t *Tracker) replan(now int64) {
	for _, g := range t.judge.groups {
		if g.open > 0 && (g.expires != 0 || t.anyBehind(g)) {
			t.remindSoon(g, now)
		}
	}
}

// begin prepares for a run of the loop. Reminders are still to be made from the
// one before.
func (t *Tracker) begin() {
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	now := t.now()
	j.agenda = agenda{}
	t.replan(now)
}

// rest arranges for what is due while the loop does not run: the end of groups
// of events. A timer is no goroutine that a leak detector would
// find. The caller holds judge.mu.
func (t *Tracker) rest(now int64) {
	j := &t.judge
	var next int64
	for _, g := range j.groups {
		if g.expires != 0 && (next == 0 || g.expires < next) {
			next = g.expires
		}
	}
	if next == 0 || t.seam.clock != nil {
		return
	}
	if j.late != nil {
		j.late.Stop()
	}
	j.late = time.AfterFunc(time.Duration(max(next-now, 0)), t.catchUp)
}

// catchUp does what is due while the loop does not run.
func (t *Tracker) catchUp() {
	t.judge.mu.Lock()
	defer t.judge.mu.Unlock()
	now := t.now()
	t.refresh(now)
	t.flush(now)
	t.rest(now)
}

// refresh ends the groups that have expired and follows the configuration, for
// those who look on while the loop may not run.
func (t *Tracker) refresh(now int64) {
	t.reconfigured(now)
	for _, g := range t.judge.groups {
		if g.expires != 0 && now >= g.expires {
			t.expire(g, now)
		}
	}
}

// forgetFindings drops everything when the tracker is closed.
func (t *Tracker) forgetFindings() {
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	clear(j.findings)
	clear(j.groups)
	j.news, j.suspects, j.spare, j.spareEnds, j.unarmed = nil, nil, nil, nil, 0
	j.closing.hangUp()
	j.closing = closingChore{}
	j.idle = nil
	t.count.lingering.Store(0)
	j.tunnels.forget()
	j.polls.forget()
	if j.late != nil {
		j.late.Stop()
	}
	for i := range t.count.openFindings {
		t.count.openFindings[i].Store(0)
	}
}
