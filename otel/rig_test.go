package tcpotel_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

// rig is a tracker with a clock of its own and everything that OpenTelemetry
// has to receive.
type rig struct {
	testing.TB
	tracker *tcpstate.Tracker
	clock   *testclock.Clock
	spans   *tracetest.InMemoryExporter
	traces  *sdktrace.TracerProvider
	reader  *sdkmetric.ManualReader
	metrics *sdkmetric.MeterProvider
	logs    *journal
	stop    func(context.Context) error
}

func newRig(t testing.TB) *rig {
	r := &rig{TB: t, tracker: &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}, spans: tracetest.NewInMemoryExporter(), logs: new(journal)}
	r.clock = testclock.Install(r.tracker)
	r.traces = sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans))
	r.reader = sdkmetric.NewManualReader()
	r.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader))
	t.Cleanup(func() {
		require.NoError(t, r.tracker.Close())
		testclock.Remove(r.tracker)
	})
	leaktest.Check(t, r.tracker, leaktest.IgnoreFindings()) // they are what is reported
	return r
}

// start begins to report; the rig stops it at the end of the test.
func (r *rig) start(opts ...tcpotel.Option) *rig {
	r.Helper()
	stop, err := tcpotel.Start(append(r.options(), opts...)...)
	require.NoError(r, err)
	r.stop = stop
	r.Cleanup(func() { require.NoError(r, stop(context.Background())) })
	return r
}

func (r *rig) options() []tcpotel.Option {
	return []tcpotel.Option{
		tcpotel.WithTracker(r.tracker),
		tcpotel.WithTracerProvider(r.traces),
		tcpotel.WithMeterProvider(r.metrics),
		tcpotel.WithLogger(slog.New(r.logs)),
	}
}

// finish stops reporting: everything that has happened is told afterwards.
func (r *rig) finish() {
	r.Helper()
	require.NoError(r, r.stop(r.Context()))
}

// accepted returns a tracked server's connection and its client.
func (r *rig) accepted(name string) (conn *tcpstate.Conn, client *net.TCPConn) {
	client, server := tcptest.Pair(r)
	return r.tracker.Track(server, tcpstate.Origin{Role: tcpstate.Server, Name: name}), client
}

// dialed returns a tracked client's connection, dialed with ctx, and its server.
func (r *rig) dialed(ctx context.Context, name string) (conn net.Conn, server *net.TCPConn, target string) {
	r.Helper()
	ln := tcptest.Listen(r)
	d := dialer.Dialer{Tracker: r.tracker, Name: name}
	conn, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	require.NoError(r, err)
	server, err = ln.AcceptTCP()
	require.NoError(r, err)
	r.Cleanup(func() { conn.Close(); server.Close() })
	return conn, server, ln.Addr().String()
}

// request begins a span as an application would.
func (r *rig) request(name string) (context.Context, trace.Span) {
	return r.traces.Tracer("app").Start(r.Context(), name, trace.WithNewRoot())
}

// abandon makes a finding: the client is gone, and nobody closes conn.
func (r *rig) abandon(conn net.Conn, peer *net.TCPConn) {
	r.Helper()
	require.NoError(r, peer.Close())
	tcptest.WaitState(r, conn.(*tcpstate.Conn), uint8(tcpstate.CloseWait))
	r.clock.Advance(33 * time.Second)
}

// named returns the spans with one name, in the order in which they ended.
func (r *rig) named(name string) []tracetest.SpanStub {
	var all []tracetest.SpanStub
	for _, s := range r.spans.GetSpans() {
		if s.Name == name {
			all = append(all, s)
		}
	}
	return all
}

// span waits for the one span with a name.
func (r *rig) span(name string) tracetest.SpanStub {
	r.Helper()
	tcptest.WaitUntil(r, "a span "+name, func() bool { return len(r.named(name)) > 0 })
	all := r.named(name)
	require.Len(r, all, 1)
	return all[0]
}

// settled waits until the reporter has returned from all that it was told of: a
// span is exported before, and what the reporter returns is known only then.
func (r *rig) settled() {
	r.Helper()
	ctx, next := r.request("next")
	defer next.End()
	_, _, target := r.dialed(ctx, "next")
	tcptest.WaitUntil(r, "the next dial to be told", func() bool {
		r.clock.Advance(time.Second) // the loop may have passed right before
		return len(r.named("socket connect "+target)) > 0
	})
}

// collected returns everything that metrics say now, by name.
func (r *rig) collected() map[string]metricdata.Metrics {
	r.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(r, r.reader.Collect(context.Background(), &rm))
	all := make(map[string]metricdata.Metrics)
	for _, sm := range rm.ScopeMetrics {
		require.Equal(r, tcpotel.ScopeName, sm.Scope.Name)
		for _, m := range sm.Metrics {
			all[m.Name] = m
		}
	}
	return all
}

// points returns the values of a sum, or the counts of a histogram, by their
// attributes.
func points(m metricdata.Metrics) map[string]float64 {
	all := make(map[string]float64)
	switch d := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			all[describe(p.Attributes)] = float64(p.Value)
		}
	case metricdata.Sum[float64]:
		for _, p := range d.DataPoints {
			all[describe(p.Attributes)] = p.Value
		}
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			all[describe(p.Attributes)] = float64(p.Count)
		}
	}
	return all
}

// sums returns the sums of a histogram by their attributes.
func sums(m metricdata.Metrics) map[string]float64 {
	all := make(map[string]float64)
	if d, ok := m.Data.(metricdata.Histogram[float64]); ok {
		for _, p := range d.DataPoints {
			all[describe(p.Attributes)] = p.Sum
		}
	}
	return all
}

// points collects and returns the points of one instrument.
func (r *rig) points(name string) map[string]float64 {
	r.Helper()
	return points(r.collected()[name])
}

// describe writes attributes as "key=value key=value": keys without their
// prefixes, functions without their package.
func describe(s attribute.Set) string {
	var parts []string
	for _, kv := range s.ToSlice() {
		k, v := string(kv.Key), kv.Value.Emit()
		switch {
		case k == "code.function.name":
			k, v = "function", v[strings.LastIndexByte(v, '.')+1:]
		case strings.HasPrefix(k, "tcpstate.pool."):
			k = strings.TrimPrefix(k, "tcpstate.")
		case strings.HasPrefix(k, "tcpstate."), strings.HasPrefix(k, "network."):
			k = k[strings.LastIndexByte(k, '.')+1:]
		}
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// attr returns an attribute of a span.
func attr(s tracetest.SpanStub, key string) attribute.Value {
	for _, kv := range s.Attributes {
		if string(kv.Key) == key {
			return kv.Value
		}
	}
	return attribute.Value{}
}

// journal is a slog.Handler that keeps records with the span context of their
// contexts.
type journal struct {
	mu      sync.Mutex // guards following fields
	records []entry
}

type entry struct {
	slog.Record
	sc trace.SpanContext
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(ctx context.Context, rec slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.records = append(j.records, entry{rec, trace.SpanContextFromContext(ctx)})
	return nil
}

func (j *journal) all() []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.records)
}

// event returns the value of event.name.
func (e entry) event() string { return e.value("event.name") }

func (e entry) value(key string) (v string) {
	e.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			v = a.Value.String()
		}
		return true
	})
	return v
}
