package debughttp

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// view is what the page shows. Its JSON form only grows.
type view struct {
	Time       time.Time           `json:"time"`
	Stats      tcpstate.Stats      `json:"stats"`
	States     []stateCount        `json:"states"`
	Findings   []tcpstate.Finding  `json:"findings"`
	Counted    []tcpstate.Finding  `json:"counted"`
	Facilities []tcpstate.Facility `json:"facilities"`
	Dials      []dial              `json:"dials"`
	Listeners  []listener          `json:"listeners"`
	Pools      []pool              `json:"pools,omitempty"`
	Closing    []closing           `json:"closing"`
	Conns      []conn              `json:"connections"`
	More       int                 `json:"connections_not_shown"`

	MoreFindings  int `json:"findings_not_shown,omitempty"`
	MoreCounted   int `json:"counted_not_shown,omitempty"`
	MoreDials     int `json:"dials_not_shown,omitempty"`
	MoreListeners int `json:"listeners_not_shown,omitempty"`
	MorePools     int `json:"pools_not_shown,omitempty"`
	MoreClosing   int `json:"closing_not_shown,omitempty"`

	ByState    map[string]int      `json:"-"`
	BySeverity []severity          `json:"-"`
	Missing    []tcpstate.Facility `json:"-"`
}

type stateCount struct {
	State tcpstate.State `json:"state"`
	Phase tcpstate.Phase `json:"phase"`
	Count int            `json:"count"`
}

// severity is the findings of one severity, for the page.
type severity struct {
	Severity tcpstate.Severity
	Findings []tcpstate.Finding
}

// conn is a row of the table of connections.
type conn struct {
	ID         uint64         `json:"id"`
	Role       tcpstate.Role  `json:"role"`
	Name       string         `json:"name,omitempty"`
	Local      string         `json:"local"`
	Remote     string         `json:"remote"`
	State      tcpstate.State `json:"state"`
	Phase      tcpstate.Phase `json:"phase"`
	Opened     time.Time      `json:"opened"`
	PeerClosed time.Time      `json:"peer_closed,omitzero"`
	RecvQueue  int            `json:"recv_queue"`
	SendQueue  int            `json:"send_queue"`
	Use        string         `json:"use,omitempty"`
	Line       string         `json:"line,omitempty"`
	Finding    tcpstate.Kind  `json:"finding,omitempty"`
	Info       tcpstate.Info  `json:"info"`
}

// dial is a dial in progress.
type dial struct {
	Name       string            `json:"name,omitempty"`
	Target     string            `json:"target"`
	Start      time.Time         `json:"start"`
	Deadline   time.Time         `json:"deadline,omitzero"`
	Resolving  bool              `json:"resolving,omitempty"`
	Resolution tcpstate.Duration `json:"resolution,omitempty"`
	Attempts   []attempt         `json:"attempts,omitempty"`
	Line       string            `json:"line,omitempty"`
}

// Left returns the time to the deadline, empty where there is none.
func (d dial) Left() string {
	if d.Deadline.IsZero() {
		return ""
	}
	return tcpstate.Duration(max(time.Until(d.Deadline), 0)).String()
}

// attempt is the try of one address.
type attempt struct {
	Local       string         `json:"local,omitempty"`
	Remote      string         `json:"remote,omitempty"`
	State       tcpstate.State `json:"state"`
	Ended       bool           `json:"ended,omitempty"`       // in vain
	Retransmits *int           `json:"retransmits,omitempty"` // of the SYN; absent: not known
}

// SentAgain returns how often the SYN was sent again, 0 where that is not known.
func (a attempt) SentAgain() int {
	if a.Retransmits == nil {
		return 0
	}
	return *a.Retransmits
}

// listener is a row of the table of listeners.
type listener struct {
	Name       string          `json:"name,omitempty"`
	Addr       string          `json:"addr"`
	Queue      int             `json:"queue"` // connections that wait for Accept
	Limit      int             `json:"limit"`
	Conns      int             `json:"connections"`
	Accepting  int             `json:"accepting"`
	Accepted   uint64          `json:"accepted"`
	Failed     uint64          `json:"failed"`
	LastAccept time.Time       `json:"last_accept,omitzero"`
	LastError  string          `json:"last_error,omitempty"`
	Draining   bool            `json:"draining,omitempty"`
	Line       string          `json:"line,omitempty"`
	Findings   []tcpstate.Kind `json:"findings,omitempty"`
}

// closing is a socket that was closed and waits for its peer.
type closing struct {
	ID        uint64         `json:"id"`
	Role      tcpstate.Role  `json:"role"`
	Name      string         `json:"name,omitempty"`
	Target    string         `json:"target,omitempty"`
	Local     string         `json:"local"`
	Remote    string         `json:"remote"`
	State     tcpstate.State `json:"state"`
	Closed    time.Time      `json:"closed"`
	SendQueue int            `json:"send_queue"`
	Retries   int            `json:"retries"`
	NoWindow  bool           `json:"no_window,omitempty"`
	Line      string         `json:"line,omitempty"`
	Finding   tcpstate.Kind  `json:"finding,omitempty"`
}

// collect asks t for everything, and for at most n of each.
func collect(t *tcpstate.Tracker, n int) *view {
	v := &view{Time: time.Now(), Stats: t.Stats(), Facilities: t.Facilities(), ByState: make(map[string]int)}
	v.findings(t, n)
	v.conns(t, n)
	for s := range t.Dials() {
		add(&v.Dials, &v.MoreDials, n, func() dial { return dialOf(&s) })
	}
	for s := range t.Listeners() {
		add(&v.Listeners, &v.MoreListeners, n, func() listener { return listenerOf(&s) })
	}
	for s := range t.Pools() {
		add(&v.Pools, &v.MorePools, n, func() pool { return poolOf(&s) })
	}
	for s := range t.Closing() {
		v.ByState[s.State.SemConv()]++
		add(&v.Closing, &v.MoreClosing, n, func() closing { return closingOf(&s) })
	}
	for _, f := range v.Facilities {
		if !f.OK {
			v.Missing = append(v.Missing, f)
		}
	}
	return v
}

// add adds a row unless there are n.
func add[T any](rows *[]T, more *int, n int, row func() T) {
	if len(*rows) >= n {
		*more++
		return
	}
	*rows = append(*rows, row())
}

// findings takes the most severe ones first, if there are too many.
func (v *view) findings(t *tcpstate.Tracker, n int) {
	all := t.Findings()
	slices.SortStableFunc(all, func(a, b tcpstate.Finding) int { return int(b.Severity) - int(a.Severity) })
	v.Findings, v.MoreFindings = all[:min(n, len(all))], max(len(all)-n, 0)
	v.BySeverity = bySeverity(v.Findings)
	events := t.Counted()
	v.Counted, v.MoreCounted = events[:min(n, len(events))], max(len(events)-n, 0)
}

// bySeverity splits findings that are sorted by severity.
func bySeverity(sorted []tcpstate.Finding) []severity {
	var all []severity
	for len(sorted) > 0 {
		s := sorted[0].Severity
		n := slices.IndexFunc(sorted, func(f tcpstate.Finding) bool { return f.Severity != s })
		if n < 0 {
			n = len(sorted)
		}
		all = append(all, severity{s, sorted[:n]})
		sorted = sorted[n:]
	}
	return all
}

func (v *view) conns(t *tcpstate.Tracker, n int) {
	counts := make(map[tcpstate.State]int)
	for s := range t.Conns() {
		counts[s.State]++
		v.ByState[s.State.SemConv()]++
		add(&v.Conns, &v.More, n, func() conn {
			return conn{
				ID: s.ID, Role: s.Role, Name: s.Name, Local: address(s.Local), Remote: address(s.Remote),
				State: s.State, Phase: s.Phase, Opened: s.Opened, PeerClosed: s.PeerClosed,
				RecvQueue: s.RecvQueue, SendQueue: s.SendQueue, Use: s.Use, Line: line(s.Site), Finding: s.Finding, Info: s.Info,
			}
		})
	}
	for _, st := range append(tcpstate.States(), tcpstate.Unknown) {
		if counts[st] > 0 {
			v.States = append(v.States, stateCount{State: st, Phase: st.Phase(), Count: counts[st]})
		}
	}
}

func dialOf(s *tcpstate.DialSnapshot) dial {
	d := dial{
		Name: s.Name, Target: s.Target, Start: s.Start, Deadline: s.Deadline,
		Resolving: s.Resolving, Resolution: tcpstate.Duration(s.Resolution), Line: line(s.Site),
	}
	for _, a := range s.Attempts {
		row := attempt{Local: endpoint(a.Local), Remote: endpoint(a.Remote), State: a.State, Ended: a.Ended}
		if a.Retransmits >= 0 {
			row.Retransmits = &a.Retransmits
		}
		d.Attempts = append(d.Attempts, row)
	}
	return d
}

func listenerOf(s *tcpstate.ListenerSnapshot) listener {
	l := listener{
		Name: s.Name, Addr: address(s.Addr), Queue: s.Queue, Limit: s.Limit, Conns: s.Conns,
		Accepting: s.Accepting, Accepted: s.Accepted, Failed: s.Failed, LastAccept: s.LastAccept,
		Draining: s.Draining, Line: line(s.Site), Findings: s.Findings,
	}
	if s.LastError != nil {
		l.LastError = s.LastError.Error()
	}
	return l
}

func closingOf(s *tcpstate.ClosingSnapshot) closing {
	return closing{
		ID: s.ID, Role: s.Role, Name: s.Name, Target: s.Target, Local: address(s.Local), Remote: address(s.Remote),
		State: s.State, Closed: s.Closed, SendQueue: s.SendQueue, Retries: s.Retries, NoWindow: s.NoWindow,
		Line: line(s.Site), Finding: s.Finding,
	}
}

// line returns the line to open, "file:line".
func line(s tcpstate.Site) string {
	if len(s.Frames) == 0 {
		return ""
	}
	return s.Frames[0].String()
}

func address(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

func endpoint(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
