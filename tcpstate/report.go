package tcpstate

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Headline returns the one line that a log shows.
func (f *Finding) Headline() string {
	var where string
	if fr, ok := f.owner(); ok {
		where = " at " + fr.String()
	}
	switch {
	case f.ClearedAt.IsZero():
		return f.Title + where
	case f.Became != "" && f.Became != f.Kind:
		return fmt.Sprintf("became %s after %s: %s%s", f.Became, age(f.ClearedAt.Sub(f.Group.Since)), f.Kind, where)
	}
	return fmt.Sprintf("cleared after %s: %s%s", age(f.ClearedAt.Sub(f.Group.Since)), f.Kind, where)
}

// owner returns the line to open.
func (f *Finding) owner() (Frame, bool) {
	if len(f.Sites) == 0 || len(f.Sites[0].Frames) == 0 {
		return Frame{}, false
	}
	return f.Sites[0].Frames[0], true
}

// String returns the terminal form.
func (f *Finding) String() string {
	var b strings.Builder
	_, _ = f.WriteTo(&b)
	return b.String()
}

// WriteTo writes the finding in its terminal form: the verdict and its kind;
// what was seen and what follows; the code to open; ages and queues in fixed
// order; what to do; commands that show the same; trace and numbers. A finding
// that has ended is one line.
func (f *Finding) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	if !f.ClearedAt.IsZero() {
		fmt.Fprintf(&b, "tcpstate INFO  %s (finding %d, %s)\n", f.Headline(), f.Group.ID, counted(int(f.Group.Opened), f.noun()))
		return b.WriteTo(w)
	}
	level := "WARN"
	switch f.Severity {
	case Count, Audit, Inventory:
		level = "INFO"
	case Error:
		level = "ERROR"
	}
	head := fmt.Sprintf("tcpstate %-5s %s", level, f.Title)
	pad := max(textWidth-utf8.RuneCountInString(head)-len(f.Kind), 2)
	fmt.Fprintf(&b, "%s%*s%s\n", head, pad, "", f.Kind)
	wrap(&b, "  ", "  ", f.Summary)
	wrap(&b, "  ", "  ", f.Consequence)
	f.writeCode(&b)
	const indent = "         "
	if f.Subject.Type == SubjectConn {
		wrap(&b, "  ages   ", indent, f.ages())
		wrap(&b, "  queues ", indent, f.queues())
	}
	wrap(&b, "  facts  ", indent, f.facts())
	wrap(&b, "  fix    ", indent, f.Fix)
	for _, c := range f.Check {
		b.WriteString("  check  " + c + "\n")
	}
	wrap(&b, "  trace  ", indent, f.trace())
	wrap(&b, "  ids    ", indent, f.ids())
	return b.WriteTo(w)
}

// maxCode is how many lines of code a report shows.
const maxCode = 3

// writeCode writes the code to open: the owner's line, its callers, and one
// line of another place that had to do with the connection.
func (f *Finding) writeCode(b *bytes.Buffer) {
	type line struct {
		role string
		Frame
	}
	var lines, others []line
	for i, s := range f.Sites {
		for j, fr := range s.Frames {
			switch {
			case i == 0 && j == 0:
				lines = append(lines, line{s.Role, fr})
			case i == 0:
				lines = append(lines, line{"called by", fr})
			case j == 0:
				others = append(others, line{s.Role, fr})
			}
		}
	}
	if len(others) > 0 {
		lines = lines[:min(len(lines), maxCode-1)]
		lines = append(lines, others...)
	}
	lines = lines[:min(len(lines), maxCode)]
	width := 0
	for _, l := range lines {
		width = max(width, utf8.RuneCountInString(l.shortName()))
	}
	for _, l := range lines {
		fmt.Fprintf(b, "    %-9s  %-*s  %s\n", l.role, width, l.shortName(), l.Frame)
	}
}

func (f Frame) shortName() string {
	if f.short != "" {
		return f.short
	}
	return f.Function
}

// ages lists the evidence in fixed order.
func (f *Finding) ages() string {
	ev := &f.Evidence
	var parts []string
	add := func(name string, d Duration) {
		if d >= 0 {
			parts = append(parts, name+" "+d.String())
		}
	}
	add("peer FIN", ev.PeerFIN)
	add("died", ev.Died)
	switch {
	case ev.ReadsSeen && !ev.EverRead:
		parts = append(parts, "app read never")
	case ev.ReadsSeen:
		add("app read", ev.AppRead)
	}
	add("byte in", ev.DataIn)
	add("byte out", ev.DataOut)
	add("ACK", ev.ACK)
	return strings.Join(parts, " · ")
}

// queues says what waits in the socket, and whether its end was read.
func (f *Finding) queues() string {
	ev := &f.Evidence
	s := fmt.Sprintf("recv %d · send %d", ev.RecvQueue, ev.SendQueue)
	switch {
	case !ev.ReadsSeen:
	case ev.EOFRead:
		s += " · EOF read"
	case ev.PeerFIN >= 0:
		s += " · EOF not read"
	}
	return s
}

// facts lists what only this kind of finding knows.
func (f *Finding) facts() string {
	parts := make([]string, 0, len(f.Evidence.Notes))
	for _, n := range f.Evidence.Notes {
		parts = append(parts, n.Name+" "+n.Value)
	}
	return strings.Join(parts, " · ")
}

// trace says which trace the connection belongs to, if an observer knows.
func (f *Finding) trace() string {
	if tr := traceOf(f.Tokens.Use); tr != "" {
		return tr + " (use)"
	}
	if tr := traceOf(f.Tokens.Dial); tr != "" {
		return tr + " (dial)"
	}
	return ""
}

// ids says which connection and finding this is.
func (f *Finding) ids() string {
	if f.Subject.Type != SubjectConn {
		return strings.TrimPrefix(f.was(), " · ")
	}
	arrow := "→"
	if f.Subject.Role == Server {
		arrow = "←"
	}
	return fmt.Sprintf("conn %d %s%s%s", f.Subject.ID, f.Subject.Local, arrow, f.Subject.Remote) + f.was()
}

// was says which finding this is, and what it was before.
func (f *Finding) was() string {
	if f.Group.ID == 0 {
		return "" // not made by a tracker
	}
	s := fmt.Sprintf(" · finding %d", f.Group.ID)
	if f.Was != "" {
		s += ", was " + string(f.Was)
	}
	return s
}

// traceOf asks a token for the trace it belongs to.
func traceOf(token any) string {
	if s, ok := token.(interface{ TraceString() string }); ok {
		return s.TraceString()
	}
	return ""
}

// Report writes what is open now: an example of each group of findings, but for
// inventory and audits, then the connections by the line that opened them. It is
// meant for programs that end, and for tests.
func (t *Tracker) Report(w io.Writer) error {
	t.init()
	var b bytes.Buffer
	fs := t.collect(func(f *finding) bool { return f == f.g.first && f.severity >= Warning })
	slices.SortFunc(fs, func(a, b Finding) int { return cmp.Compare(a.Group.ID, b.Group.ID) })
	proc := thisProcess()
	for i := range fs {
		explain(&fs[i], proc)
		_, _ = fs[i].WriteTo(&b)
		b.WriteByte('\n')
	}
	t.writeConns(&b, len(fs))
	_, err := b.WriteTo(w)
	return err
}

// opener is a line that opened connections, and how these are now.
type opener struct {
	role, name, place string
	count             int
	states            map[State]int
	oldest            time.Time
}

func (t *Tracker) writeConns(b *bytes.Buffer, findings int) {
	var lines []*opener
	index := make(map[string]*opener)
	total := 0
	for s := range t.Conns() {
		total++
		place := "(line not known)"
		if len(s.Site.Frames) > 0 {
			place = s.Site.Frames[0].shortName() + "  " + s.Site.Frames[0].String()
		}
		key := s.Site.Role + "\x00" + s.Name + "\x00" + place
		l := index[key]
		if l == nil {
			l = &opener{role: s.Site.Role, name: s.Name, place: place, states: make(map[State]int), oldest: s.Opened}
			index[key] = l
			lines = append(lines, l)
		}
		l.count++
		l.states[s.State]++
	}
	slices.SortStableFunc(lines, func(a, b *opener) int { return cmp.Compare(b.count, a.count) })
	fmt.Fprintf(b, "tcpstate: %s open, %s\n", counted(total, "conn"), counted(findings, "finding"))
	now := t.seam.now()
	for _, l := range lines {
		fmt.Fprintf(b, "  %5d  %-6s  %s", l.count, l.role, l.place)
		if l.name != "" {
			fmt.Fprintf(b, "  %q", l.name)
		}
		var states []string
		for _, st := range append(States(), Unknown) {
			if n := l.states[st]; n > 0 {
				states = append(states, fmt.Sprintf("%d %s", n, st))
			}
		}
		fmt.Fprintf(b, "  %s, oldest %s\n", strings.Join(states, ", "), age(now.Sub(l.oldest)))
	}
}

// PeerForTelemetry returns the peer's address as it may leave the machine: of
// a server that was dialed as it is, of a client only the network (/24, /48),
// because a client's address is personal data.
func PeerForTelemetry(s Subject) string {
	ap, err := netip.ParseAddrPort(s.Remote)
	if err != nil {
		return ""
	}
	a := ap.Addr().Unmap()
	if s.Role == Client {
		return a.String()
	}
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}
