package tcpotel

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// reporter observes one tracker. The functions of its observer run one at a
// time; the callback of the metrics runs concurrently with them.
type reporter struct {
	ending
	tracker *tcpstate.Tracker
	tracer  trace.Tracer
	logger  *slog.Logger // nil: slog.Default() of the moment
	spans   ConnectionSpans
	inst    instruments
	dims    dimensions
	dbNames bool // see WithDBClientNames

	groups   map[uint64]told // by id: those that are open; owned by the observer
	examples examples        // of suspects, see WithConnectionSpans

	countedMu sync.Mutex        // guards following fields
	counted   map[uint64]uint64 // by id of the group: events that are in finding.opened
}

// told is what is remembered of a group that was reported: its end is counted
// where its beginning was, whatever became of the example that is shown.
type told struct {
	key  key
	span trace.SpanContext // of the finding; invalid without one
}

func newReporter(c *config) (*reporter, error) {
	r := &reporter{
		tracker: c.tracker,
		tracer:  c.traces.Tracer(ScopeName, trace.WithInstrumentationVersion(Version())),
		logger:  c.logger,
		spans:   c.spans,
		dbNames: c.dbNames,
		groups:  make(map[uint64]told),
	}
	r.done = make(chan struct{})
	r.dims.init(c)
	r.eventsBefore()
	if err := r.register(c.metrics); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *reporter) observer() *tcpstate.Observer {
	return &tcpstate.Observer{
		Token:    takeToken,
		DialDone: r.dialDone,

		HandshakeDone: r.handshakeDone,
		WaitDone:      r.waitSpan,

		Closed:   r.closed,
		Opened:   func(f tcpstate.Finding) { r.found(&f, "tcpstate.finding.opened") },
		Changed:  func(f tcpstate.Finding) { r.found(&f, "tcpstate.finding.changed") },
		Reminded: r.reminded,
		Cleared:  r.cleared,
	}
}

// dialDone reports a dial. The span it made stands for the dial from now on.
func (r *reporter) dialDone(d tcpstate.DialInfo) any {
	caller := tokenOf(d.Token)
	made := r.connectSpan(&d, caller)

	ctx := sampled(made.context(), caller.context())
	k := r.dims.ofDial(&d)
	if d.Retransmits > 0 {
		r.inst.connectRetransmits.Add(ctx, int64(d.Retransmits), r.dims.syns.get(k).add...)
	}
	if d.Err != nil {
		k.errorType = errorType(d.Err)
	} else {
		k.network = r.dims.networkOf(d.Remote)
	}
	r.inst.connectDuration.Record(ctx, d.End.Sub(d.Start).Seconds(), r.dims.dials.get(k).record...)
	if made == nil {
		return nil
	}
	return made
}

// handshakeDone reports a TLS handshake. Those of other protocols, which
// applications name as they like, have no metric.
func (r *reporter) handshakeDone(h tcpstate.HandshakeInfo) {
	if h.Protocol != tcpstate.ProtocolTLS {
		return
	}
	k := key{role: h.Role.String(), name: r.dims.names.of(h.Name)}
	if h.Err != nil {
		k.errorType = handshakeError(h.Err)
	}
	ctx := sampled(tokenOf(h.DialToken).context())
	r.inst.handshake.Record(ctx, seconds(h.Start, h.End), r.dims.shakes.get(k).record...)
}

// closed reports the end of a connection.
func (r *reporter) closed(c tcpstate.ClosedInfo) {
	ctx := sampled(tokenOf(c.UseToken).context(), tokenOf(c.DialToken).context())
	k := r.dims.ofConn(&c)
	conn := r.dims.conns.get(k)
	if waited(&c) {
		r.inst.closeWait.Record(ctx, seconds(c.PeerClosed, c.Ended), conn.record...)
	}
	if c.RTT > 0 {
		r.inst.rtt.Record(ctx, c.RTT.Seconds(), conn.record...)
	}
	k.reason, k.errorType = string(c.Reason), closeError(c.Reason)
	r.inst.duration.Record(ctx, seconds(c.Opened, c.Ended), r.dims.closes.get(k).record...)
	switch {
	case r.spans == Suspect:
		r.exampleSpan(&c)
	case r.wantsSpan(&c):
		r.connectionSpan(&c)
	}
}

// waited reports whether the connection was in CLOSE-WAIT for a known time. A
// FIN that answers ours is not the beginning of one.
func waited(c *tcpstate.ClosedInfo) bool {
	return !c.PeerClosed.IsZero() && c.Reason != tcpstate.CloseLocal
}

// found reports a finding that is new, or new as this kind.
func (r *reporter) found(f *tcpstate.Finding, event string) {
	g := told{key: r.dims.ofFinding(f), span: r.findingSpan(f)}
	r.groups[f.Group.ID] = g
	r.count(f, g)
	r.log(f, event, g)
}

func (r *reporter) reminded(f tcpstate.Finding) {
	g := r.recall(&f)
	r.count(&f, g)
	r.log(&f, "tcpstate.finding.reminded", g)
}

func (r *reporter) cleared(f tcpstate.Finding) {
	g := r.recall(&f)
	delete(r.groups, f.Group.ID)
	r.count(&f, g)
	r.log(&f, "tcpstate.finding.cleared", g)
}

// recall returns what is remembered of f's group, or what would be.
func (r *reporter) recall(f *tcpstate.Finding) told {
	g, ok := r.groups[f.Group.ID]
	if !ok {
		g.key = r.dims.ofFinding(f)
	}
	return g
}

// count counts what happened to a group since its last event.
func (r *reporter) count(f *tcpstate.Finding, g told) {
	ctx := sampled(tokenOf(f.Tokens.Use).context(), tokenOf(f.Tokens.Dial).context(), g.span)
	add := r.dims.findings.get(g.key).add
	if n := f.Group.NewlyOpened; n > 0 {
		r.inst.opened.Add(ctx, int64(n), add...)
	}
	if n := f.Group.NewlyCleared; n > 0 {
		r.inst.cleared.Add(ctx, int64(n), add...)
	}
}

// eventsBefore takes note of the events that are only counted and came before
// Start, which do not count.
func (r *reporter) eventsBefore() {
	r.counted = counted(r.tracker.FindingCounts(), func(*tcpstate.FindingCount) {})
}

// countEvents counts events that are only counted, of which observers are not
// told. Their groups last for ten minutes after the latest one, which is longer
// than the time between two collections.
func (r *reporter) countEvents(all []tcpstate.FindingCount) {
	r.countedMu.Lock()
	defer r.countedMu.Unlock()
	r.counted = counted(all, func(f *tcpstate.FindingCount) {
		if n := f.Opened - min(f.Opened, r.counted[f.ID]); n > 0 {
			r.inst.opened.Add(context.Background(), int64(n), r.dims.findings.get(r.dims.ofCount(f)).add...)
		}
	})
}

// counted calls f with every group of events that are only counted, and returns
// how many each has had.
func counted(all []tcpstate.FindingCount, f func(*tcpstate.FindingCount)) map[uint64]uint64 {
	events := make(map[uint64]uint64)
	for i := range all {
		if all[i].Severity == tcpstate.Count {
			f(&all[i])
			events[all[i].ID] = all[i].Opened
		}
	}
	return events
}

// seconds returns the time between two moments, 0 where a clock was set back.
func seconds(from, to time.Time) float64 { return max(to.Sub(from), 0).Seconds() }

// sampled returns a context with the first of the span contexts that is
// sampled: what an exemplar needs, and no more of the caller's context.
func sampled(of ...trace.SpanContext) context.Context {
	for _, sc := range of {
		if sc.IsSampled() {
			return trace.ContextWithSpanContext(context.Background(), sc)
		}
	}
	return context.Background()
}
