package tcpstate

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
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
	// Inventory belongs on a page and a gauge. What became another kind is
	// reported as that.
	if f.Severity < Warning || f.Became != "" {
		return
	}
	level := slog.LevelWarn
	if f.Severity == Error {
		level = slog.LevelError
	}
	if !f.ClearedAt.IsZero() {
		level = slog.LevelInfo
	}
	if !l.Enabled(context.Background(), level) {
		return
	}
	l.LogAttrs(context.Background(), level, f.Headline(), f.LogAttrs(event)...)
}

// LogAttrs returns the finding as attributes for a log record, in the order of
// the terminal form. event is the value of "event.name". Addresses of clients
// are shortened to their network; commands are left out.
func (f *Finding) LogAttrs(event string) []slog.Attr {
	as := []slog.Attr{
		slog.String("event.name", event),
		slog.Uint64("tcpstate.finding.id", f.Group.ID),
		slog.String("tcpstate.finding.kind", string(f.Kind)),
		slog.String("tcpstate.finding.severity", f.Severity.String()),
		slog.String("tcpstate.connection.name", f.Subject.Name),
		slog.String("tcpstate.summary", f.Summary),
	}
	if f.Consequence != "" {
		as = append(as, slog.String("tcpstate.consequence", f.Consequence))
	}
	for i, s := range f.Sites {
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
	as = append(as,
		slog.String("network.connection.state", f.State.SemConv()),
		slog.String("network.peer.address", PeerForTelemetry(f.Subject)),
		slog.Int("tcpstate.recv_queue", f.Evidence.RecvQueue),
		slog.Float64("tcpstate.finding.age", f.Age().Seconds()),
		slog.Int("tcpstate.group.open", f.Group.Open),
	)
	if f.ClearedAt.IsZero() {
		as = append(as, slog.String("tcpstate.fix", f.Fix))
	}
	return as
}

// String returns "file:line".
func (f Frame) String() string { return f.File + ":" + strconv.Itoa(f.Line) }
