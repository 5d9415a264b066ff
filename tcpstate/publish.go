package tcpstate

import (
	"cmp"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Findings returns the findings that are open, oldest first. Inventory is among
// them; what is only counted and what Config.Mute silences is not.
func (t *Tracker) Findings() []Finding {
	return t.published(func(f *finding) bool { return f.severity != Count })
}

// Counted returns events that are normal in small numbers, such as single
// resets: of each kind at one target or line the latest, with the number of the
// last ten minutes. Observers are not told of them.
func (t *Tracker) Counted() []Finding {
	return t.published(func(f *finding) bool { return f.severity == Count })
}

func (t *Tracker) published(wanted func(*finding) bool) []Finding {
	t.init()
	all := t.collect(wanted)
	proc := thisProcess()
	for i := range all {
		explain(&all[i], proc)
	}
	slices.SortFunc(all, func(a, b Finding) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// collect publishes the findings that are open and wanted, yet without words:
// those are found without the lock.
func (t *Tracker) collect(wanted func(*finding) bool) []Finding {
	j := &t.judge
	j.mu.Lock()
	defer j.mu.Unlock()
	now := t.now()
	t.refresh(now)
	t.meet(now)
	t.flush(now)
	muted := make(map[*group]bool, len(j.groups))
	for _, g := range j.groups {
		muted[g] = g.open > 0 && t.muted(g)
	}
	all := make([]Finding, 0, len(j.findings))
	for f := range j.findings {
		if !muted[f.g] && wanted(f) {
			all = append(all, t.publish(f, nil, now))
		}
	}
	return all
}

// publish makes the public form of f for one subscriber, or for nobody, but for
// the words.
func (t *Tracker) publish(f *finding, s *subscriber, now int64) Finding {
	g, info := f.g, f.kind.info()
	pub := Finding{
		ID: f.id, Kind: f.kind, Cause: f.cause, Severity: f.severity, Phase: info.Phase,
		Since: t.wall(f.since), DetectedAt: t.wall(f.openedAt), ReportedAt: t.wall(now),
		Title: info.Title, Fix: info.Fix,
		Group: Group{
			ID: g.id, Open: g.open, Opened: g.opened, Cleared: g.cleared, Since: t.wall(g.since),
			PerMinute: g.growth.perMinute(now, g.open),
		},
	}
	f.about.describe(t, f, s, now, &pub)
	return pub
}

func (e *entry) label() string { return e.name }

func (e *entry) dimension() (name string, role Role) { return e.series.name, e.role }

// describe implements subject.
func (e *entry) describe(t *Tracker, f *finding, s *subscriber, now int64, pub *Finding) {
	sus := e.sus
	if sus == nil {
		sus = new(suspicion)
	}
	pub.State = e.state
	e.mu.Lock()
	sample, sampledAt := sus.sample, sus.sampledAt
	if !sus.sampled || f.kind == KindLeakCollected {
		sample, sampledAt = e.final(), int64(e.endedAt().Sub(t.base))
		if sample.ok {
			pub.State = shownState(sus.hist, sample.state)
		}
	}
	use, open := e.oldestUseLocked(), true
	if use == nil {
		use, open = e.lastUse, false
	}
	pub.Subject = Subject{
		Type: SubjectConn, Conn: &Watch{e: e}, ID: e.id, Role: e.role, Name: e.name, Target: e.target,
		Local: addrString(e.local), Remote: addrString(e.remote), Opened: e.born, MPTCP: sample.mptcp,
	}
	ev := &pub.Evidence
	if use != nil {
		pub.Subject.Use, pub.Subject.UseOpen, pub.Subject.HTTP = use.use.String(), open, isHTTP(use.use.Method)
		if open {
			pub.Subject.UseFor = Duration(t.elapsed() - use.begun)
			e.otherUsesLocked(use, pub)
		}
		if use.done != nil {
			told := false
			select {
			case <-use.done:
				told = true
			default:
			}
			ev.ContextDone = &told
		}
		ev.Hijacked = use.hijacked
		pub.Tokens.Use = use.tokens.of(s)
	}
	pub.Tokens.Dial = e.tokens.of(s)
	ev.EOFRead = e.readErr == readEOF
	readEnd := e.readEnd
	pub.Sites = e.sitesLocked(f.kind, t.judge.hide)
	e.mu.Unlock()

	ev.ages(t, e, sus, readEnd, now)
	if h := sus.shake; h != nil {
		ev.note(noteProtocol, h.protocol)
	}
	if sample.ok {
		ev.sampled(&sample, sus.hist.fin, Duration(max(now-sampledAt, 0)))
	}
	switch f.kind {
	case KindLeakNotReturned:
		e.lent.Load().evidence(ev)
	case KindCloseWaitIdleInPool:
		ev.idleLimit(t.judge.idle.limit(e))
	}
	e.describePath(t, f, pub, now)
}

// maxOtherUses is how many uses beside the oldest are named.
const maxOtherUses = 3

// otherUsesLocked adds the uses in progress but for the oldest. The caller holds
// mu.
func (e *entry) otherUsesLocked(oldest *Usage, pub *Finding) {
	var names []string
	for u := e.uses; u != nil; u = u.next {
		pub.Subject.InUse++
		if name := u.use.String(); u != oldest && name != "" && len(names) < maxOtherUses && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		pub.Evidence.note("also in use by", strings.Join(names, ", "))
	}
}

// isHTTP reports whether method is one of HTTP (RFC 9110, section 9, and PATCH).
func isHTTP(method string) bool {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// ages sets what the tracker has seen itself.
func (ev *Evidence) ages(t *Tracker, e *entry, sus *suspicion, readEnd uint64, now int64) {
	since := func(at int64) Duration {
		if at == 0 {
			return unknownAge
		}
		return Duration(max(now-at, 0))
	}
	ev.PeerFIN, ev.Died = since(sus.finAt), since(sus.deadAt)
	ev.ReadsSeen = e.flags.Load()&flagWrapped != 0
	re := e.lastRead()
	ev.EverRead = re != 0
	if re >= markFirst {
		re = readEnd
	}
	ev.AppRead = unknownAge
	if re != 0 {
		ev.AppRead = Duration(max(now-t.epochTime(re), 0))
	}
	ev.DataIn, ev.DataOut, ev.ACK = unknownAge, unknownAge, unknownAge
}

// sampled sets what the kernel says, in a sample that is stale by now.
func (ev *Evidence) sampled(s *sample, fin bool, stale Duration) {
	ev.BytesIn, ev.BytesOut = s.bytesReceived, s.bytesSent
	if fin && !s.mptcp && ev.BytesIn > 0 {
		ev.BytesIn-- // the kernel counts the FIN
	}
	if ev.BytesIn > 0 {
		ev.DataIn = Duration(s.dataRecv) + stale
	}
	if ev.BytesOut > 0 {
		ev.DataOut = Duration(s.dataSent) + stale
	}
	ev.ACK = Duration(s.ackRecv) + stale
	ev.RecvQueue, ev.SendQueue = int(s.recvQueue), int(s.sendQueue)
	ev.Retransmits = s.totalRetrans
	ev.Unacked, ev.NotSent, ev.Timeouts, ev.Probes = s.unacked, s.notSent, s.retransmits, s.probes
	ev.SendWindow, ev.NoWindow = s.sendWindow, s.noWindow()
}

// ownerSite implements subject.
func (e *entry) ownerSite(k Kind, hide []string) sites.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.rankLocked(k, hide) {
		return s.id
	}
	return 0
}

// bornBy names the call that made the connection.
func (e *entry) bornBy() string {
	if e.role == Server {
		return "accept"
	}
	return "dial"
}

type rankedSite struct {
	role   string
	id     sites.ID
	frames []sites.Frame // of the owner, never empty
}

// rankLocked lists the places that had to do with e, the one to open first for
// this kind in front. A place in the standard library, where nothing of the
// program or of what it uses is on the stack, is listed only for want of a
// better one: net/http dials and serves on goroutines of its own. The caller
// holds mu.
func (e *entry) rankLocked(k Kind, hide []string) []rankedSite {
	born := rankedSite{role: e.bornBy(), id: e.site}
	var use, handler rankedSite
	if u := e.oldestUseLocked(); u != nil {
		use, handler = rankedSite{role: "use", id: u.site}, rankedSite{role: "handler", id: u.handler}
		if isHTTP(u.use.Method) {
			use.role = "request"
		}
	} else if u := e.lastUse; u != nil {
		use = rankedSite{role: "last use", id: u.site}
		handler = rankedSite{role: "last use", id: u.handler}
	}
	if id := e.lent.Load().site(); id != 0 && e.uses == nil {
		use = rankedSite{role: "last use", id: id}
	}
	eof, failed := rankedSite{role: "eof", id: e.eofSite}, rankedSite{role: "error", id: e.errSite}

	var order []rankedSite
	switch k {
	case KindCloseWaitEOFSeen:
		order = []rankedSite{handler, eof, use, born}
	case KindCloseWaitErrorPath:
		order = []rankedSite{failed, use, handler, born}
	case KindLeakDeadSocket:
		order = []rankedSite{use, handler, failed, eof, born}
	case KindLeakCollected, KindLeakUnusedDial, KindCloseWaitNeverRead, KindCloseWaitIdleInPool, KindIdleUnverifiable,
		KindKeepaliveOff, KindKeepaliveSlow, KindKeepaliveUserTimeout, KindKeepaliveContradictory:
		order = []rankedSite{born, use, handler}
	default:
		order = []rankedSite{use, handler, born, eof, failed}
	}
	ours, std := order[:0], []rankedSite(nil)
	for _, s := range order {
		if s.frames = s.id.Owner(hide); len(s.frames) == 0 {
			continue
		}
		if s.frames[0].IsStd() {
			std = append(std, s)
		} else {
			ours = append(ours, s)
		}
	}
	if len(ours) == 0 && len(std) > 0 {
		return std[:1]
	}
	return ours
}

// sitesLocked publishes the places. The caller holds mu.
func (e *entry) sitesLocked(k Kind, hide []string) []Site {
	var out []Site
	for _, s := range e.rankLocked(k, hide) {
		frames := publicFrames(s.frames)
		if !slices.ContainsFunc(out, func(o Site) bool { return slices.Equal(o.Frames, frames) }) {
			out = append(out, Site{Role: s.role, Frames: frames})
		}
	}
	return out
}

func publicFrames(fs []sites.Frame) []Frame {
	out := make([]Frame, 0, len(fs))
	for _, f := range fs {
		out = append(out, Frame{Function: f.Function, File: f.File, Line: f.Line, short: f.Short})
	}
	return out
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// Age returns how long the condition had lasted when the finding was reported,
// up to its end if it has ended.
func (f *Finding) Age() time.Duration {
	switch {
	case !f.ClearedAt.IsZero():
		return f.ClearedAt.Sub(f.Since)
	case !f.ReportedAt.IsZero():
		return f.ReportedAt.Sub(f.Since)
	}
	return f.DetectedAt.Sub(f.Since)
}
