package tcpotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// wantsSpan reports whether a connection that has ended gets a span, of which
// there may be any number.
func (r *reporter) wantsSpan(c *tcpstate.ClosedInfo) bool {
	switch r.spans {
	case All:
		return true
	case Dialed:
		return c.Role == tcpstate.Client || suspect(c)
	}
	return false
}

// exampleSpan makes the span of a suspect, unless there were many like it. One
// that the sampler refuses takes up no room anywhere, and is not counted.
func (r *reporter) exampleSpan(c *tcpstate.ClosedInfo) {
	if !suspect(c) {
		return
	}
	if g := groupOf(c); r.examples.room(g, c.Ended) && r.connectionSpan(c) {
		r.examples.add(g)
	}
}

func suspect(c *tcpstate.ClosedInfo) bool {
	for _, k := range c.Findings {
		if k.Severity() >= tcpstate.Warning {
			return true
		}
	}
	return false
}

// connectionSpan makes the span of a connection that has ended, with a child
// per phase: all at once and in the past, so that the SDK holds nothing while
// it is open. All attributes are there when a sampler decides. It reports
// whether the span is recorded.
func (r *reporter) connectionSpan(c *tcpstate.ClosedInfo) bool {
	at := func(t time.Time) time.Time { return asOf(c.Ended, t) }
	start := c.Opened
	if !c.DialStart.IsZero() {
		start = c.DialStart
	}
	ctx, span := r.tracer.Start(context.Background(), "tcpstate connection",
		trace.WithNewRoot(), trace.WithTimestamp(at(start)),
		trace.WithAttributes(connectionAttrs(c)...),
		trace.WithLinks(links(tokenOf(c.UseToken), tokenOf(c.DialToken))...))
	defer span.End(trace.WithTimestamp(c.Ended))
	if !span.IsRecording() {
		return false
	}
	switch c.Reason {
	case tcpstate.CloseReset, tcpstate.CloseTimeout, tcpstate.CloseCollected:
		span.SetStatus(codes.Error, "connection ended: "+string(c.Reason))
	}

	phase := func(name string, from, to time.Time) {
		_, child := r.tracer.Start(ctx, name, trace.WithTimestamp(at(from)))
		child.End(trace.WithTimestamp(at(to)))
	}
	if !c.DialStart.IsZero() {
		phase("connect", c.DialStart, c.Opened)
	}
	if !waited(c) || c.PeerClosed.After(c.Ended) {
		phase("open", c.Opened, c.Ended)
		return true
	}
	phase("open", c.Opened, c.PeerClosed)
	phase("close_wait", c.PeerClosed, c.Ended)
	return true
}

func connectionAttrs(c *tcpstate.ClosedInfo) attrs {
	a := make(attrs, 0, 24)
	a.add(keyConnID.Int64(int64(c.ID)))
	a.str(keyConnName, c.Name)
	a.str(keyRole, c.Role.String())
	if c.Role == tcpstate.Client {
		a.target(c.Target)
	}
	a.str(keyCloseReason, string(c.Reason))
	a.str(keyErrorType, closeError(c.Reason))
	if len(c.Findings) > 0 {
		kinds := make([]string, len(c.Findings))
		for i, k := range c.Findings {
			kinds[i] = string(k)
		}
		a.add(keyKinds.StringSlice(kinds))
	}
	if c.Frame != nil {
		a.str(keyCodeFunction, c.Frame.Function)
		a.str(keyCodeFile, c.Frame.File)
		a.add(keyCodeLine.Int(c.Frame.Line))
	}
	a.str(keyState, c.State.SemConv())
	a.str(keyNetworkType, networkType(c.Remote))
	a.ends(c.Role, addrString(c.Local), addrString(c.Remote))
	a.add(keyBytesIn.Int64(int64(c.BytesIn)))
	a.add(keyBytesOut.Int64(int64(c.BytesOut)))
	a.add(keyRecvQueue.Int(c.Unread))
	a.add(keyRetransmits.Int(int(c.Retransmits)))
	if c.RTT > 0 {
		a.add(keyRTT.Float64(c.RTT.Seconds()))
	}
	a.add(keyUses.Int(int(c.Uses)))
	return a
}
