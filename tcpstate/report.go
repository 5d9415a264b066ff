package tcpstate

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Age returns how long the condition has lasted, up to its end if it has ended.
func (f *Finding) Age() time.Duration {
	if !f.ClearedAt.IsZero() {
		return f.ClearedAt.Sub(f.Since)
	}
	return f.DetectedAt.Sub(f.Since)
}

// headline is the one line that a log shows.
func (f *Finding) headline() string {
	var where string
	if fr, ok := f.owner(); ok {
		where = " at " + fr.String()
	}
	if !f.ClearedAt.IsZero() {
		return fmt.Sprintf("cleared after %s: %s%s", age(f.ClearedAt.Sub(f.Group.Since)), f.Kind, where)
	}
	return f.Title + where
}

// owner returns the line to open.
func (f *Finding) owner() (Frame, bool) {
	if len(f.Sites) == 0 || len(f.Sites[0].Frames) == 0 {
		return Frame{}, false
	}
	return f.Sites[0].Frames[0], true
}

// explain writes the sentences of f.
func explain(f *Finding, t *Tracker) {
	ev, sub := &f.Evidence, &f.Subject
	peer := "the server"
	if sub.Role == Server {
		peer = "the client"
	}
	var what, more string
	unread := "nothing is unread"
	if ev.RecvQueue > 0 {
		unread = bytesOf(ev.RecvQueue) + " unread"
	}
	closed := fmt.Sprintf("%s closed %s ago", peer, ev.PeerFIN)
	switch f.Kind {
	case KindCloseWaitUnreadBody:
		f.Title = "response body never closed"
		if ev.RecvQueue > 0 {
			what = fmt.Sprintf("%s, %s of its answer are unread, nobody is reading.", closed, bytesOf(ev.RecvQueue))
		} else {
			what = closed + "; its answer has not been read to the end, nobody is reading."
		}
	case KindCloseWaitNotReading:
		what = closed + "; " + unread + ", nobody has read since."
		if sub.Role == Server {
			f.Title = "client left, nobody has noticed"
		}
		if sub.UseOpen && sub.Role == Server {
			f.Title = "client left, handler has not noticed"
			what = fmt.Sprintf("%s; handler running for %s.", closed, sub.UseFor)
			switch done := ev.ContextDone; {
			case ev.Hijacked:
				more = "The connection is hijacked: net/http does not watch it any more, and nobody reads it."
			case done != nil && !*done:
				more = "Its context is NOT cancelled: the request body is unread, so net/http cannot see the close."
			case done != nil:
				more = "Its context is cancelled: the handler was told and goes on."
			}
			f.Fix = "drain or limit r.Body before waiting; select on r.Context().Done()"
		}
		if !ev.ReadsSeen {
			more = "Attached without wrapper: whether the application read the end of the stream is not known."
		}
	case KindCloseWaitEOFSeen:
		what = fmt.Sprintf("%s, Read returned io.EOF, and since then nothing was written and nobody closed.", closed)
		if sub.UseOpen && sub.Role == Server {
			f.Title = "client left, handler goes on"
			what = fmt.Sprintf("%s and the handler was told; it is running for %s.", closed, sub.UseFor)
			f.Fix = "select on r.Context().Done() where the handler waits"
		}
	case KindCloseWaitErrorPath:
		what = closed + "; the last Read failed, and nobody has touched the connection since."
	case KindCloseWaitNeverRead:
		what = fmt.Sprintf("%s; accepted %s ago, never read and never written, %s.", closed, age(f.DetectedAt.Sub(sub.Opened)), unread)
	case KindCloseWaitIdleInPool:
		what = fmt.Sprintf("%s while the connection was idle; the next user gets a dead connection.", closed)
		if f.Cause != "" {
			what = fmt.Sprintf("%s; by now the socket is dead (%s).", closed, strings.ReplaceAll(f.Cause, "_", " "))
			if ev.PeerFIN < 0 {
				what = fmt.Sprintf("the connection died %s ago (%s) while it was idle.", ev.Died, strings.ReplaceAll(f.Cause, "_", " "))
			}
		}
	case KindLeakCollected:
		what = fmt.Sprintf("open for %s, then the last reference went away and nobody had closed it.", age(f.DetectedAt.Sub(sub.Opened)))
		if f.Group.Open > 1 {
			more = fmt.Sprintf("%d were lost at this line.", f.Group.Open)
		}
	case KindLeakDeadSocket:
		how := map[string]string{"reset": "was reset", "timeout": "timed out", "clean_end": "was closed by both ends"}[f.Cause]
		if how == "" {
			how = "ended"
		}
		what = fmt.Sprintf("the connection %s %s ago and its descriptor is still open.", how, ev.Died)
		if ev.PeerFIN >= 0 {
			more = fmt.Sprintf("It was in CLOSE-WAIT before: the peer closed %s ago. ss does not list it any more.", ev.PeerFIN)
		} else {
			more = "ss does not list it any more."
		}
	}
	f.Summary = strings.TrimSpace(sub.who() + " — " + what)
	if more != "" {
		f.Summary += " " + more
	}
	f.Consequence = consequence(f)
	f.Check = checks(f)
}

// who names the subject as a person knows it.
func (s *Subject) who() string {
	var parts []string
	if s.Use != "" {
		parts = append(parts, s.Use)
	}
	at := s.Target
	if at == "" {
		at = s.Remote
	}
	switch {
	case s.Role == Server && s.Name != "":
		parts = append(parts, fmt.Sprintf("listener %q", s.Name))
	case s.Role == Server:
		parts = append(parts, "accepted on "+s.Local)
	case s.Name != "" && s.Name != at:
		parts = append(parts, fmt.Sprintf("%s (%s)", s.Name, at))
	default:
		parts = append(parts, at)
	}
	return strings.Join(parts, ", ")
}

// consequence says what the group grows to.
func consequence(f *Finding) string {
	if f.Severity < Warning || f.Group.Open < 2 {
		return ""
	}
	s := fmt.Sprintf("%d open from this line", f.Group.Open)
	if f.Group.PerMinute < 0.05 {
		return s + "."
	}
	s += fmt.Sprintf(", +%s/min", strconv.FormatFloat(f.Group.PerMinute, 'g', 2, 64))
	if limit, used := openFiles(); limit > used && used > 0 {
		left := time.Duration(float64(limit-used) / f.Group.PerMinute * float64(time.Minute))
		if left < 30*24*time.Hour {
			s += fmt.Sprintf(": fd limit %d reached in about %s", limit, age(left))
		}
	}
	return s + "."
}

// checks returns commands that show the same with other tools.
func checks(f *Finding) []string {
	sub := &f.Subject
	local, err1 := netip.ParseAddrPort(sub.Local)
	remote, err2 := netip.ParseAddrPort(sub.Remote)
	if err1 != nil || err2 != nil {
		return nil
	}
	if f.Kind == KindLeakDeadSocket || f.Kind == KindLeakCollected {
		return []string{fmt.Sprintf("ls -l /proc/%d/fd | grep -c socket", syscall.Getpid())}
	}
	return []string{
		fmt.Sprintf("ss -tinp src %s dst %s", local, remote),
		fmt.Sprintf("tcpdump -ni any host %s and port %d", remote.Addr().Unmap(), remote.Port()),
	}
}

// WriteTo writes the finding in its terminal form.
func (f *Finding) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	if !f.ClearedAt.IsZero() {
		fmt.Fprintf(&b, "tcpstate INFO  %s (finding %d, %s)\n", f.headline(), f.Group.ID, conns(f.Group.Opened))
		return b.WriteTo(w)
	}
	level := map[Severity]string{Inventory: "INFO", Warning: "WARN", Error: "ERROR"}[f.Severity]
	fmt.Fprintf(&b, "tcpstate %-5s %-58s %24s\n", level, f.Title, f.Kind)
	wrap(&b, "  ", f.Summary)
	wrap(&b, "  ", f.Consequence)
	for i, s := range f.Sites {
		frames := s.Frames
		if i > 0 {
			frames = frames[:1]
		}
		for j, fr := range frames {
			role := s.Role
			if j > 0 {
				role = "called by"
			}
			fmt.Fprintf(&b, "    %-9s %-44s %s\n", role, fr.shortName(), fr)
		}
	}
	b.WriteString("  ages   " + f.ages() + "\n")
	fmt.Fprintf(&b, "  fix    %s\n", f.Fix)
	if len(f.Check) > 0 {
		fmt.Fprintf(&b, "  check  %s\n", strings.Join(f.Check, "   ·   "))
	}
	b.WriteString("  ")
	if tr := traceOf(f.Tokens.Use); tr != "" {
		fmt.Fprintf(&b, "trace  %s (use)   ", tr)
	} else if tr := traceOf(f.Tokens.Dial); tr != "" {
		fmt.Fprintf(&b, "trace  %s (dial)   ", tr)
	}
	arrow := "→"
	if f.Subject.Role == Server {
		arrow = "←"
	}
	fmt.Fprintf(&b, "conn %d %s%s%s   finding %d\n", f.Subject.ID, f.Subject.Local, arrow, f.Subject.Remote, f.Group.ID)
	return b.WriteTo(w)
}

// String returns the terminal form.
func (f *Finding) String() string {
	var b strings.Builder
	_, _ = f.WriteTo(&b)
	return b.String()
}

// traceOf asks a token for the trace it belongs to.
func traceOf(token any) string {
	if s, ok := token.(interface{ TraceString() string }); ok {
		return s.TraceString()
	}
	return ""
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
	if ev.ReadsSeen && !ev.EverRead {
		parts = append(parts, "app read never")
	} else {
		add("app read", ev.AppRead)
	}
	add("byte in", ev.DataIn)
	add("byte out", ev.DataOut)
	add("ACK", ev.ACK)
	s := strings.Join(parts, " · ")
	s += fmt.Sprintf("   queues  recv %d · send %d", ev.RecvQueue, ev.SendQueue)
	switch {
	case !ev.ReadsSeen:
	case ev.EOFRead:
		s += "   EOF read"
	case ev.PeerFIN >= 0:
		s += "   EOF not read"
	}
	return s
}

// Report writes what is open now: the findings, then the connections by the
// line that opened them. It is meant for programs that end, and for tests.
func (t *Tracker) Report(w io.Writer) error {
	t.init()
	var b bytes.Buffer
	fs := t.Findings()
	shown := make(map[uint64]bool)
	for i := range fs {
		f := &fs[i]
		if f.Severity >= Warning && !shown[f.Group.ID] {
			shown[f.Group.ID] = true
			_, _ = f.WriteTo(&b)
			b.WriteByte('\n')
		}
	}
	type line struct {
		site   string
		count  int
		states map[State]int
		oldest time.Time
		name   string
	}
	var lines []*line
	index := make(map[string]*line)
	for s := range t.Conns() {
		where := "(unknown line)"
		if len(s.Site.Frames) > 0 {
			where = s.Site.Frames[0].shortName() + "  " + s.Site.Frames[0].String()
		}
		key := s.Site.Role + "\x00" + s.Name + "\x00" + where
		l := index[key]
		if l == nil {
			l = &line{site: s.Site.Role + " " + where, states: make(map[State]int), oldest: s.Opened, name: s.Name}
			index[key] = l
			lines = append(lines, l)
		}
		l.count++
		l.states[s.State]++
	}
	total := 0
	for _, l := range lines {
		total += l.count
	}
	fmt.Fprintf(&b, "tcpstate: %s open, %d findings\n", conns(uint64(total)), len(shown))
	for _, l := range lines {
		var states []string
		for _, st := range append(States(), Unknown) {
			if n := l.states[st]; n > 0 {
				states = append(states, fmt.Sprintf("%d %s", n, st))
			}
		}
		name := ""
		if l.name != "" {
			name = fmt.Sprintf("  %q", l.name)
		}
		fmt.Fprintf(&b, "  %5d  %s%s  %s, oldest %s\n", l.count, l.site, name, strings.Join(states, ", "), age(time.Since(l.oldest)))
	}
	_, err := b.WriteTo(w)
	return err
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

// age formats a duration for reading: two units at most.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "?"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return strings.TrimSuffix(strconv.FormatFloat(d.Seconds(), 'f', 1, 64), ".0") + "s"
	case d < time.Minute:
		return strconv.Itoa(int(d.Round(time.Second).Seconds())) + "s"
	case d < time.Hour:
		return units(d.Round(time.Second), time.Minute, "m", time.Second, "s")
	case d < 24*time.Hour:
		return units(d.Round(time.Minute), time.Hour, "h", time.Minute, "m")
	}
	return units(d.Round(time.Hour), 24*time.Hour, "d", time.Hour, "h")
}

func units(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	s := strconv.Itoa(int(d/big)) + bigName
	if rest := int(d % big / small); rest > 0 {
		s += strconv.Itoa(rest) + smallName
	}
	return s
}

// bytesOf formats a number of bytes: "16,060 bytes".
func bytesOf(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if n == 1 {
		return s + " byte"
	}
	return s + " bytes"
}

func conns(n uint64) string {
	if n == 1 {
		return "1 conn"
	}
	return strconv.FormatUint(n, 10) + " conns"
}

func attrName(role string) string { return strings.ReplaceAll(role, " ", "_") }

// wrap writes text in lines of readable length.
func wrap(b *bytes.Buffer, indent, text string) {
	const width = 116
	col := 0
	for _, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case col == 0:
			b.WriteString(indent)
			col = len(indent)
		case col+1+n > width:
			b.WriteString("\n" + indent)
			col = len(indent)
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(word)
		col += n
	}
	if col > 0 {
		b.WriteByte('\n')
	}
}
