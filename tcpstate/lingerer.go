package tcpstate

import (
	"slices"
	"strconv"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

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

func (l *lingerer) reported(*finding) {}

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
