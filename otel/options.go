package tcpotel

import (
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Option configures Start.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	tracker       *tcpstate.Tracker
	traces        trace.TracerProvider
	metrics       metric.MeterProvider
	logger        *slog.Logger // nil: slog.Default() of the moment
	spans         ConnectionSpans
	networkType   bool
	serverAddress bool
	dbNames       bool
}

func newConfig(opts []Option) config {
	c := config{spans: Suspect}
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	if c.tracker == nil {
		c.tracker = tcpstate.Default()
	}
	if c.traces == nil {
		c.traces = otel.GetTracerProvider()
	}
	if c.metrics == nil {
		c.metrics = otel.GetMeterProvider()
	}
	return c
}

// WithTracker reports t. Without it, or with nil, the tracker is
// tcpstate.Default().
func WithTracker(t *tcpstate.Tracker) Option {
	return optionFunc(func(c *config) { c.tracker = t })
}

// WithTracerProvider makes spans with p. Without it, or with nil, the provider
// is the global one. It may be set after Start.
func WithTracerProvider(p trace.TracerProvider) Option {
	return optionFunc(func(c *config) { c.traces = p })
}

// WithMeterProvider makes metrics with p. Without it, or with nil, the
// provider is the global one. It may be set after Start.
func WithMeterProvider(p metric.MeterProvider) Option {
	return optionFunc(func(c *config) { c.metrics = p })
}

// WithLogger logs findings to l. Without it, or with nil, they go to
// slog.Default(). To turn log records off, pass slog.New(slog.DiscardHandler).
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(c *config) { c.logger = l })
}

// ConnectionSpans says which connections get a span when they end.
type ConnectionSpans int

// The choices for WithConnectionSpans.
const (
	Off     ConnectionSpans = iota // none
	Suspect                        // examples of those that had a finding of severity warning or above
	Dialed                         // those, and all that were dialed
	All                            // every connection
)

// WithConnectionSpans chooses the connections that get a span when they end.
// The default is Suspect: on a busy server the spans of all connections would
// push those of requests out of the exporter's queue.
//
// For the same reason Suspect is bounded, because connections that leaked are
// often closed all at once: in a minute, which begins with the first one, 10
// connections with the same kind of finding at the same line and of the same
// name get a span, and 100 in all. With their phases these are 400 spans at
// most, which is less than one batch of the SDK's exporter, 512, and a fifth of
// its queue, 2,048. The others are counted in tcpstate.report.suppressed with
// tcpstate.suppression.reason span_limit; what they have in common is on the
// span of the finding, and their number on the metrics. Connections that the
// sampler refuses do not count. Dialed and All are not bounded.
func WithConnectionSpans(which ConnectionSpans) Option {
	return optionFunc(func(c *config) { c.spans = which })
}

// WithNetworkType puts network.type, ipv4 or ipv6, on the metrics about single
// dials and connections.
func WithNetworkType() Option {
	return optionFunc(func(c *config) { c.networkType = true })
}

// WithServerAddress puts server.address and server.port on the metrics about
// single dials and dialed connections: the target as it was dialed, never what
// it resolved to. After 100 targets the address is _OTHER. It multiplies the
// number of series; leave it out where the names of dialers tell enough.
func WithServerAddress() Option {
	return optionFunc(func(c *config) { c.serverAddress = true })
}

// WithDBClientNames puts what the semantic conventions define for pools of
// databases under their names: db.client.connection.count, .max, .idle.max,
// .idle.min, .pending_requests and .timeouts in place of
// tcpstate.pool.connection.*, for pools that say that they are one, as those of
// pool.WatchDB do. Times stay where they are: by the conventions they are
// histograms, and pools know only sums. Leave it out where the driver's own
// instrumentation has these names.
func WithDBClientNames() Option {
	return optionFunc(func(c *config) { c.dbNames = true })
}
