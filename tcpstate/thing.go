package tcpstate

import (
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// thing is a subject that is not a connection: a dial, a target, a listener, a
// tunnel, a line of code, the process. Its fields do not change while a finding
// about it is open, but for those that facts adds.
type thing struct {
	kind   SubjectType
	role   Role
	name   string // Origin.Name
	target string
	series *series // of the name; nil: the process
	opened time.Time

	site     sites.ID // the line to open; 0: not known
	siteRole string   // as in Site.Role
	tokens   *token   // of the dial
	used     *token   // of the use

	// facts adds evidence to a finding that is published, or is nil. It is
	// called with judgement.mu held.
	facts func(pub *Finding, now int64)

	finding *finding // for settle; owned by the loop
}

// judge brings the finding about th in line with v.
func (th *thing) judge(t *Tracker, v verdict, now int64) { t.settle(th, &th.finding, v, now) }

// event reports a fact of the past about s. Nobody has to end it.
func (t *Tracker) event(s subject, v verdict, now int64) {
	if v.since == 0 {
		v.since = now
	}
	t.open(s, v, now)
}

func (th *thing) label() string { return th.name }

func (th *thing) dimension() (name string, role Role) {
	if th.series == nil {
		return "", th.role
	}
	return th.series.name, th.role
}

func (th *thing) ownerSite(_ Kind, hide []string) sites.ID {
	if th.site == 0 || len(th.site.Owner(hide)) == 0 {
		return 0
	}
	return th.site
}

func (th *thing) reported(*finding) {}

// describe implements subject.
func (th *thing) describe(t *Tracker, f *finding, s *subscriber, now int64, pub *Finding) {
	pub.Subject = Subject{
		Type: th.kind, Role: th.role, Name: th.name, Target: th.target, Opened: th.opened,
	}
	pub.Tokens.Dial, pub.Tokens.Use = th.tokens.of(s), th.used.of(s)
	pub.Evidence = unknownEvidence()
	if id := th.ownerSite(f.kind, t.judge.hide); id != 0 {
		pub.Sites = []Site{{Role: th.siteRole, Frames: publicFrames(id.Owner(t.judge.hide))}}
	}
	if th.facts != nil {
		th.facts(pub, now)
	}
}

// unknownEvidence returns evidence that says nothing.
func unknownEvidence() Evidence {
	return Evidence{
		PeerFIN: unknownAge, Died: unknownAge, AppRead: unknownAge,
		DataIn: unknownAge, DataOut: unknownAge, ACK: unknownAge,
	}
}

// idleLimit says after which idle time the peer closes, if that is known.
func (ev *Evidence) idleLimit(d time.Duration) {
	if d > 0 {
		ev.IdleLimit = Duration(d)
		ev.note(noteIdleLimit, "about "+age(d))
	}
}

const noteIdleLimit = "server closes after"

// note adds a fact to be shown.
func (ev *Evidence) note(name, value string) { ev.Notes = append(ev.Notes, Note{name, value}) }
