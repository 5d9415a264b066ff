package tcpotel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestSecondStartOnOneTrackerIsRefusedUntilTheFirstHasStopped(t *testing.T) {
	r := newRig(t).start()
	stop, err := tcpotel.Start(r.options()...)
	require.ErrorIs(t, err, tcpotel.ErrStarted)
	require.NoError(t, stop(t.Context()), "stop of a refused Start does nothing")
	require.Contains(t, r.collected(), "tcpstate.sweep.count", "the first goes on")

	other := newRig(t).start()
	other.finish()

	r.finish()
	stop, err = tcpotel.Start(r.options()...)
	require.NoError(t, err)
	require.NoError(t, stop(t.Context()))
}

func TestStopMayBeCalledAgain(t *testing.T) {
	r := newRig(t).start()
	require.NoError(t, r.stop(t.Context()))
	require.NoError(t, r.stop(t.Context()))
	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, r.stop(done), "what is done needs no time")
}

func TestAfterStopNothingIsReported(t *testing.T) {
	r := newRig(t).start()
	conn, client := r.accepted("api")
	r.finish()
	r.abandon(conn, client)
	require.NoError(t, conn.Close())
	r.clock.Advance(2 * time.Second)
	require.Empty(t, r.spans.GetSpans())
	require.Empty(t, r.logs.all())
	require.Empty(t, r.collected(), "the callback is unregistered")
}

func TestStopTellsWhatHasHappenedBefore(t *testing.T) {
	r := newRig(t).start(tcpotel.WithConnectionSpans(tcpotel.All))
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	require.NoError(t, conn.Close()) // the loop has not accounted for it yet
	r.finish()
	require.Equal(t, map[string]float64{"function=accepted kind=close_wait.never_read name=api severity=warning": 1},
		r.points("tcpstate.finding.cleared"))
	require.Len(t, r.named("tcpstate connection"), 1)
}

func TestStopGivesUpWhenItsContextEnds(t *testing.T) {
	r := newRig(t)
	slow := &blocking{InMemory: r.spans, entered: make(chan struct{}), release: make(chan struct{})}
	r.traces = sdktrace.NewTracerProvider(sdktrace.WithSyncer(slow))
	r.start()
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	<-slow.entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.stop(ctx), context.DeadlineExceeded)
	_, err := tcpotel.Start(r.options()...)
	require.ErrorIs(t, err, tcpotel.ErrStarted, "it is still being stopped")
	close(slow.release)
	require.NoError(t, r.stop(t.Context()))
}

// blocking is an exporter that waits.
type blocking struct {
	InMemory         sdktrace.SpanExporter
	entered, release chan struct{}
}

func (b *blocking) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	close(b.entered)
	<-b.release
	return b.InMemory.ExportSpans(ctx, spans)
}

func (b *blocking) Shutdown(context.Context) error { return nil }

func TestStartThatComesLateReportsOpenFindingsAndOldCounts(t *testing.T) {
	r := newRig(t)
	conn, client := r.accepted("api")
	_, err := client.Write([]byte("hello"))
	require.NoError(t, err)
	r.abandon(conn, client)
	tcptest.WaitUntil(t, "a finding", func() bool { return len(r.tracker.Findings()) == 1 })

	r.start()
	span := r.span("tcpstate finding close_wait.never_read")
	require.WithinDuration(t, r.tracker.Findings()[0].Since, span.StartTime, time.Millisecond)
	require.Equal(t, float64(6), r.points("tcpstate.connection.io")["direction=receive name=api role=server"], "five bytes and the FIN")
	require.NoError(t, conn.Close())
	r.clock.Advance(4 * time.Second)
	r.finish()
	want := map[string]float64{"function=accepted kind=close_wait.never_read name=api severity=warning": 1}
	require.Equal(t, want, r.points("tcpstate.finding.cleared"))
	want["function=accepted kind=reset.by_us_unread name=api severity=count"] = 1
	require.Equal(t, want, r.points("tcpstate.finding.opened"))
}

func TestWhatALateStartReplaysIsNotCountedTwice(t *testing.T) {
	r := newRig(t)
	r.abandonOneThenTwo()
	r.start()
	r.clock.Advance(time.Minute)
	r.finish()
	require.Equal(t, map[string]float64{"function=accepted kind=close_wait.never_read name=api severity=warning": 3},
		r.points("tcpstate.finding.opened"))
}

func TestGlobalProvidersServeWhereNoneIsGiven(t *testing.T) {
	r := newRig(t)
	oldTraces, oldMetrics := otel.GetTracerProvider(), otel.GetMeterProvider()
	otel.SetTracerProvider(r.traces)
	otel.SetMeterProvider(r.metrics)
	t.Cleanup(func() { otel.SetTracerProvider(oldTraces); otel.SetMeterProvider(oldMetrics) })
	r.start(tcpotel.WithTracerProvider(nil), tcpotel.WithMeterProvider(nil), tcpotel.WithConnectionSpans(tcpotel.All), nil)
	conn, _ := r.accepted("api")
	require.NoError(t, conn.Close())
	r.finish()
	require.Len(t, r.named("tcpstate connection"), 1)
	require.NotEmpty(t, r.points("tcpstate.connection.duration"))
}

func TestAProviderThatRefusesAnInstrumentFailsStart(t *testing.T) {
	var tr tcpstate.Tracker
	defer tr.Close()
	stop, err := tcpotel.Start(tcpotel.WithTracker(&tr), tcpotel.WithMeterProvider(refusing{}))
	require.ErrorIs(t, err, errRefused)
	require.NoError(t, stop(t.Context()))
	stop, err = tcpotel.Start(tcpotel.WithTracker(&tr))
	require.NoError(t, err, "the tracker is free again")
	require.NoError(t, stop(t.Context()))
}

var errRefused = errors.New("refused")

type refusing struct{ noop.MeterProvider }

func (refusing) Meter(string, ...metric.MeterOption) metric.Meter { return refusingMeter{} }

type refusingMeter struct{ noop.Meter }

func (refusingMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return noop.Int64Counter{}, errRefused
}

func TestScopeCarriesAVersion(t *testing.T) {
	require.NotEmpty(t, tcpotel.Version())
	require.NotContains(t, tcpotel.Version(), "v0")
}
