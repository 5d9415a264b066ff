package tcpotel

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Link roles.
const (
	roleDial    = "dial"
	roleLastUse = "last_use"
)

// connectSpan makes the span of a dial, if the caller's span was recording. It
// returns the token of that span, or nil.
func (r *reporter) connectSpan(d *tcpstate.DialInfo, caller *token) *token {
	if caller == nil || !caller.recording {
		return nil
	}
	// A name per target, but not for ever more targets.
	name := "socket connect"
	if d.Target != "" && r.dims.targets.has(d.Target) {
		name += " " + d.Target
	}
	var a attrs
	a.target(d.Target)
	a.str(keyConnName, d.Name)
	a.str(keyNetworkType, networkType(d.Remote))
	a.ends(tcpstate.Client, addrString(d.Local), addrString(d.Remote))
	if d.Retransmits > 0 {
		a.add(keyRetransmits.Int(int(d.Retransmits)))
	}
	if d.ID != 0 {
		a.add(keyConnID.Int64(int64(d.ID)))
	}
	if d.Err != nil {
		a.str(keyErrorType, errorType(d.Err))
	}
	parent := trace.ContextWithSpanContext(context.Background(), caller.sc)
	_, span := r.tracer.Start(parent, name, trace.WithTimestamp(d.Start), trace.WithAttributes(a...))
	if d.Err != nil {
		span.SetStatus(codes.Error, d.Err.Error())
	}
	span.End(trace.WithTimestamp(d.End))
	if !span.SpanContext().IsValid() {
		return nil
	}
	return &token{sc: span.SpanContext()}
}

// findingSpan makes the span of a finding, if that is a warning or an error: a
// trace of its own, so that a request that was not sampled does not hide it.
func (r *reporter) findingSpan(f *tcpstate.Finding) trace.SpanContext {
	if f.Severity < tcpstate.Warning {
		return trace.SpanContext{}
	}
	now := time.Now()
	start, end := f.Since, f.DetectedAt
	if f.Was != "" && now.After(end) {
		end = now // it was detected as something else
	}
	if end.Before(start) {
		end = start
	}
	_, span := r.tracer.Start(context.Background(), "tcpstate finding "+string(f.Kind),
		trace.WithNewRoot(), trace.WithTimestamp(asOf(now, start)),
		trace.WithAttributes(findingAttrs(f)...),
		trace.WithLinks(links(tokenOf(f.Tokens.Use), tokenOf(f.Tokens.Dial))...))
	span.SetStatus(codes.Error, f.Headline())
	span.End(trace.WithTimestamp(asOf(now, end)))
	return span.SpanContext()
}

func findingAttrs(f *tcpstate.Finding) attrs {
	sub, ev := &f.Subject, &f.Evidence
	conn := sub.Type == tcpstate.SubjectConn
	a := make(attrs, 0, 32)
	a.add(keyFindingID.Int64(int64(f.Group.ID)))
	a.str(keyKind, string(f.Kind))
	a.str(keySeverity, f.Severity.String())
	a.str(keyConnName, sub.Name)
	if sub.Role == tcpstate.Client {
		a.target(sub.Target)
	}
	if len(f.Sites) > 0 && len(f.Sites[0].Frames) > 0 {
		fr := f.Sites[0].Frames[0]
		a.str(keyCodeFunction, fr.Function)
		a.str(keyCodeFile, fr.File)
		a.add(keyCodeLine.Int(fr.Line))
	}
	if conn || ev.RecvQueue > 0 {
		a.add(keyRecvQueue.Int(ev.RecvQueue))
	}
	a.add(keyFindingAge.Float64(f.Age().Seconds()))
	a.age(keyAgePeerFIN, ev.PeerFIN)
	a.age(keyAgeDied, ev.Died)
	a.age(keyAgeAppRead, ev.AppRead)
	a.age(keyAgeDataIn, ev.DataIn)
	a.age(keyAgeDataOut, ev.DataOut)
	a.age(keyAgeACK, ev.ACK)
	a.add(keyGroupOpen.Int(f.Group.Open))
	a.add(keyGroupPerMinute.Float64(f.Group.PerMinute))

	a.str(keyErrorType, string(f.Kind))
	a.str(keyCause, f.Cause)
	a.str(keyFindingWas, string(f.Was))
	a.str(keySubject, string(sub.Type))
	if conn {
		a.str(keyState, f.State.SemConv())
		a.add(keyConnID.Int64(int64(sub.ID)))
		a.positive(keyUnacked, int(ev.Unacked))
		a.positive(keyTimeouts, int(ev.Timeouts))
		a.positive(keyProbes, int(ev.Probes))
	}
	if conn || ev.SendQueue > 0 {
		a.add(keySendQueue.Int(ev.SendQueue))
	}
	if sub.Type != tcpstate.SubjectProcess {
		a.str(keyRole, sub.Role.String())
	}
	a.ends(sub.Role, sub.Local, sub.Remote)
	a.str(keyUse, sub.Use)
	a.str(keySummary, f.Summary)
	a.str(keyFix, f.Fix)
	a.str(keyCodeStack, stack(f.Sites))
	return a
}

// stack writes the frames of the first site as the runtime writes a stack.
func stack(sites []tcpstate.Site) string {
	if len(sites) == 0 {
		return ""
	}
	var b strings.Builder
	for _, fr := range sites[0].Frames {
		fmt.Fprintf(&b, "%s(...)\n\t%s:%d\n", fr.Function, fr.File, fr.Line)
	}
	return b.String()
}

// links leads to the traces of the last use and of the dial.
func links(use, dial *token) []trace.Link {
	var all []trace.Link
	if use != nil {
		all = append(all, linkTo(use, roleLastUse))
	}
	if dial != nil {
		all = append(all, linkTo(dial, roleDial))
	}
	return all
}

func linkTo(k *token, role string) trace.Link {
	return trace.Link{SpanContext: k.sc, Attributes: attrs{keyLinkRole.String(role)}}
}

// asOf returns t on the clock that shows now: a tracker counts from its first
// use, and a clock that was set since, or a machine that slept, would put its
// times elsewhere than those of other spans.
func asOf(now, t time.Time) time.Time { return now.Add(t.Sub(now)) }
