package tcpstate

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// slogObserver reports to the tracker's logger, while nobody else listens.
func slogObserver(t *Tracker) *Observer {
	return &Observer{
		Opened:   func(f Finding) { logFinding(t.logger(), f, "tcpstate.finding.opened") },
		Changed:  func(f Finding) { logFinding(t.logger(), f, "tcpstate.finding.changed") },
		Reminded: func(f Finding) { logFinding(t.logger(), f, "tcpstate.finding.reminded") },
		Cleared:  func(f Finding) { logFinding(t.logger(), f, "tcpstate.finding.cleared") },
	}
}

func logFinding(l *slog.Logger, f Finding, event string) {
	// Inventory belongs on a page and a gauge.
	if f.Severity < Warning {
		return
	}
	// What became another kind is reported as that, unless that is inventory.
	if f.Became != "" && f.Became.Severity() >= Warning {
		return
	}
	level := slog.LevelWarn
	switch {
	case !f.ClearedAt.IsZero():
		level = slog.LevelInfo
	case f.Severity == Error:
		level = slog.LevelError
	}
	if !l.Enabled(context.Background(), level) {
		return
	}
	l.LogAttrs(context.Background(), level, f.Headline(), f.LogAttrs(event)...)
}

// LogAttrs returns the finding as attributes for a log record, in the order of
// the terminal form. event is the value of "event.name". Addresses of clients
// are shortened to their network; commands are left out. Of a finding that has
// ended, the record says what it was and how long it lasted.
func (f *Finding) LogAttrs(event string) []slog.Attr {
	ended := !f.ClearedAt.IsZero()
	as := make([]slog.Attr, 0, 32)
	str := func(key, value string) {
		if value != "" {
			as = append(as, slog.String(key, value))
		}
	}
	str("event.name", event)
	as = append(as, slog.Uint64("tcpstate.finding.id", f.Group.ID))
	str("tcpstate.finding.kind", string(f.Kind))
	str("tcpstate.finding.severity", f.Severity.String())
	str("tcpstate.finding.cause", f.Cause)
	str("tcpstate.finding.subject", string(f.Subject.Type))
	str("tcpstate.finding.was", string(f.Was))
	str("tcpstate.finding.became", string(f.Became))
	str("tcpstate.connection.name", f.Subject.Name)
	if !ended {
		str("tcpstate.summary", f.Summary)
		str("tcpstate.consequence", f.Consequence)
	}
	as = f.codeAttrs(as)
	as = append(as, slog.Float64("tcpstate.finding.age", f.Age().Seconds()))
	as = append(as, slog.Int("tcpstate.group.open", f.Group.Open))
	if ended {
		return append(as, slog.Uint64("tcpstate.group.opened", f.Group.Opened))
	}
	if f.Group.PerMinute != 0 {
		as = append(as, slog.Float64("tcpstate.group.per_minute", f.Group.PerMinute))
	}
	str("network.connection.state", f.State.SemConv())
	str("network.peer.address", PeerForTelemetry(f.Subject))
	as = f.Evidence.logAttrs(as)
	if ev := &f.Evidence; f.Subject.Type == SubjectConn || ev.RecvQueue > 0 || ev.SendQueue > 0 {
		as = append(as, slog.Int("tcpstate.recv_queue", ev.RecvQueue), slog.Int("tcpstate.send_queue", ev.SendQueue))
	}
	str("tcpstate.fix", f.Fix)
	return as
}

// codeAttrs appends the line to open, then the other places.
func (f *Finding) codeAttrs(as []slog.Attr) []slog.Attr {
	for i, s := range f.Sites {
		if len(s.Frames) == 0 {
			continue
		}
		fr := s.Frames[0]
		if i == 0 {
			as = append(as,
				slog.String("code.function.name", fr.Function),
				slog.String("code.file.path", fr.File),
				slog.Int("code.line.number", fr.Line))
			continue
		}
		as = append(as, slog.String("tcpstate.site."+strings.ReplaceAll(s.Role, " ", "_"), fr.String()))
	}
	return as
}

// logAttrs appends the ages that are known, in seconds.
func (ev *Evidence) logAttrs(as []slog.Attr) []slog.Attr {
	for _, a := range []struct {
		name string
		age  Duration
	}{
		{"peer_fin", ev.PeerFIN}, {"died", ev.Died}, {"app_read", ev.AppRead},
		{"data_in", ev.DataIn}, {"data_out", ev.DataOut}, {"ack", ev.ACK},
	} {
		if a.age >= 0 {
			as = append(as, slog.Float64("tcpstate.age."+a.name, time.Duration(a.age).Seconds()))
		}
	}
	return as
}

// String returns "file:line".
func (f Frame) String() string { return f.File + ":" + strconv.Itoa(f.Line) }
