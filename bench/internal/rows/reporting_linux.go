package rows

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
	"github.com/tcpstate/tcpstate-go/listener"
	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// recorder is an exporter that notes when a span came, and how many of each
// name.
type recorder struct {
	takes time.Duration // that an export takes

	mu    sync.Mutex // guards following fields
	first map[string]time.Time
	count map[string]int
	came  chan struct{} // has room for one
}

func newRecorder(takes time.Duration) *recorder {
	return &recorder{takes: takes, first: make(map[string]time.Time), count: make(map[string]int), came: make(chan struct{}, 1)}
}

func (r *recorder) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	now := time.Now()
	time.Sleep(r.takes)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range spans {
		r.count[s.Name()]++
		for _, kv := range s.Attributes() {
			if kv.Key == "tcpstate.connection.name" {
				key := s.Name() + " " + kv.Value.AsString()
				if _, ok := r.first[key]; !ok {
					r.first[key] = now
				}
			}
		}
	}
	select {
	case r.came <- struct{}{}:
	default:
	}
	return nil
}

func (r *recorder) Shutdown(context.Context) error { return nil }

// findingToSpan leaks connections, each of another name so that each is reported
// by itself, and measures from the observer's Opened to ExportSpans.
func findingToSpan(ctx context.Context, e *row.Env) (row.Result, error) {
	var res row.Result
	for _, p := range []struct {
		column    string
		processor func(sdktrace.SpanExporter) sdktrace.TracerProviderOption
	}{
		{"sync", func(x sdktrace.SpanExporter) sdktrace.TracerProviderOption { return sdktrace.WithSyncer(x) }},
		{"batch", func(x sdktrace.SpanExporter) sdktrace.TracerProviderOption { return sdktrace.WithBatcher(x) }},
	} {
		if e.Size == row.Smallest && p.column == "batch" {
			continue // waits for five seconds
		}
		took, err := leakAndWait(ctx, row.Pick(e, 2, 20, 40), p.processor)
		if err != nil {
			return row.Result{}, fmt.Errorf("%s: %w", p.column, err)
		}
		slices.Sort(took)
		for _, q := range []struct {
			of string
			at float64
		}{{"median", 0.5}, {"p90", 0.9}, {"worst", 1}} {
			d := took[int(math.Ceil(q.at*float64(len(took))))-1]
			res.Add(row.Cell{Of: q.of, Column: p.column, Value: float64(d), Unit: row.Nanoseconds})
		}
		for _, d := range took {
			e.Raw.Batch("finding to span", p.column, 1, row.Value{V: float64(d), Unit: "ns/op"})
		}
	}
	res.Notef("batch is the SDK's BatchSpanProcessor as it comes: it waits for five seconds, or for 512 spans.")
	return res, nil
}

func leakAndWait(ctx context.Context, leaks int, processor func(sdktrace.SpanExporter) sdktrace.TracerProviderOption) ([]time.Duration, error) {
	rec := newRecorder(0)
	tp := sdktrace.NewTracerProvider(processor(rec))
	defer tp.Shutdown(context.Background())
	tracker := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	defer tracker.Close()
	var mu sync.Mutex
	opened := make(map[string]time.Time)
	defer tracker.Observe(&tcpstate.Observer{Opened: func(f tcpstate.Finding) {
		mu.Lock()
		defer mu.Unlock()
		opened[f.Subject.Name] = time.Now()
	}})()
	stop, err := tcpotel.Start(tcpotel.WithTracker(tracker), tcpotel.WithTracerProvider(tp), tcpotel.WithMeterProvider(sdkmetric.NewMeterProvider()),
		tcpotel.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, err
	}
	defer stop(context.Background())

	l, err := ways.Listen(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	const span = "tcpstate finding leak.collected"
	for i := range leaks {
		peer, err := leak(tracker, l, fmt.Sprint("leak", i))
		if err != nil {
			return nil, err
		}
		defer peer.Close()
		runtime.GC()
	}
	deadline := time.After(time.Minute)
	for {
		rec.mu.Lock()
		n := rec.count[span]
		rec.mu.Unlock()
		mu.Lock()
		told := len(opened) // the exporter's observer and ours are told apart
		mu.Unlock()
		if n >= leaks && told >= leaks {
			break
		}
		select {
		case <-rec.came:
		case <-time.After(100 * time.Millisecond):
			runtime.GC() // a connection may still have been on somebody's stack
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline:
			return nil, fmt.Errorf("%d of %d findings were exported", n, leaks)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	var took []time.Duration
	for name, at := range opened {
		if out, ok := rec.first[span+" "+name]; ok {
			took = append(took, max(0, out.Sub(at))) // two observers are told at the same time
		}
	}
	if len(took) != leaks {
		return nil, fmt.Errorf("%d of %d findings are known by name", len(took), leaks)
	}
	return took, nil
}

// leak drops a connection without Close.
//
//go:noinline
func leak(tracker *tcpstate.Tracker, l *net.TCPListener, name string) (peer net.Conn, err error) {
	if peer, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, err
	}
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	tracker.Track(c, tcpstate.Origin{Role: tcpstate.Server, Name: name})
	return peer, nil
}

const (
	acceptsPerSecond = 1000
	exportTakes      = 50 * time.Millisecond // of a batch, to a collector that is not far away
)

// acceptsReported serves requests over new connections, 1,000 a second, with a
// span each, by the TracerProvider that ours reports to as well.
func acceptsReported(ctx context.Context, e *row.Env) (row.Result, error) {
	var res row.Result
	for _, p := range []struct {
		column string
		report bool
		spans  tcpotel.ConnectionSpans
	}{{"no reporter", false, 0}, {"default", true, tcpotel.Suspect}, {"span for each", true, tcpotel.All}} {
		lost, ours, rate, err := serveAccepts(ctx, row.Pick(e, 100*time.Millisecond, 2*time.Second, 10*time.Second), p.report, p.spans)
		if err != nil {
			return row.Result{}, fmt.Errorf("%s: %w", p.column, err)
		}
		e.Raw.Batch("accepts reported", p.column, 1, row.Value{V: float64(lost), Unit: "lost-spans"}, row.Value{V: rate, Unit: "accepts/s"})
		res.Add(row.Cell{Of: budget.LostSpans.Of, Column: p.column, Value: float64(lost)},
			row.Cell{Of: "connection spans", Column: p.column, Value: float64(ours)},
			row.Cell{Of: "accepts", Column: p.column, Value: rate, Unit: "/s"})
		if p.column == "default" {
			res.Check(budget.LostSpans, float64(lost), 0)
			if rate < 0.95*acceptsPerSecond && e.Size != row.Smallest {
				res.Notef("This machine made only %.0f of %d accepts a second.", rate, acceptsPerSecond)
			}
		}
	}
	res.Notef("The SDK's BatchSpanProcessor as it comes, and an exporter that takes %v for a batch.", exportTakes)
	return res, nil
}

// serveAccepts returns how many spans of requests did not come out, and how many
// spans of connections did.
func serveAccepts(ctx context.Context, long time.Duration, report bool, spans tcpotel.ConnectionSpans) (lost, ours int, rate float64, err error) {
	rec := newRecorder(exportTakes)
	tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(rec))
	defer tp.Shutdown(context.Background())
	tracker := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	defer tracker.Close()
	stop := func(context.Context) error { return nil }
	if report {
		mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
		defer mp.Shutdown(context.Background())
		stop, err = tcpotel.Start(tcpotel.WithTracker(tracker), tcpotel.WithTracerProvider(tp), tcpotel.WithMeterProvider(mp),
			tcpotel.WithLogger(slog.New(slog.DiscardHandler)), tcpotel.WithConnectionSpans(spans))
		if err != nil {
			return 0, 0, 0, err
		}
	}
	plain, err := ways.Listen(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	defer plain.Close()
	cfg := listener.Config{Tracker: tracker, Name: ways.Name}
	l := cfg.Wrap(plain)
	tracer := tp.Tracer("bench")
	request := func() error {
		client, err := net.Dial("tcp", plain.Addr().String())
		if err != nil {
			return err
		}
		defer ways.Reset(client.(*net.TCPConn))
		c, err := l.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, span := tracer.Start(ctx, "request")
		defer span.End()
		defer tcpstate.Of(c).Use(ctx, tcpstate.Use{Name: "GET /"})()
		if _, err := client.Write([]byte("?")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	}
	const tick = 10 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	made, begin := 0, time.Now()
	for time.Since(begin) < long {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0, 0, 0, ctx.Err()
		}
		for due := int(time.Since(begin).Seconds() * acceptsPerSecond); made < due; made++ {
			if err := request(); err != nil {
				return 0, 0, 0, err
			}
		}
	}
	rate = float64(made) / time.Since(begin).Seconds()
	if err := errors.Join(stop(ctx), tp.ForceFlush(ctx)); err != nil {
		return 0, 0, 0, err
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for name, n := range rec.count {
		if strings.HasPrefix(name, "tcpstate ") {
			ours += n
		}
	}
	return made - rec.count["request"], ours, rate, nil
}
