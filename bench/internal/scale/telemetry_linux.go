package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/tcpstate/tcpstate-go/dialer"
	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Telemetry is what one process sends to a collector by OTLP.
type Telemetry struct {
	Names        int // of dialers and listeners
	Points       int // data points of an export, of which a histogram has one
	Bytes        int // of an export, not compressed
	FindingSpan  int // bytes of the span of a finding
	Conn         int // bytes of all spans of a connection that had a finding, when it is closed
	ConnSpans    int // how many these are
	FindingSpans int // spans of findings
}

// telemetryOf measures in a process of its own.
func telemetryOf(ctx context.Context, names int) (Telemetry, error) {
	p, err := start(ctx, "holder")
	if err != nil {
		return Telemetry{}, err
	}
	defer p.stop()
	return ask[Telemetry](p, "telemetry", names)
}

// collector counts what it is sent.
type collector struct{ bytes atomic.Int64 }

// ServeHTTP counts.
func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	c.bytes.Add(n)
}

// took returns the bytes since the last call.
func (c *collector) took() int { return int(c.bytes.Swap(0)) }

// spanCounter exports, and counts.
type spanCounter struct {
	trace.SpanExporter
	n atomic.Int64
}

// ExportSpans implements trace.SpanExporter.
func (s *spanCounter) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	s.n.Add(int64(len(spans)))
	return s.SpanExporter.ExportSpans(ctx, spans)
}

// telemetry has connections of that many names, each dialed, accepted and used,
// and then one that leaks.
func (h *holder) telemetry(names int) (t Telemetry, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t.Names = names
	var c collector
	srv := httptest.NewServer(&c)
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	metrics, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpoint(addr), otlpmetrichttp.WithInsecure())
	if err != nil {
		return t, err
	}
	traces, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpoint(addr), otlptracehttp.WithInsecure())
	if err != nil {
		return t, err
	}
	spans := &spanCounter{SpanExporter: traces}
	reader := metric.NewManualReader()
	tp := trace.NewTracerProvider(trace.WithBatcher(spans))
	stop, err := tcpotel.Start(tcpotel.WithTracker(&h.tracker), tcpotel.WithTracerProvider(tp),
		tcpotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))), tcpotel.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, stop(ctx), metrics.Shutdown(ctx), tp.Shutdown(ctx)) }()

	// Each name has a connection that is open and one that was closed.
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := range names {
		for range 2 {
			d, a, err := h.pair(fmt.Sprintf("name%02d", i))
			if err != nil {
				return t, err
			}
			open = append(open, d, a)
		}
		d, a := open[len(open)-2], open[len(open)-1]
		if err := errors.Join(d.Close(), a.Close()); err != nil {
			return t, err
		}
		open = open[:len(open)-2]
	}
	if err := h.await("connections to be accounted for", func() bool {
		return h.tracker.Stats().Watched == len(open)
	}); err != nil {
		return t, err
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		return t, err
	}
	t.Points = points(&all)
	if err := metrics.Export(ctx, &all); err != nil {
		return t, err
	}
	t.Bytes = c.took()

	if err := h.tracker.Set(func(c *tcpstate.Config) { c.Thresholds.CloseWait = 20 * time.Millisecond }); err != nil {
		return t, err
	}
	if err := open[0].Close(); err != nil { // the accepted end leaks
		return t, err
	}
	if err := h.await("a finding", func() bool { return h.tracker.Stats().Found > 0 }); err != nil {
		return t, err
	}
	flush := func(atLeast int64) error {
		return errors.Join(h.await("spans", func() bool {
			return tp.ForceFlush(ctx) == nil && spans.n.Load() >= atLeast
		}), tp.ForceFlush(ctx))
	}
	if err := flush(1); err != nil {
		return t, err
	}
	t.FindingSpans, t.FindingSpan = int(spans.n.Load()), c.took()
	if err := open[1].Close(); err != nil {
		return t, err
	}
	if err := flush(int64(t.FindingSpans) + 1); err != nil {
		return t, err
	}
	t.ConnSpans, t.Conn = int(spans.n.Load())-t.FindingSpans, c.took()
	return t, nil
}

// pair makes a connection that is tracked at both ends, and uses it.
func (h *holder) pair(name string) (dialed, accepted net.Conn, err error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	dialed, err = (&dialer.Dialer{Tracker: &h.tracker, Name: name}).Dial("tcp4", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	c, err := ln.Accept()
	if err != nil {
		return nil, nil, err
	}
	accepted = h.tracker.Wrap(c, tcpstate.Origin{Role: tcpstate.Server, Name: name})
	b := make([]byte, 1)
	for _, step := range []func([]byte) (int, error){dialed.Write, accepted.Read, accepted.Write, dialed.Read} {
		if _, err := step(b); err != nil {
			return nil, nil, err
		}
	}
	return dialed, accepted, nil
}

// points counts data points.
func points(all *metricdata.ResourceMetrics) (n int) {
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				n += len(d.DataPoints)
			case metricdata.Sum[float64]:
				n += len(d.DataPoints)
			case metricdata.Gauge[int64]:
				n += len(d.DataPoints)
			case metricdata.Gauge[float64]:
				n += len(d.DataPoints)
			case metricdata.Histogram[float64]:
				n += len(d.DataPoints)
			case metricdata.Histogram[int64]:
				n += len(d.DataPoints)
			}
		}
	}
	return n
}
