package tcpotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// wantsSpan reports whether a connection that has ended gets a span.
func (r *reporter) wantsSpan(c *tcpstate.ClosedInfo) bool {
	switch r.spans {
	case All:
		return true
	case Dialed:
		return c.Role == tcpstate.Client || suspect(c)
	case Suspect:
		return suspect(c)
	}
	return false
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
// it is open. All attributes are there when a sampler decides.
func (r *reporter) connectionSpan(c *tcpstate.ClosedInfo) {
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
		return
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
		return
	}
	phase("open", c.Opened, c.PeerClosed)
	phase("close_wait", c.PeerClosed, c.Ended)
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
