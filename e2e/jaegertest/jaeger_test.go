package jaegertest_test

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/e2e/jaegertest"
)

const (
	service = "jaegertest-self"
	scope   = "github.com/tcpstate/tcpstate-go/e2e/jaegertest_test"
)

// newTracer exports to Jaeger under that service name. The function it returns
// too exports what is pending.
func newTracer(t *testing.T, jaeger *jaegertest.Server, service string) (trace.Tracer, func()) {
	t.Helper()
	exporter, err := otlptracehttp.New(t.Context(),
		otlptracehttp.WithEndpointURL(jaeger.OTLPEndpoint()+"/v1/traces"))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", service),
			attribute.String("service.version", "1.2.3"),
		)),
	)
	t.Cleanup(func() {
		// Not t.Context: it is done when cleanups run.
		if err := provider.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return provider.Tracer(scope, trace.WithInstrumentationVersion("0.9.0")), func() {
		t.Helper()
		if err := provider.ForceFlush(t.Context()); err != nil {
			t.Fatalf("flush: %v", err)
		}
	}
}

func TestTwoTracesAndTheirLinkComeBack(t *testing.T) {
	jaeger := jaegertest.Start(t)
	tracer, flush := newTracer(t, jaeger, service)

	// The first trace: a connection whose dial failed.
	began := time.Now().Add(-time.Second).Truncate(time.Microsecond)
	ctx, conn := tracer.Start(t.Context(), "connection",
		trace.WithSpanKind(trace.SpanKindInternal), trace.WithTimestamp(began))
	_, dial := tracer.Start(ctx, "dial",
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(began.Add(time.Millisecond)),
		trace.WithAttributes(
			attribute.String("network.peer.address", "127.0.0.1"),
			attribute.Int("network.peer.port", 8080),
			attribute.Int64("big", math.MaxInt64),
			attribute.Bool("reused", false),
			attribute.Float64("ratio", 0.25),
			attribute.StringSlice("states", []string{"syn-sent", "close"}),
		))
	dial.AddEvent("retransmit",
		trace.WithAttributes(attribute.Int("count", 3)), trace.WithTimestamp(began.Add(2*time.Millisecond)))
	dial.SetStatus(codes.Error, "connection refused")
	dial.End(trace.WithTimestamp(began.Add(5 * time.Millisecond)))
	conn.SetStatus(codes.Ok, "")
	conn.End(trace.WithTimestamp(began.Add(6 * time.Millisecond)))

	// The second: a request that links the connection, and has a child.
	ctx, request := tracer.Start(t.Context(), "request",
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithLinks(trace.Link{
			SpanContext: conn.SpanContext(),
			Attributes:  []attribute.KeyValue{attribute.String("tcpstate.link", "connection")},
		}))
	_, query := tracer.Start(ctx, "query")
	query.End()
	request.End()
	flush()

	traces := jaeger.WaitTraces(t, service, jaegertest.Query{}, func(traces []jaegertest.Trace) bool {
		return len(traces) == 2 && len(traces[0].Spans) == 2 && len(traces[1].Spans) == 2
	})

	if got := jaeger.Services(t); !slices.Contains(got, service) {
		t.Errorf("services: got %q, want one to be %q", got, service)
	}

	first, second := traces[0], traces[1]
	if got, want := first.TraceID, conn.SpanContext().TraceID().String(); got != want {
		t.Errorf("first trace: got ID %s, want %s", got, want)
	}
	if got, want := second.TraceID, request.SpanContext().TraceID().String(); got != want {
		t.Errorf("second trace: got ID %s, want %s", got, want)
	}

	t.Run("dial", func(t *testing.T) {
		got := mustSpan(t, first, "dial")
		if got.Service() != service {
			t.Errorf("service: got %q, want %q", got.Service(), service)
		}
		if v := got.Process.Tags.Value("service.version"); v != "1.2.3" {
			t.Errorf("resource attribute service.version: got %v, want 1.2.3", v)
		}
		if want := dial.SpanContext().SpanID().String(); got.SpanID != want {
			t.Errorf("span ID: got %s, want %s", got.SpanID, want)
		}
		if got.Kind() != "client" {
			t.Errorf("kind: got %q, want client", got.Kind())
		}
		for key, want := range map[string]any{
			"network.peer.address": "127.0.0.1",
			"network.peer.port":    int64(8080),
			"big":                  int64(math.MaxInt64),
			"reused":               false,
			"ratio":                0.25,
			"states":               `["syn-sent","close"]`,
			"otel.scope.name":      scope,
			"otel.scope.version":   "0.9.0",
			"otel.status_code":     "ERROR",
			"error":                true,
			"absent":               nil,
		} {
			if v := got.Tags.Value(key); v != want {
				t.Errorf("tag %s: got %#v, want %#v", key, v, want)
			}
		}
		if code, description := got.Status(); code != "ERROR" || description != "connection refused" {
			t.Errorf("status: got %q, %q, want ERROR, connection refused", code, description)
		}
		if !got.StartTime.Equal(began.Add(time.Millisecond)) || got.Duration != 4*time.Millisecond {
			t.Errorf("time: got %v for %v, want %v for 4ms", got.StartTime, got.Duration, began.Add(time.Millisecond))
		}
		parent, ok := got.Parent()
		want := reference(jaegertest.ChildOf, conn)
		if !ok || parent != want {
			t.Errorf("parent: got %v, %v, want %v", parent, ok, want)
		}
		if links := got.Links(); len(links) != 0 {
			t.Errorf("links: got %v, want none", links)
		}
		if len(got.Logs) != 1 {
			t.Fatalf("events: got %v, want one", got.Logs)
		}
		event := got.Logs[0]
		if event.Fields.Value("event") != "retransmit" || event.Fields.Value("count") != int64(3) {
			t.Errorf("event: got %v, want retransmit with count 3", event.Fields)
		}
		if !event.Timestamp.Equal(began.Add(2 * time.Millisecond)) {
			t.Errorf("event: got time %v, want %v", event.Timestamp, began.Add(2*time.Millisecond))
		}
	})

	t.Run("connection", func(t *testing.T) {
		got := mustSpan(t, first, "connection")
		if code, _ := got.Status(); code != "OK" {
			t.Errorf("status: got %q, want OK", code)
		}
		if len(got.References) != 0 {
			t.Errorf("references: got %v, want none", got.References)
		}
	})

	t.Run("request", func(t *testing.T) {
		got := mustSpan(t, second, "request")
		want := reference(jaegertest.FollowsFrom, conn)
		if links := got.Links(); !slices.Equal(links, []jaegertest.Reference{want}) {
			t.Errorf("links: got %v, want only %v", links, want)
		}
		if !got.HasLink(first.TraceID, mustSpan(t, first, "connection").SpanID) {
			t.Errorf("the link does not lead to the span %q that came back", "connection")
		}
		if parent, ok := got.Parent(); ok {
			t.Errorf("parent: got %v, want none: it is a root", parent)
		}
		if code, _ := got.Status(); code != "" || got.Tags.Value("error") != nil {
			t.Errorf("status: got %q and error=%v, want neither", code, got.Tags.Value("error"))
		}
		// The rest is what Jaeger does not keep.
		if v := got.Tags.Value("tcpstate.link"); v != nil {
			t.Errorf("the link's attribute: got %v, but doc.go says that it is dropped", v)
		}
	})
}

func TestQueryNarrows(t *testing.T) {
	jaeger := jaegertest.Start(t)
	if got := jaeger.Traces(t, service, jaegertest.Query{}); len(got) != 0 {
		t.Fatalf("before any export: got %v, want none", got)
	}

	tracer, flush := newTracer(t, jaeger, service)
	other, flushOther := newTracer(t, jaeger, "another")
	began := time.Now().Add(-time.Minute)
	for i, name := range []string{"a", "b"} {
		_, span := tracer.Start(t.Context(), name,
			trace.WithTimestamp(began.Add(time.Duration(i)*time.Second)),
			trace.WithAttributes(attribute.String("name", name), attribute.Int("length", len(name))))
		span.End()
	}
	_, span := other.Start(t.Context(), "a")
	span.End()
	flush()
	flushOther()
	jaeger.WaitTraces(t, "another", jaegertest.Query{}, nil)
	jaeger.WaitTraces(t, service, jaegertest.Query{}, func(traces []jaegertest.Trace) bool { return len(traces) == 2 })

	for _, test := range []struct {
		name  string
		query jaegertest.Query
		want  []string
	}{
		{"all", jaegertest.Query{}, []string{"a", "b"}},
		{"operation", jaegertest.Query{Operation: "b"}, []string{"b"}},
		{"tag", jaegertest.Query{Tags: map[string]string{"name": "a", "length": "1"}}, []string{"a"}},
		{"tags not met", jaegertest.Query{Tags: map[string]string{"name": "a", "length": "2"}}, nil},
		{"limit to the newest", jaegertest.Query{Limit: 1}, []string{"b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, trace := range jaeger.Traces(t, service, test.query) {
				got = append(got, trace.Spans[0].OperationName)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}

	id := span.SpanContext().TraceID().String()
	if got, ok := jaeger.Trace(t, id); !ok || got.TraceID != id {
		t.Errorf("trace %s: got %v, %v", id, got, ok)
	}
	if got, ok := jaeger.Trace(t, "00000000000000000000000000000abc"); ok {
		t.Errorf("a trace that is not there: got %v", got)
	}
}

// TestLinkToOwnParentReplacesIt holds Jaeger to what doc.go says of it, since a
// test that looks for a parent would otherwise be puzzled.
func TestLinkToOwnParentReplacesIt(t *testing.T) {
	jaeger := jaegertest.Start(t)
	tracer, flush := newTracer(t, jaeger, service)
	ctx, parent := tracer.Start(t.Context(), "parent")
	_, child := tracer.Start(ctx, "child",
		trace.WithLinks(trace.Link{SpanContext: parent.SpanContext()}))
	child.End()
	parent.End()
	flush()

	traces := jaeger.WaitTraces(t, service, jaegertest.Query{}, func(traces []jaegertest.Trace) bool {
		return len(traces) == 1 && len(traces[0].Spans) == 2
	})
	got := mustSpan(t, traces[0], "child").References
	want := []jaegertest.Reference{reference(jaegertest.FollowsFrom, parent)}
	if !slices.Equal(got, want) {
		t.Errorf("references: got %v, want %v", got, want)
	}
}

// TestEndBeforeStartIsANegativeDuration has a span that ends before it starts,
// as one that mixes two clocks may. The query API gives it as a huge unsigned
// number.
func TestEndBeforeStartIsANegativeDuration(t *testing.T) {
	jaeger := jaegertest.Start(t)
	tracer, flush := newTracer(t, jaeger, service)
	now := time.Now()
	_, span := tracer.Start(t.Context(), "backwards", trace.WithTimestamp(now))
	span.End(trace.WithTimestamp(now.Add(-3 * time.Millisecond)))
	flush()

	got := mustSpan(t, jaeger.WaitTraces(t, service, jaegertest.Query{}, nil)[0], "backwards").Duration
	if want := -3 * time.Millisecond; got != want {
		t.Errorf("duration: got %v, want %v", got, want)
	}
}

func TestServerEndsWithItsTest(t *testing.T) {
	var addresses []string
	t.Run("inner", func(t *testing.T) {
		jaeger := jaegertest.Start(t)
		for _, address := range []string{
			jaeger.OTLPEndpoint()[len("http://"):],
			jaeger.OTLPGRPCEndpoint(),
			jaeger.QueryURL()[len("http://"):],
			jaeger.AdminURL()[len("http://"):],
		} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Errorf("while it runs: %v", err)
				continue
			}
			conn.Close()
			addresses = append(addresses, address)
		}
	})
	for _, address := range addresses {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("%s answers after the test", address)
		}
	}
}

func TestLaunchTellsThatAPortIsTaken(t *testing.T) {
	bin := jaegertest.Build(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct{ name, http, grpc string }{
		{"http", taken.Addr().String(), "127.0.0.1:0"},
		{"grpc", "127.0.0.1:0", taken.Addr().String()},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := jaegertest.Launch(t.Context(), bin, test.http, test.grpc)
			if !errors.Is(err, jaegertest.ErrPortTaken) {
				t.Errorf("got %v, want %v", err, jaegertest.ErrPortTaken)
			}
		})
	}
}

func mustSpan(t *testing.T, trace jaegertest.Trace, name string) jaegertest.Span {
	t.Helper()
	span, ok := trace.Span(name)
	if !ok {
		t.Fatalf("trace %s has no span %q", trace.TraceID, name)
	}
	return span
}

func reference(refType string, span trace.Span) jaegertest.Reference {
	return jaegertest.Reference{
		RefType: refType,
		TraceID: span.SpanContext().TraceID().String(),
		SpanID:  span.SpanContext().SpanID().String(),
	}
}
