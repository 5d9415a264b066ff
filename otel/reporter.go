package tcpotel

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
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

	joined atomic.Int64 // findings that joined a group without a report of their own

	mu     sync.Mutex // guards following fields
	groups map[uint64]told
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
		groups:  make(map[uint64]told),
	}
	r.done = make(chan struct{})
	r.dims.init(c)
	if err := r.register(c.metrics); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *reporter) observer() *tcpstate.Observer {
	return &tcpstate.Observer{
		Token:    takeToken,
		DialDone: r.dialDone,
		Closed:   r.closed,
		Opened:   func(f tcpstate.Finding) { r.found(&f, "tcpstate.finding.opened") },
		Changed:  func(f tcpstate.Finding) { r.found(&f, "tcpstate.finding.changed") },
		Reminded: func(f tcpstate.Finding) { r.updated(&f, "tcpstate.finding.reminded") },
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
	if r.wantsSpan(&c) {
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
	r.remember(f.Group.ID, g)
	r.count(f, g, 1)
	r.log(f, event, g)
}

// updated reports what became of a group.
func (r *reporter) updated(f *tcpstate.Finding, event string) {
	g := r.recall(f)
	r.count(f, g, 0)
	r.log(f, event, g)
}

func (r *reporter) cleared(f tcpstate.Finding) {
	r.updated(&f, "tcpstate.finding.cleared")
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.groups, f.Group.ID)
}

// maxGroups bounds the memory of groups: the end of one is lost when the
// tracker's queue is full. It is twice what a tracker keeps.
const maxGroups = 8192

func (r *reporter) remember(id uint64, g told) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.groups) >= maxGroups {
		for any := range r.groups {
			delete(r.groups, any)
			break
		}
	}
	r.groups[id] = g
}

func (r *reporter) recall(f *tcpstate.Finding) told {
	r.mu.Lock()
	defer r.mu.Unlock()
	g, ok := r.groups[f.Group.ID]
	if !ok {
		g.key = r.dims.ofFinding(f)
	}
	return g
}

// count counts what happened to a group since its last event; reported of that
// is what the present event is about.
func (r *reporter) count(f *tcpstate.Finding, g told, reported uint64) {
	opened, cleared := f.Group.NewlyOpened, f.Group.NewlyCleared
	if opened > reported {
		r.joined.Add(int64(opened - reported))
	}
	ctx := sampled(tokenOf(f.Tokens.Use).context(), tokenOf(f.Tokens.Dial).context(), g.span)
	add := r.dims.findings.get(g.key).add
	if opened > 0 {
		r.inst.opened.Add(ctx, int64(opened), add...)
	}
	if cleared > 0 {
		r.inst.cleared.Add(ctx, int64(cleared), add...)
	}
}

// countUntold counts what happened to open groups since their last event. It is
// called when no event comes any more.
func (r *reporter) countUntold() {
	r.mu.Lock()
	groups := r.groups
	r.groups = make(map[uint64]told)
	r.mu.Unlock()
	if len(groups) == 0 {
		return
	}
	for _, f := range r.tracker.Findings() {
		if g, ok := groups[f.Group.ID]; ok {
			delete(groups, f.Group.ID)
			r.count(&f, g, 0)
		}
	}
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
