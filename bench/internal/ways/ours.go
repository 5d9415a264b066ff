// Package ways are the ways to have connections tracked that rows compare.
package ways

import (
	"context"
	"errors"
	"log/slog"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Name is that of all connections.
const Name = "bench"

// Ours is a tracker and who is told of what it sees.
type Ours struct {
	Column  string
	Tracker *tcpstate.Tracker
	Context context.Context // where a request's span is, where there are spans
	Tracer  trace.Tracer
	close   []func() error
}

// All returns ours in every column, to be closed together.
func All(ctx context.Context) (all []*Ours, closeAll func() error, err error) {
	closeAll = func() error {
		var errs []error
		for _, o := range all {
			errs = append(errs, o.Close())
		}
		return errors.Join(errs...)
	}
	for _, column := range []string{row.Tracker, row.Metrics, row.Unsampled, row.Sampled} {
		o, err := New(ctx, column)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll())
		}
		all = append(all, o)
	}
	return all, closeAll, nil
}

// New returns ours in one column.
func New(ctx context.Context, column string) (*Ours, error) {
	o := &Ours{Column: column, Tracker: &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}, Context: ctx}
	o.close = append(o.close, o.Tracker.Close)
	var tp trace.TracerProvider = noop.NewTracerProvider()
	spans := tcpotel.All
	switch column {
	case row.Tracker:
		return o, nil
	case row.Metrics:
		spans = tcpotel.Suspect
	case row.Unsampled:
		tp = o.provider(sdktrace.NeverSample())
	case row.Sampled:
		tp = o.provider(sdktrace.AlwaysSample())
	}
	mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	o.close = append(o.close, func() error { return mp.Shutdown(context.Background()) })
	stop, err := tcpotel.Start(tcpotel.WithTracker(o.Tracker), tcpotel.WithMeterProvider(mp), tcpotel.WithTracerProvider(tp),
		tcpotel.WithLogger(slog.New(slog.DiscardHandler)), tcpotel.WithConnectionSpans(spans))
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	o.close = append(o.close, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return stop(ctx)
	})
	o.Tracer = tp.Tracer("bench")
	var span trace.Span
	o.Context, span = o.Tracer.Start(ctx, "request")
	o.close = append(o.close, func() error { span.End(); return nil })
	return o, nil
}

// provider makes spans that go nowhere.
func (o *Ours) provider(s sdktrace.Sampler) trace.TracerProvider {
	tp := sdktrace.NewTracerProvider(sdktrace.WithSampler(s), sdktrace.WithSyncer(Discard{}))
	o.close = append(o.close, func() error { return tp.Shutdown(context.Background()) })
	return tp
}

// Close ends everything, in the order in which a program would.
func (o *Ours) Close() error {
	var errs []error
	for i := len(o.close) - 1; i >= 0; i-- {
		errs = append(errs, o.close[i]())
	}
	return errors.Join(errs...)
}

// Dropped returns how many events the observers were too slow for: what they
// were not told did not cost anything, so that figures would be too good.
func (o *Ours) Dropped() uint64 { return o.Tracker.Stats().QueueFull }

// Discard is an exporter that has nowhere to go.
type Discard struct{}

func (Discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (Discard) Shutdown(context.Context) error                             { return nil }
