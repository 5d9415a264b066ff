package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.17.0"
	"go.opentelemetry.io/otel/trace"

	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// telemetry is what the program exports.
type telemetry struct{ stops []func(context.Context) error }

// startTelemetry exports what the tracker finds, if an endpoint is set.
func startTelemetry(ctx context.Context, t *tcpstate.Tracker) (*telemetry, error) {
	tele := new(telemetry)
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		// Without a provider spans have no identity; this one only gives them one,
		// so that reports can show the trace.
		tp := sdktrace.NewTracerProvider()
		otel.SetTracerProvider(tp)
		tele.stops = append(tele.stops, tp.Shutdown)
		return tele, nil
	}
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before the name here.
	res, err := resource.Merge(
		resource.NewSchemaless(semconv.ServiceName("leakdemo")),
		resource.Environment())
	if err != nil {
		return nil, err
	}
	spans, err1 := autoexport.NewSpanExporter(ctx)
	metrics, err2 := autoexport.NewMetricReader(ctx)
	logs, err3 := autoexport.NewLogExporter(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(res))
	mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(metrics), sdkmetric.WithResource(res))
	lp := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(logs)), sdklog.WithResource(res))
	otel.SetTracerProvider(tp)
	otel.SetMeterProvider(mp)

	stop, err := tcpotel.Start(
		tcpotel.WithTracker(t),
		// The bridge takes the trace of a record from its context.
		tcpotel.WithLogger(slog.New(otelslog.NewHandler("tcpstate", otelslog.WithLoggerProvider(lp)))),
	)
	if err != nil {
		return nil, err
	}
	tele.stops = append(tele.stops, stop, tp.Shutdown, mp.Shutdown, lp.Shutdown)
	return tele, nil
}

func (tele *telemetry) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var all []error
	for _, f := range tele.stops {
		all = append(all, f(ctx))
	}
	return errors.Join(all...)
}

// shortTrace shows a trace under a finding.
type shortTrace struct{ id trace.TraceID }

func (s shortTrace) TraceString() string { return s.id.String() }

func traceToken(ctx context.Context) any {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		return shortTrace{sc.TraceID()}
	}
	return nil
}
