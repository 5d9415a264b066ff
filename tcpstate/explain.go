package tcpstate

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// This file finds the words. It is pure: what a finding says depends on the
// finding and on what is known of the process.

// process is what reports say of the process.
type process struct {
	pid             int
	fdLimit, fdUsed int // 0: not known
}

func thisProcess() process {
	limit, used := openFiles()
	return process{pid: os.Getpid(), fdLimit: limit, fdUsed: used}
}

// explain writes the sentences of f.
func explain(f *Finding, p process) {
	s := story{f: f, ev: &f.Evidence, sub: &f.Subject}
	row := f.Kind.row()
	if row.say != nil {
		row.say(&s)
	}
	f.Summary = f.Subject.who() + " — " + strings.Join(s.said, " ")
	f.Consequence = consequence(f, p)
	f.Check = checks(f, p)
}

// story collects what is to be said of a finding.
type story struct {
	f    *Finding
	ev   *Evidence
	sub  *Subject
	said []string
}

func (s *story) say(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf(format, args...))
}

// add goes on with the last sentence.
func (s *story) add(format string, args ...any) {
	s.said[len(s.said)-1] += fmt.Sprintf(format, args...)
}

func (s *story) errorPath() {
	s.say("%s, nobody has touched the connection since, and %s.", s.failed(), s.closed())
}

func (s *story) neverRead() {
	s.say("accepted %s ago, never read and never written; %s%s.", age(s.f.ReportedAt.Sub(s.sub.Opened)), s.closed(), s.unread(", and ", ""))
}

// peer is the other end.
func (s *story) peer() string {
	if s.sub.Role == Server {
		return "the client"
	}
	return "the server"
}

func (s *story) closed() string { return fmt.Sprintf("%s closed %s ago", s.peer(), s.ev.PeerFIN) }

// failed says what ended the last Read.
func (s *story) failed() string {
	switch s.f.Cause {
	case "deadline":
		return "the last Read ran into its deadline"
	case "copy":
		return "io.Copy from it failed"
	case "reset", "timeout":
		return "the last Read failed (" + s.f.Cause + ")"
	}
	return "the last Read failed"
}

// unread says how much waits to be read, after prefix, or else none.
func (s *story) unread(prefix, none string) string {
	switch n := s.ev.RecvQueue; n {
	case 0:
		return none
	case 1:
		return prefix + "1 byte waits unread"
	default:
		return prefix + counted(n, "byte") + " wait unread"
	}
}

// inHandler reports whether the handler of a server's request is running.
func (s *story) inHandler() bool {
	return s.sub.Role == Server && s.sub.UseOpen && !s.ev.Hijacked && (s.sub.HTTP || s.ev.ContextDone != nil)
}

func (s *story) unreadBody() {
	if !s.sub.HTTP {
		s.f.Title = "server closed in the middle of a use"
		s.f.Fix = "read until io.EOF or an error, then close the connection"
		s.say("%s, in the middle of a use that has lasted %s%s.", s.closed(), s.sub.UseFor, s.unread("; ", ""))
		return
	}
	switch n := s.ev.RecvQueue; n {
	case 0:
		s.say("%s; its answer was not read to the end, and the body is still open.", s.closed())
	case 1:
		s.say("%s; 1 byte of its answer waits unread.", s.closed())
	default:
		s.say("%s; %s of its answer wait unread.", s.closed(), counted(n, "byte"))
	}
}

func (s *story) notReading() {
	switch {
	case !s.ev.ReadsSeen:
		s.f.Title = strings.TrimPrefix(s.peer(), "the ") + " closed, this end stays open"
		s.say("%s%s.", s.closed(), s.unread("; ", ""))
		s.say("Attached without the wrapper: whether the program has read the end of the stream is not known.")
		s.f.Fix = "close the connection when Read returns io.EOF; with the wrapper (Track) the line shows"
	case s.inHandler():
		s.f.Title = "client left, handler has not noticed"
		s.say("%s; handler running for %s%s.", s.closed(), s.sub.UseFor, s.unread(", ", ""))
		s.handlerContext()
	case s.ev.Hijacked:
		s.f.Title = "client left, nobody has noticed"
		s.say("%s, and nobody has read from the connection since%s.", s.closed(), s.unread("; ", ""))
		s.say("The connection was hijacked: net/http does not watch it any more.")
		s.f.Fix = "keep a goroutine in Read on the hijacked connection, and close it when that returns"
	default:
		s.f.Title = strings.TrimPrefix(s.peer(), "the ") + " closed, nobody has noticed"
		s.say("%s, and nobody has read from the connection since%s.", s.closed(), s.unread("; ", ""))
	}
}

// handlerContext says whether the handler was told, and what follows for it.
func (s *story) handlerContext() {
	s.f.Fix = "return when r.Context() ends: hand it to whatever the handler waits for"
	switch done := s.ev.ContextDone; {
	case done == nil:
	case *done:
		s.say("Its context is cancelled: the handler was told, and goes on.")
	default:
		s.say("Its context is NOT cancelled: net/http notices a close only once the request body is read, and it is unread.")
		s.f.Fix = "read or discard r.Body before waiting, and return when r.Context() ends"
	}
}

func (s *story) eofSeen() {
	if s.inHandler() {
		s.f.Title = "client left, handler goes on"
		s.say("%s; handler running for %s.", s.closed(), s.sub.UseFor)
		s.handlerContext()
		return
	}
	s.say("%s and a Read returned io.EOF; since then nothing was written and nobody has closed.", s.closed())
}

func (s *story) idleInPool() {
	how := strings.ReplaceAll(s.f.Cause, "_", " ")
	switch {
	case s.f.Cause == "":
		s.say("%s while the connection lay idle; whoever takes it next finds it dead.", s.closed())
	case s.ev.PeerFIN >= 0:
		s.say("%s while the connection lay idle; by now the socket is dead (%s).", s.closed(), how)
	default:
		s.say("the connection ended %s ago (%s) while it lay idle; whoever takes it next finds it dead.", s.ev.Died, how)
	}
	s.idleLimit()
}

// idleLimit says after which idle time the server closes, and what follows.
func (s *story) idleLimit() {
	limit := time.Duration(s.ev.IdleLimit)
	if limit <= 0 {
		return
	}
	s.say("It closes connections that lie idle for about %s.", age(limit))
	s.f.Fix = fmt.Sprintf("set the pool's idle limit (ConnMaxIdleTime, IdleConnTimeout) to %s", age(below(limit)))
	if s.f.Kind == KindResetReuseAfterFIN {
		s.f.Fix += ", and check connections at checkout"
	}
}

func (s *story) collected() {
	s.say("was open for %s when the program dropped the last reference to it; nobody had called Close%s.",
		age(s.f.DetectedAt.Sub(s.sub.Opened)), s.unread("; ", ""))
	if s.ev.PeerFIN >= 0 {
		s.say("%s.", upperFirst(s.closed()))
	}
}

func (s *story) deadSocket() {
	how := map[string]string{
		"reset":     "was reset",
		"timeout":   "timed out",
		"clean_end": "was closed in both directions",
	}[s.f.Cause]
	if how == "" {
		how = "ended"
	}
	s.say("the connection %s %s ago, and its descriptor is still open.", how, s.ev.Died)
	if s.f.Cause == "timeout" {
		s.say("%s had stopped answering.", upperFirst(s.peer()))
	}
	if s.ev.PeerFIN > s.ev.Died {
		s.say("It was in CLOSE-WAIT before: %s.", s.closed())
	}
	s.say("ss does not list it any more.")
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// who names the subject as a person knows it.
func (s *Subject) who() string {
	switch s.Type {
	case SubjectProcess:
		return "this process"
	case SubjectListener:
		return named("listener", s.Name, s.Local)
	case SubjectPool:
		return named("pool", s.Name, s.Target)
	case SubjectTunnel:
		return named("tunnel", s.Name, "to "+s.Target)
	case SubjectSite:
		if s.Name == "" {
			return "this line"
		}
		return s.Name
	}
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
		parts = append(parts, named("listener", s.Name, ""))
	case s.Role == Server:
		parts = append(parts, "accepted on "+s.Local)
	case s.Use == at || strings.HasSuffix(s.Use, " "+at):
		// The use has said it.
		if s.Name != "" && s.Name != at {
			parts = append(parts, s.Name)
		}
	case s.Name != "" && s.Name != at:
		parts = append(parts, fmt.Sprintf("%s (%s)", s.Name, at))
	default:
		parts = append(parts, at)
	}
	return strings.Join(parts, ", ")
}

// named says what something of the program is called, or else where it is.
func named(what, name, where string) string {
	switch {
	case name != "":
		return fmt.Sprintf("%s %q", what, name)
	case where != "":
		return what + " " + where
	}
	return what
}

// consequence says what happens if nobody acts.
func consequence(f *Finding, p process) string {
	n, rate := f.Group.Open, f.Group.PerMinute
	if n < 2 {
		if f.Severity < Warning {
			return ""
		}
		return f.Kind.row().consequence
	}
	s := counted(n, f.noun()) + " like this"
	if len(f.Sites) > 0 {
		s += " from the same line"
	}
	switch {
	case rate >= 0.05:
		s += ", " + perMinute(rate) + " more each minute"
	case rate <= -0.05:
		return s + ", " + perMinute(-rate) + " fewer each minute."
	default:
		return s + "."
	}
	if f.Severity >= Warning && f.Subject.Type == SubjectConn && f.Kind.info().descriptor() && p.fdUsed > 0 && p.fdLimit > p.fdUsed {
		left := time.Duration(float64(p.fdLimit-p.fdUsed) / rate * float64(time.Minute))
		if left < 30*24*time.Hour {
			s += fmt.Sprintf(": the limit of %s is reached in about %s", counted(p.fdLimit, "open file"), age(left))
		}
	}
	return s + "."
}

func perMinute(rate float64) string {
	if rate >= 9.95 {
		return thousands(int(math.Round(rate)))
	}
	return strings.TrimSuffix(strconv.FormatFloat(rate, 'f', 1, 64), ".0")
}

// noun is what one finding of a group counts as.
func (f *Finding) noun() string { return cmp.Or(f.Kind.row().noun, string(f.Subject.Type)) }

// checks returns commands that show the same with other tools, filled in for
// the subject. Those that need something that is not known are left out.
func checks(f *Finding, p process) []string {
	fill := placeholders(f, p)
	var all []string
	for _, c := range f.Kind.row().Checks {
		if c = fill.Replace(c); !strings.Contains(c, "{") {
			all = append(all, c)
		}
	}
	return all
}

// placeholders returns what stands for the words in braces of KindInfo.Checks,
// as far as it is known.
func placeholders(f *Finding, p process) *strings.Replacer {
	words := []string{"{pid}", strconv.Itoa(p.pid)}
	if host, _, err := net.SplitHostPort(f.Subject.Target); err == nil && host != "" {
		words = append(words, "{host}", host)
	}
	for _, end := range []struct{ addr, whole, host, port string }{
		{f.Subject.Local, "{local}", "{lhost}", "{lport}"},
		{f.Subject.Remote, "{remote}", "{rhost}", "{rport}"},
	} {
		if ap, err := netip.ParseAddrPort(end.addr); err == nil {
			words = append(words, end.whole, ap.String(), end.host, ap.Addr().Unmap().String(), end.port, strconv.Itoa(int(ap.Port())))
		}
	}
	return strings.NewReplacer(words...)
}
