package scale

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"

	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// sdk is OpenTelemetry with exporters that count.
type sdk struct {
	reader  *metric.ManualReader
	spans   *trace.TracerProvider
	finding atomic.Int64 // spans of findings
	conns   atomic.Int64 // spans of connections
	other   atomic.Int64 // likewise, with those of phases
	records atomic.Int64 // log records
	stop    func(context.Context) error
}

// ExportSpans implements trace.SpanExporter.
func (s *sdk) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	for _, sp := range spans {
		if strings.HasPrefix(sp.Name(), "tcpstate finding ") {
			s.finding.Add(1)
			continue
		}
		s.other.Add(1)
		if sp.Name() == "tcpstate connection" {
			s.conns.Add(1)
		}
	}
	return nil
}

// Shutdown implements trace.SpanExporter.
func (s *sdk) Shutdown(context.Context) error { return nil }

// Enabled implements slog.Handler, as the others below.
func (s *sdk) Enabled(context.Context, slog.Level) bool { return true }

// Handle counts.
func (s *sdk) Handle(context.Context, slog.Record) error { s.records.Add(1); return nil }

// WithAttrs returns s.
func (s *sdk) WithAttrs([]slog.Attr) slog.Handler { return s }

// WithGroup returns s.
func (s *sdk) WithGroup(string) slog.Handler { return s }

// startSDK reports t, with the defaults.
func startSDK(t *tcpstate.Tracker) (*sdk, error) {
	s := &sdk{reader: metric.NewManualReader()}
	s.spans = trace.NewTracerProvider(trace.WithBatcher(s), trace.WithSampler(trace.AlwaysSample()))
	var err error
	s.stop, err = tcpotel.Start(
		tcpotel.WithTracker(t), tcpotel.WithTracerProvider(s.spans),
		tcpotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(s.reader))), tcpotel.WithLogger(slog.New(s)),
	)
	return s, err
}

// counter adds up a counter, and says how many series it has.
func (s *sdk) counter(name string) (sum int64, series int, err error) {
	points, err := s.points(name)
	for _, p := range points {
		sum += p.Value
	}
	return sum, len(points), err
}

// leftOut returns how many connections were left without a span.
func (s *sdk) leftOut() (n int64, err error) {
	points, err := s.points("tcpstate.report.suppressed")
	for _, p := range points {
		if v, ok := p.Attributes.Value("tcpstate.suppression.reason"); ok && v.AsString() == "span_limit" {
			n += p.Value
		}
	}
	return n, err
}

func (s *sdk) points(name string) ([]metricdata.DataPoint[int64], error) {
	var all metricdata.ResourceMetrics
	if err := s.reader.Collect(context.Background(), &all); err != nil {
		return nil, err
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if d, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
				return d.DataPoints, nil
			}
		}
	}
	return nil, nil
}

type stormArgs struct {
	CloseWait time.Duration // 0: the default
}

// startStorm begins to report, and to play ping-pong beside.
func (h *holder) startStorm(a stormArgs) (none, error) {
	var err error
	if err = h.tracker.Set(func(c *tcpstate.Config) { c.Thresholds.CloseWait = a.CloseWait }); err != nil {
		return none{}, err
	}
	if h.sdk, err = startSDK(&h.tracker); err != nil {
		return none{}, err
	}
	h.pings, err = newPinger(&h.tracker)
	return none{}, err
}

// leakLines is at how many lines connections leak.
const leakLines = 3

// leak tracks the connections at three lines, and forgets to close them.
func (h *holder) leak(none) (none, error) {
	h.tracked = make([]*tcpstate.Conn, len(h.plain))
	leakers := [leakLines]func(*net.TCPConn) *tcpstate.Conn{h.orders, h.payments, h.users}
	for i, c := range h.plain {
		h.tracked[i] = leakers[i%len(leakers)](c)
	}
	return none{}, nil
}

var server = tcpstate.Origin{Role: tcpstate.Server, Name: "api"}

//go:noinline
func (h *holder) orders(c *net.TCPConn) *tcpstate.Conn { return h.tracker.Track(c, server) }

//go:noinline
func (h *holder) payments(c *net.TCPConn) *tcpstate.Conn { return h.tracker.Track(c, server) }

//go:noinline
func (h *holder) users(c *net.TCPConn) *tcpstate.Conn { return h.tracker.Track(c, server) }

// pinger plays ping-pong on a tracked connection.
type pinger struct {
	count atomic.Int64
	stop  atomic.Bool
	ended sync.WaitGroup
}

func newPinger(t *tcpstate.Tracker) (*pinger, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	s, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	ping := t.Wrap(c, tcpstate.Origin{Name: "ping"})
	pong := t.Wrap(s, tcpstate.Origin{Role: tcpstate.Server, Name: "pong"})
	p := new(pinger)
	p.ended.Go(func() {
		defer pong.Close()
		buf := make([]byte, 64)
		for {
			if _, err := io.ReadFull(pong, buf); err != nil {
				return
			}
			if _, err := pong.Write(buf); err != nil {
				return
			}
		}
	})
	p.ended.Go(func() {
		defer ping.Close()
		buf := make([]byte, 64)
		for !p.stop.Load() {
			if _, err := ping.Write(buf); err != nil {
				return
			}
			if _, err := io.ReadFull(ping, buf); err != nil {
				return
			}
			p.count.Add(1)
		}
	})
	return p, nil
}

// close ends it between two round trips.
func (p *pinger) close() {
	p.stop.Store(true)
	p.ended.Wait()
}

// Pings are round trips in some time.
type Pings struct {
	N   int64
	For time.Duration
	CPU time.Duration // of the process, with all that it does beside
}

// countPings counts for that time.
func (h *holder) countPings(d time.Duration) (p Pings, err error) {
	before, err := h.usage(false)
	if err != nil {
		return p, err
	}
	p.N = -h.pings.count.Load()
	time.Sleep(d)
	p.N += h.pings.count.Load()
	after, err := h.usage(false)
	p.For, p.CPU = after.At.Sub(before.At), after.CPU-before.CPU
	return p, err
}

// Reports is what was found and said of it.
type Reports struct {
	Open                   int   // findings
	Opened, Cleared        int64 // findings, by the metrics
	Groups                 int   // series of those that were opened
	Spans, Others, Records int64 // of findings, of connections with their phases; log records
	Conns, Left            int64 // connections with a span, and those that were left without
	Lost                   uint64
}

func (h *holder) reports(none) (r Reports, err error) {
	if err := h.sdk.spans.ForceFlush(context.Background()); err != nil {
		return r, err
	}
	s := h.tracker.Stats()
	r = Reports{
		Open: s.Warnings + s.Errors, Lost: s.QueueFull + s.Overflow,
		Spans: h.sdk.finding.Load(), Others: h.sdk.other.Load(), Records: h.sdk.records.Load(), Conns: h.sdk.conns.Load(),
	}
	if r.Opened, r.Groups, err = h.sdk.counter("tcpstate.finding.opened"); err != nil {
		return r, err
	}
	if r.Cleared, _, err = h.sdk.counter("tcpstate.finding.cleared"); err != nil {
		return r, err
	}
	r.Left, err = h.sdk.leftOut()
	return r, err
}

// Storm is what happens when many connections leak at three lines.
type Storm struct {
	Leaks             int
	Found             time.Duration // from the first FIN until all were findings
	Peak, End         Reports       // when all were open, and when all were closed
	Before, Storming  []Pings       // window by window
	Fresh             Usage         // before there was anything
	Idle, Open, After Usage         // before, while all were open, after all were closed
}

const pingWindow = 250 * time.Millisecond

// storming has n connections leak. closeWait is the threshold; 0: the default.
func storming(ctx context.Context, n int, closeWait time.Duration) (s Storm, err error) {
	s.Leaks = n
	c, err := newCrowd(ctx, n, false)
	if err != nil {
		return s, err
	}
	defer c.stop()
	s.Fresh = c.fresh
	if err := tell(c.holder, "storm", stormArgs{closeWait}); err != nil {
		return s, err
	}
	if err := tell(c.holder, "leak", none{}); err != nil {
		return s, err
	}
	ping := func() (Pings, error) { return ask[Pings](c.holder, "pings", pingWindow) }
	if err := c.watched(); err != nil {
		return s, err
	}
	for range 12 {
		p, err := ping()
		if err != nil {
			return s, err
		}
		s.Before = append(s.Before, p)
	}
	if s.Idle, err = c.usage(true); err != nil {
		return s, err
	}
	if err := tell(c.peer, "finAll", finArgs{N: n}); err != nil {
		return s, err
	}
	for begin := time.Now(); ; {
		p, err := ping()
		if err != nil {
			return s, err
		}
		s.Storming = append(s.Storming, p)
		u, err := c.usage(false)
		if err != nil {
			return s, err
		}
		s.Found = time.Since(begin)
		if u.Stats.Warnings+u.Stats.Errors >= n {
			break
		}
		if s.Found > patience {
			return s, fmt.Errorf("of %d leaks %d were found in %v", n, u.Stats.Warnings+u.Stats.Errors, s.Found)
		}
	}
	if s.Peak, err = ask[Reports](c.holder, "reports", none{}); err != nil {
		return s, err
	}
	if s.Open, err = c.usage(true); err != nil {
		return s, err
	}
	if err := tell(c.holder, "close", none{}); err != nil {
		return s, err
	}
	// The last of it is told by another goroutine, and counted before it is logged.
	told := func() bool {
		return s.End.Open == 0 && s.End.Cleared >= int64(n) && s.End.Records >= 2*int64(s.End.Groups) &&
			s.End.Conns+s.End.Left >= int64(n)
	}
	for begin := time.Now(); !told() && time.Since(begin) < patience; time.Sleep(50 * time.Millisecond) {
		if s.End, err = ask[Reports](c.holder, "reports", none{}); err != nil {
			return s, err
		}
	}
	if err := tell(c.holder, "endPings", none{}); err != nil {
		return s, err
	}
	s.After, err = c.usage(true)
	return s, err
}
