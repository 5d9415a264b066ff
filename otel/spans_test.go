package tcpotel_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestADialIsAChildOfTheCallersSpan(t *testing.T) {
	r := newRig(t).start()
	ctx, caller := r.request("pay")
	before := r.clock.Now()
	conn, _, target := r.dialed(ctx, "payments")
	caller.End()
	r.finish()
	span := r.span("socket connect " + target)
	require.Equal(t, caller.SpanContext().SpanID(), span.Parent.SpanID())
	require.Equal(t, caller.SpanContext().TraceID(), span.SpanContext.TraceID())
	require.Equal(t, trace.SpanKindInternal, span.SpanKind)
	require.Equal(t, codes.Unset, span.Status.Code)
	require.WithinDuration(t, before, span.StartTime, time.Millisecond)
	require.Equal(t, "payments", attr(span, "tcpstate.connection.name").AsString())
	require.Equal(t, "127.0.0.1", attr(span, "server.address").AsString())
	port := int64(conn.RemoteAddr().(*net.TCPAddr).Port)
	require.Equal(t, port, attr(span, "server.port").AsInt64())
	require.Equal(t, port, attr(span, "network.peer.port").AsInt64())
	require.Equal(t, int64(conn.LocalAddr().(*net.TCPAddr).Port), attr(span, "network.local.port").AsInt64())
	require.Equal(t, "ipv4", attr(span, "network.type").AsString())
}

func TestADialThatFailsIsAnError(t *testing.T) {
	r := newRig(t).start()
	ctx, caller := r.request("pay")
	target := refusingAddress(t)
	d := dialer.Dialer{Tracker: r.tracker}
	_, err := d.DialContext(ctx, "tcp", target)
	require.Error(t, err)
	caller.End()
	r.finish()
	span := r.span("socket connect " + target)
	require.Equal(t, codes.Error, span.Status.Code)
	require.Equal(t, err.Error(), span.Status.Description)
	require.Equal(t, "connection_refused", attr(span, "error.type").AsString())
}

func TestADialWithoutARecordingCallerMakesNoSpan(t *testing.T) {
	r := newRig(t).start()
	r.dialed(t.Context(), "a")
	remote := trace.ContextWithRemoteSpanContext(t.Context(), spanContext(1))
	r.dialed(remote, "b")
	r.finish()
	require.Empty(t, r.spans.GetSpans())
}

func spanContext(n byte) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{15: n}, SpanID: trace.SpanID{7: n}, TraceFlags: trace.FlagsSampled,
	})
}

func TestAfterAHundredTargetsDialsShareOneSpanName(t *testing.T) {
	r := newRig(t)
	o, end, err := tcpotel.Detached(r.options()...)
	require.NoError(t, err)
	defer func() { require.NoError(t, end()) }()
	ctx, caller := r.request("caller")
	defer caller.End()
	for i := range 150 {
		o.DialDone(tcpstate.DialInfo{Target: net.JoinHostPort("host", string(rune('0'+i))), Token: o.Token(ctx)})
	}
	names := make(map[string]int)
	for _, s := range r.spans.GetSpans() {
		names[s.Name]++
	}
	require.Len(t, names, tcpotel.MaxTargets+1)
	require.Equal(t, 150-tcpotel.MaxTargets, names["socket connect"])
}

func TestAFindingIsATraceOfItsOwnLinkedToDialAndLastUse(t *testing.T) {
	r := newRig(t).start()
	dialCtx, dialing := r.request("warm up")
	conn, server, target := r.dialed(dialCtx, "payments")
	dialing.End()
	r.clock.Advance(2 * time.Second)
	connect := r.span("socket connect " + target)
	r.settled()
	useCtx, using := r.request("charge")
	done := conn.(*tcpstate.Conn).Watch().Use(useCtx, tcpstate.Use{Method: "GET", Name: "/charge"})
	defer done()
	using.End()
	_, err := server.Write(make([]byte, 160))
	require.NoError(t, err)
	fin := r.clock.Now()
	r.abandon(conn, server)

	span := r.span("tcpstate finding close_wait.unread_body")
	require.False(t, span.Parent.IsValid())
	require.Equal(t, codes.Error, span.Status.Code)
	require.Contains(t, span.Status.Description, "response body never closed at otel/")
	require.WithinDuration(t, fin, span.StartTime, 1100*time.Millisecond)
	require.InDelta(t, 30, span.EndTime.Sub(span.StartTime).Seconds(), 1.1)
	require.Equal(t, map[string]trace.SpanID{
		"last_use": using.SpanContext().SpanID(),
		"dial":     connect.SpanContext.SpanID(),
	}, linksOf(span))

	var keys []string
	for _, kv := range span.Attributes {
		keys = append(keys, string(kv.Key))
	}
	require.Equal(t, []string{
		"tcpstate.finding.id", "tcpstate.finding.kind", "tcpstate.finding.severity", "tcpstate.connection.name",
		"server.address", "server.port", "code.function.name", "code.file.path", "code.line.number",
		"tcpstate.recv_queue", "tcpstate.finding.age", "tcpstate.age.peer_fin",
	}, keys[:12])
	require.Equal(t, int64(160), attr(span, "tcpstate.recv_queue").AsInt64())
	require.Equal(t, "GET /charge", attr(span, "tcpstate.use").AsString())
	require.Equal(t, "close_wait.unread_body", attr(span, "error.type").AsString())
	require.Equal(t, "close_wait", attr(span, "network.connection.state").AsString())
	require.Equal(t, "127.0.0.1", attr(span, "network.peer.address").AsString())
	require.Contains(t, attr(span, "code.stacktrace").AsString(), "spans_test.go:")

	id := using.SpanContext().TraceID().String()
	f := r.tracker.Findings()[0]
	require.Empty(t, f.Tokens, "tokens are those of the observer that asks")
	r.finish() // the record comes after the span
	require.Len(t, r.logs.all(), 1)
	require.Equal(t, id, r.logs.all()[0].sc.TraceID().String())
}

func linksOf(s tracetest.SpanStub) map[string]trace.SpanID {
	all := make(map[string]trace.SpanID)
	for _, l := range s.Links {
		all[l.Attributes[0].Value.AsString()] = l.SpanContext.SpanID()
	}
	return all
}

func TestATokenShowsItsTraceInReports(t *testing.T) {
	r := newRig(t)
	o, end, err := tcpotel.Detached(r.options()...)
	require.NoError(t, err)
	defer func() { require.NoError(t, end()) }()
	require.Nil(t, o.Token(t.Context()), "no span, no token")
	id, err := trace.TraceIDFromHex("4bf92f3577b34da6a3ce929d0e0e4736")
	require.NoError(t, err)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{1}})
	token := o.Token(trace.ContextWithSpanContext(t.Context(), sc))
	require.Equal(t, "4bf92f35…4736", token.(interface{ TraceString() string }).TraceString())
}

func TestInventoryMakesNoSpanAndNoRecord(t *testing.T) {
	r := newRig(t).start()
	conn, server, _ := r.dialed(t.Context(), "cache")
	conn.(*tcpstate.Conn).Watch().Expect(tcpstate.Expect{Pooled: true})
	r.abandon(conn, server)
	require.Equal(t, map[string]float64{"function=dialed kind=close_wait.idle_in_pool name=cache severity=inventory": 1},
		r.points("tcpstate.finding.count"))
	require.NoError(t, conn.Close())
	r.clock.Advance(2 * time.Second)
	r.finish()
	require.Empty(t, r.spans.GetSpans())
	require.Empty(t, r.logs.all())
	require.Equal(t, map[string]float64{"function=dialed kind=close_wait.idle_in_pool name=cache severity=inventory": 1},
		r.points("tcpstate.finding.opened"))
}

func TestAClientsAddressLeavesOnlyAsANetwork(t *testing.T) {
	r := newRig(t).start()
	conn, client := r.accepted("api")
	peer := conn.RemoteAddr().(*net.TCPAddr)
	r.abandon(conn, client)
	require.NoError(t, conn.Close())
	r.finish()
	require.Equal(t, "127.0.0.0/24", attr(r.span("tcpstate finding close_wait.never_read"), "network.peer.address").AsString())
	require.Equal(t, "127.0.0.0/24", attr(r.span("tcpstate connection"), "network.peer.address").AsString())
	for _, s := range r.spans.GetSpans() {
		for _, kv := range s.Attributes {
			require.NotEqual(t, int64(peer.Port), kv.Value.AsInt64(), "%s %s", s.Name, kv.Key)
			require.NotContains(t, kv.Value.Emit(), peer.String(), "%s %s", s.Name, kv.Key)
		}
	}
}

func TestConnectionSpansAreMadeOfThoseThatAreAskedFor(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts []tcpotel.Option
		want []string
	}{
		{"off", []tcpotel.Option{tcpotel.WithConnectionSpans(tcpotel.Off)}, nil},
		{"suspects by default", nil, []string{"suspect"}},
		{"dialed", []tcpotel.Option{tcpotel.WithConnectionSpans(tcpotel.Dialed)}, []string{"dialed", "suspect"}},
		{"all", []tcpotel.Option{tcpotel.WithConnectionSpans(tcpotel.All)}, []string{"accepted", "dialed", "suspect"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			o, end, err := tcpotel.Detached(append(r.options(), tc.opts...)...)
			require.NoError(t, err)
			defer func() { require.NoError(t, end()) }()
			o.Closed(tcpstate.ClosedInfo{Name: "accepted", Role: tcpstate.Server, Findings: []tcpstate.Kind{tcpstate.KindCloseWaitIdleInPool}})
			o.Closed(tcpstate.ClosedInfo{Name: "dialed", Role: tcpstate.Client})
			o.Closed(tcpstate.ClosedInfo{Name: "suspect", Role: tcpstate.Server, Findings: []tcpstate.Kind{tcpstate.KindLeakDeadSocket}})
			var got []string
			for _, s := range r.named("tcpstate connection") {
				got = append(got, attr(s, "tcpstate.connection.name").AsString())
			}
			require.Equal(t, tc.want, got)
		})
	}
}

func TestAConnectionSpanShowsItsPhases(t *testing.T) {
	r := newRig(t).start()
	ctx, caller := r.request("pay")
	conn, server, target := r.dialed(ctx, "payments")
	caller.End()
	r.clock.Advance(5 * time.Second)
	r.abandon(conn, server)
	require.NoError(t, conn.Close())
	r.finish()

	root := r.span("tcpstate connection")
	require.False(t, root.Parent.IsValid())
	require.Equal(t, map[string]trace.SpanID{"dial": r.span("socket connect " + target).SpanContext.SpanID()}, linksOf(root))
	require.Equal(t, codes.Unset, root.Status.Code)
	require.Equal(t, "peer_fin", attr(root, "tcpstate.close.reason").AsString())
	require.Equal(t, []string{"close_wait.not_reading"}, attr(root, "tcpstate.finding.kinds").AsStringSlice())

	connect, open, wait := r.span("connect"), r.span("open"), r.span("close_wait")
	for _, s := range []tracetest.SpanStub{connect, open, wait} {
		require.Equal(t, root.SpanContext.SpanID(), s.Parent.SpanID())
	}
	require.Equal(t, root.StartTime, connect.StartTime)
	require.Equal(t, connect.EndTime, open.StartTime)
	require.Equal(t, open.EndTime, wait.StartTime)
	require.Equal(t, wait.EndTime, root.EndTime)
	require.InDelta(t, 33, wait.EndTime.Sub(wait.StartTime).Seconds(), 1.1)
	require.InDelta(t, 5, open.EndTime.Sub(open.StartTime).Seconds(), 1.1)
}

func TestAResetConnectionIsAnError(t *testing.T) {
	r := newRig(t)
	o, end, err := tcpotel.Detached(append(r.options(), tcpotel.WithConnectionSpans(tcpotel.All))...)
	require.NoError(t, err)
	defer func() { require.NoError(t, end()) }()
	o.Closed(tcpstate.ClosedInfo{Reason: tcpstate.CloseReset})
	span := r.span("tcpstate connection")
	require.Equal(t, codes.Error, span.Status.Code)
	require.Equal(t, "connection_reset", attr(span, "error.type").AsString())
}

func TestAConnectionSpanThatIsNotSampledHasNoChildren(t *testing.T) {
	r := newRig(t)
	ended := tracetest.NewSpanRecorder()
	r.traces = sdktrace.NewTracerProvider(sdktrace.WithSampler(onlyNever{}), sdktrace.WithSpanProcessor(ended))
	o, end, err := tcpotel.Detached(append(r.options(), tcpotel.WithConnectionSpans(tcpotel.All))...)
	require.NoError(t, err)
	defer func() { require.NoError(t, end()) }()
	o.Closed(tcpstate.ClosedInfo{Name: "seen by the sampler"})
	require.Empty(t, ended.Ended())
}

// onlyNever drops spans that carry the attributes which a sampler needs.
type onlyNever struct{}

func (onlyNever) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	for _, kv := range p.Attributes {
		if kv.Key == "tcpstate.close.reason" || kv.Key == "tcpstate.connection.name" {
			return sdktrace.SamplingResult{Decision: sdktrace.Drop}
		}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}

func (onlyNever) Description() string { return "onlyNever" }
