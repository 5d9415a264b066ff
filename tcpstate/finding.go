package tcpstate

import (
	"encoding/json"
	"net"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Finding is one fault of one connection, as it was when it was reported. Its
// JSON form is stable: fields are added, never renamed.
type Finding struct {
	ID       uint64   `json:"id"`
	Kind     Kind     `json:"kind"`
	Cause    string   `json:"cause,omitempty"` // more exactly: "reset", "timeout"; may be empty
	Severity Severity `json:"severity"`
	Phase    Phase    `json:"phase"`
	State    State    `json:"state"`
	// Since is when the condition began: the peer's FIN, the death of the
	// socket. It stays when the kind changes.
	Since      time.Time `json:"since"`
	DetectedAt time.Time `json:"detected_at"`

	Subject Subject `json:"subject"`
	Sites   []Site  `json:"sites,omitempty"` // the line to open first
	Group   Group   `json:"group"`

	Title       string   `json:"title"`                 // the verdict in plain words
	Summary     string   `json:"summary"`               // what was seen, with numbers
	Consequence string   `json:"consequence,omitempty"` // what happens if nobody acts
	Evidence    Evidence `json:"evidence"`
	Fix         string   `json:"fix"`
	Check       []string `json:"check,omitempty"` // commands; not for spans and logs

	Was       Kind      `json:"was,omitempty"`    // in Changed: the kind it had
	Became    Kind      `json:"became,omitempty"` // in Cleared: the kind that its last member got
	ClearedAt time.Time `json:"cleared_at,omitzero"`

	Tokens Tokens `json:"-"`
}

// Tokens are what the observer that receives the finding took from the
// contexts concerned, by its Observer.Token or DialDone; nil where it took
// nothing.
type Tokens struct {
	Dial any
	Use  any // of the use in progress, or the last one
}

// Subject is the connection a finding is about.
type Subject struct {
	Conn    *Watch    `json:"-"`
	ID      uint64    `json:"id"`
	Role    Role      `json:"role"`
	Name    string    `json:"name,omitempty"`
	Target  string    `json:"target,omitempty"` // as dialed or listened on
	Local   string    `json:"local"`
	Remote  string    `json:"remote"`
	Opened  time.Time `json:"opened"`
	MPTCP   bool      `json:"mptcp,omitempty"`
	Use     string    `json:"use,omitempty"` // of the use in progress, or the last one
	UseOpen bool      `json:"use_open,omitempty"`
	UseFor  Duration  `json:"use_for,omitempty"` // age of the use in progress
}

// Site is a place in the code that had to do with the connection.
type Site struct {
	// Role is dial, accept, request, handler, eof or error.
	Role   string  `json:"role"`
	Frames []Frame `json:"frames"` // at most three, the owner's first
}

// Frame is one call.
type Frame struct {
	Function string `json:"function"` // as the runtime names it
	File     string `json:"file"`     // relative to its module
	Line     int    `json:"line"`
	short    string
}

// Group says how many findings share the kind and the line.
type Group struct {
	ID      uint64    `json:"id"`
	Open    int       `json:"open"`   // now
	Opened  uint64    `json:"opened"` // ever
	Cleared uint64    `json:"cleared"`
	Since   time.Time `json:"since"`
	// PerMinute is how fast the group grows: those opened per minute since the
	// first one, 0 in the first minute.
	PerMinute float64 `json:"per_minute,omitempty"`
	// NewlyOpened and NewlyCleared count since the last event about the group,
	// for counters.
	NewlyOpened  uint64 `json:"newly_opened"`
	NewlyCleared uint64 `json:"newly_cleared"`
}

// Evidence is what the verdict rests on. An age that is not known is negative.
type Evidence struct {
	PeerFIN     Duration `json:"peer_fin"` // since the peer's FIN was noticed
	Died        Duration `json:"died"`     // since the kernel ended the connection
	AppRead     Duration `json:"app_read"` // since the application last read; at most a sweep too long
	DataIn      Duration `json:"data_in"`  // since bytes came
	DataOut     Duration `json:"data_out"` // since bytes were sent
	ACK         Duration `json:"ack"`      // since the peer acknowledged anything
	RecvQueue   int      `json:"recv_queue"`
	SendQueue   int      `json:"send_queue"`
	BytesIn     uint64   `json:"bytes_in"`
	BytesOut    uint64   `json:"bytes_out"`
	EOFRead     bool     `json:"eof_read"`
	EverRead    bool     `json:"ever_read"`
	ReadsSeen   bool     `json:"reads_seen"` // false without the wrapper: EOFRead, EverRead and AppRead say nothing
	Retransmits uint32   `json:"retransmits"`
	ContextDone *bool    `json:"context_done,omitempty"` // of the handler that runs
	Hijacked    bool     `json:"hijacked,omitempty"`
}

// Duration is a time.Duration that JSON shows in seconds.
type Duration time.Duration

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).Seconds())
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s float64
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*d = Duration(s * float64(time.Second))
	return nil
}

// String returns d rounded for reading: "30s", "2m10s".
func (d Duration) String() string { return age(time.Duration(d)) }

const unknownAge = Duration(-1)

// Findings returns the findings that are open, oldest first. Inventory is among
// them.
func (t *Tracker) Findings() []Finding {
	t.init()
	t.judge.mu.Lock()
	defer t.judge.mu.Unlock()
	now := t.now()
	t.meet(now, t.epoch.Load())
	all := make([]Finding, 0, len(t.judge.findings))
	for _, f := range t.judge.findings {
		all = append(all, t.publish(f, nil, now))
	}
	slices.SortFunc(all, func(a, b Finding) int { return int(a.ID) - int(b.ID) })
	return all
}

// publish makes the public form of f for one subscriber, or for nobody.
func (t *Tracker) publish(f *finding, s *subscriber, now int64) Finding {
	e, g, info := f.e, f.g, f.kind.Info()
	sus := e.sus
	if sus == nil {
		sus = new(suspicion)
	}
	pub := Finding{
		ID: f.id, Kind: f.kind, Cause: f.cause, Severity: info.Severity, Phase: info.Phase,
		State: e.state, Since: t.wall(f.since), DetectedAt: t.wall(f.openedAt),
		Title: info.Title, Fix: info.Fix,
		Group: Group{
			ID: g.id, Open: g.open, Opened: g.opened, Cleared: g.cleared, Since: t.wall(g.since),
			NewlyOpened: g.opened - g.toldOpened, NewlyCleared: g.cleared - g.toldCleared,
		},
	}
	if d := time.Duration(now - g.openedAt); d >= time.Minute && g.opened > 1 {
		pub.Group.PerMinute = float64(g.opened-1) / d.Minutes()
	}

	e.mu.Lock()
	sample := sus.sample
	if !sus.sampled || f.kind == KindLeakCollected {
		sample = e.final
	}
	use, open := e.oldestUseLocked(), true
	if use == nil {
		use, open = e.lastUse, false
	}
	pub.Subject = Subject{
		Conn: &Watch{e: e}, ID: e.id, Role: e.role, Name: e.name, Target: e.target,
		Local: addrString(e.local), Remote: addrString(e.remote), Opened: e.born, MPTCP: sample.mptcp,
	}
	ev := &pub.Evidence
	if use != nil {
		pub.Subject.Use, pub.Subject.UseOpen = use.use.String(), open
		if open {
			pub.Subject.UseFor = Duration(t.seam.now().Sub(use.begun))
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
	pub.Sites = e.sitesLocked(f.kind, use, t.cfg.Load().HideFrames)
	e.mu.Unlock()

	ev.fill(t, e, sus, &sample, now)
	explain(&pub, t)
	return pub
}

// fill sets what the loop knows. Ages that the kernel gave are as old as the
// sample.
func (ev *Evidence) fill(t *Tracker, e *entry, sus *suspicion, s *sample, now int64) {
	since := func(at int64) Duration {
		if at == 0 {
			return unknownAge
		}
		return Duration(now - at)
	}
	ev.PeerFIN, ev.Died = since(sus.finAt), since(sus.deadAt)
	ev.ReadsSeen = e.flags.Load()&flagWrapped != 0
	re := e.readEpoch.Load()
	ev.EverRead = re != 0
	ev.AppRead = unknownAge
	switch {
	case re >= markFirst:
		if sus.progressAt != 0 {
			ev.AppRead = since(sus.progressAt)
		} else if sus.finAt != 0 {
			ev.AppRead = since(sus.finAt)
		}
	case re != 0:
		ev.AppRead = Duration(max(now-t.epochTime(re), 0))
	}
	ev.DataIn, ev.DataOut, ev.ACK = unknownAge, unknownAge, unknownAge
	if !s.ok {
		return
	}
	stale := Duration(0)
	if sus.sampled {
		stale = Duration(max(now-e.sampledAt, 0))
	}
	if s.bytesReceived > 0 {
		ev.DataIn = Duration(s.dataRecv) + stale
	}
	if s.bytesSent > 0 {
		ev.DataOut = Duration(s.dataSent) + stale
	}
	ev.ACK = Duration(s.ackRecv) + stale
	ev.RecvQueue, ev.SendQueue = int(s.recvQueue), int(s.sendQueue)
	ev.BytesIn, ev.BytesOut = s.bytesReceived, s.bytesSent
	if sus.hist.fin && ev.BytesIn > 0 {
		ev.BytesIn-- // the kernel counts the FIN
	}
	ev.Retransmits = s.totalRetrans
}

// ownerSite returns the place that a finding of this kind is grouped by: the
// line that has to change.
func (e *entry) ownerSite(k Kind) (sites.ID, string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.rankLocked(k)
	for _, s := range list {
		if s.id != 0 {
			return s.id, e.name
		}
	}
	return 0, e.name
}

type rankedSite struct {
	role string
	id   sites.ID
}

// rankLocked lists the places that had to do with e, the one to open first for
// this kind in front. The caller holds mu.
func (e *entry) rankLocked(k Kind) []rankedSite {
	born := rankedSite{"dial", e.site}
	if e.role == Server {
		born.role = "accept"
	}
	var use, handler rankedSite
	if u := e.oldestUseLocked(); u != nil {
		use, handler = rankedSite{"request", u.site}, rankedSite{"handler", u.handler}
	} else if u := e.lastUse; u != nil {
		use = rankedSite{"last use", u.site}
		handler = rankedSite{"last use", u.handler}
	}
	eof, failed := rankedSite{"eof", e.eofSite}, rankedSite{"error", e.errSite}
	switch k {
	case KindCloseWaitEOFSeen:
		return []rankedSite{handler, eof, use, born}
	case KindCloseWaitErrorPath:
		return []rankedSite{failed, use, handler, born}
	case KindLeakDeadSocket:
		return []rankedSite{use, handler, failed, eof, born}
	case KindLeakCollected, KindCloseWaitNeverRead, KindCloseWaitIdleInPool:
		return []rankedSite{born, use, handler}
	}
	return []rankedSite{use, handler, born, eof, failed}
}

// sitesLocked symbolises the places. The caller holds mu.
func (e *entry) sitesLocked(k Kind, use *Usage, hide []string) []Site {
	var out []Site
	for _, s := range e.rankLocked(k) {
		if s.id == 0 {
			continue
		}
		frames := publicFrames(s.id.Owner(hide))
		if len(frames) == 0 || slices.ContainsFunc(out, func(o Site) bool { return slices.Equal(o.Frames, frames) }) {
			continue
		}
		out = append(out, Site{Role: s.role, Frames: frames})
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
