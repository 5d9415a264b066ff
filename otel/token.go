package tcpotel

import (
	"context"

	"go.opentelemetry.io/otel/trace"
)

// token is what is remembered of the context of a dial or a use. It is the span
// context alone: the context itself may hold a request and all its buffers.
type token struct {
	sc        trace.SpanContext
	recording bool // the span was recording, so it may have a child
}

// takeToken runs on the application's goroutine.
func takeToken(ctx context.Context) any {
	span := trace.SpanFromContext(ctx)
	sc := span.SpanContext()
	if !sc.IsValid() {
		return nil
	}
	return &token{sc: sc, recording: span.IsRecording()}
}

func tokenOf(v any) *token {
	k, _ := v.(*token)
	return k
}

// context returns the span context, invalid for nil.
func (k *token) context() trace.SpanContext {
	if k == nil {
		return trace.SpanContext{}
	}
	return k.sc
}

// TraceString returns a short form of the trace's id, as the terminal form of a
// finding shows it.
func (k *token) TraceString() string {
	if k == nil {
		return ""
	}
	id := k.sc.TraceID().String()
	return id[:8] + "…" + id[len(id)-4:]
}
