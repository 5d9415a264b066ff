package tcpotel

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// log writes the record of one event. What became another kind is reported as
// that.
func (r *reporter) log(f *tcpstate.Finding, event string, g told) {
	if f.Severity < tcpstate.Warning || f.Became.Severity() >= tcpstate.Warning {
		return
	}
	l := r.logger
	if l == nil {
		l = slog.Default()
	}
	level := slog.LevelWarn
	switch {
	case !f.ClearedAt.IsZero():
		level = slog.LevelInfo
	case f.Severity == tcpstate.Error:
		level = slog.LevelError
	}
	ctx := correlated(tokenOf(f.Tokens.Use).context(), g.span)
	if l.Enabled(ctx, level) {
		l.LogAttrs(ctx, level, f.Headline(), f.LogAttrs(event)...)
	}
}

// correlated returns a context with the span context that leads to a trace: the
// use's if that was sampled, else the finding's; where neither was, the first
// that is known.
func correlated(use, finding trace.SpanContext) context.Context {
	sc := use
	if !use.IsSampled() && (finding.IsSampled() || !use.IsValid()) {
		sc = finding
	}
	if !sc.IsValid() {
		return context.Background()
	}
	return trace.ContextWithSpanContext(context.Background(), sc)
}
