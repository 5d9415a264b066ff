package tcpotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/metric"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// instruments are those that are recorded when something happens. The others
// belong to the census.
type instruments struct {
	connectDuration    metric.Float64Histogram
	connectRetransmits metric.Int64Counter
	handshake          metric.Float64Histogram
	duration           metric.Float64Histogram
	closeWait          metric.Float64Histogram
	rtt                metric.Float64Histogram
	opened, cleared    metric.Int64Counter
}

// Boundaries in seconds. The SDK's own are meant for milliseconds.
var (
	// From 1 s on: when a SYN is sent again, on Linux.
	connectBounds = []float64{
		.001, .002, .005, .01, .02, .05, .1, .2, .5,
		1, 3, 7, 15, 31, 63, 127,
	}
	durationBounds = []float64{
		.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300,
		900, 3600, 14400, 86400,
	}
	closeWaitBounds = []float64{
		.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 900, 3600,
	}
	rttBounds = []float64{
		.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2,
	}
)

// maker makes instruments and collects what went wrong.
type maker struct {
	metric.Meter
	errs []error
}

func made[T any](m *maker, instrument T, err error) T {
	if err != nil {
		m.errs = append(m.errs, err)
	}
	return instrument
}

func (m *maker) seconds(name, what string, bounds []float64) metric.Float64Histogram {
	h, err := m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what), metric.WithExplicitBucketBoundaries(bounds...))
	return made(m, h, err)
}

func (m *maker) counter(name, unit, what string) metric.Int64Counter {
	c, err := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
	return made(m, c, err)
}

func (m *maker) observed(name, unit, what string) metric.Int64ObservableCounter {
	c, err := m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
	return made(m, c, err)
}

func (m *maker) level(name, unit, what string) metric.Int64ObservableUpDownCounter {
	c, err := m.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
	return made(m, c, err)
}

func (m *maker) err() error { return errors.Join(m.errs...) }

// register makes the instruments and begins to observe the census.
func (r *reporter) register(p metric.MeterProvider) error {
	m := &maker{Meter: p.Meter(ScopeName, metric.WithInstrumentationVersion(Version()))}
	r.inst = instruments{
		connectDuration:    m.seconds("tcpstate.connect.duration", "Time of a dial.", connectBounds),
		connectRetransmits: m.counter("tcpstate.connect.retransmits", "{segment}", "SYNs sent again."),
		handshake:          m.seconds("tcpstate.tls.handshake.duration", "Time of a TLS handshake, where something tells of it.", connectBounds),
		duration:           m.seconds("tcpstate.connection.duration", "Life of a connection, from dial or accept to its end.", durationBounds),
		closeWait:          m.seconds("tcpstate.connection.close_wait.duration", "Time between the peer's FIN and our Close.", closeWaitBounds),
		rtt:                m.seconds("tcpstate.connection.rtt", "Smoothed round-trip time when a connection ended.", rttBounds),
		opened:             m.counter("tcpstate.finding.opened", "{finding}", "Findings that were opened."),
		cleared:            m.counter("tcpstate.finding.cleared", "{finding}", "Findings that have ended."),
	}
	c := newCensus(r, m)
	if err := m.err(); err != nil {
		return err
	}
	var err error
	r.registration, err = m.RegisterCallback(c.observe, c.instruments()...)
	return err
}

// census is what is observed when metrics are collected, from counters that the
// tracker keeps. Only the accept queues are read from the kernel, with one
// system call for each listener, of which a program has few; pools tell of
// themselves.
type census struct {
	r          *reporter
	states     []tcpstate.State
	count      metric.Int64ObservableUpDownCounter
	io         metric.Int64ObservableCounter
	resent     metric.Int64ObservableCounter
	findings   metric.Int64ObservableUpDownCounter
	queue      metric.Int64ObservableUpDownCounter
	queueLimit metric.Int64ObservableUpDownCounter
	suppressed metric.Int64ObservableCounter
	sweeps     metric.Int64ObservableCounter
	sweepTime  metric.Float64ObservableCounter
	ofPools    poolCensus
}

func newCensus(r *reporter, m *maker) *census {
	sweepTime, err := m.Float64ObservableCounter("tcpstate.sweep.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that rounds over all connections took together."))
	return &census{
		r:          r,
		states:     tcpstate.States(),
		count:      m.level("tcpstate.connection.count", "{connection}", "Connections by state."),
		io:         m.observed("tcpstate.connection.io", "By", "Bytes moved."),
		resent:     m.observed("tcpstate.connection.retransmits", "{segment}", "Segments sent again."),
		findings:   m.level("tcpstate.finding.count", "{finding}", "Findings that are open."),
		queue:      m.level("tcpstate.listener.accept_queue.usage", "{connection}", "Connections that wait for Accept."),
		queueLimit: m.level("tcpstate.listener.accept_queue.limit", "{connection}", "Connections that may wait for Accept."),
		suppressed: m.observed("tcpstate.report.suppressed", "{report}", "What was not reported one by one."),
		sweeps:     m.observed("tcpstate.sweep.count", "{sweep}", "Rounds over all connections."),
		sweepTime:  made(m, sweepTime, err),
		ofPools:    newPoolCensus(m, r.dbNames),
	}
}

func (c *census) instruments() []metric.Observable {
	own := []metric.Observable{c.count, c.io, c.resent, c.findings, c.queue, c.queueLimit, c.suppressed, c.sweeps, c.sweepTime}
	return append(own, c.ofPools.instruments()...)
}

func (c *census) observe(_ context.Context, o metric.Observer) error {
	c.connections(o)
	c.groups(o)
	c.listeners(o)
	c.pools(o)
	c.self(o)
	return nil
}

// tally adds up what goes to one set: an observation overwrites the one before.
type tally map[*series]int64

func (t tally) observe(o metric.Observer, instrument metric.Int64Observable) {
	for s, n := range t {
		o.ObserveInt64(instrument, n, s.observe...)
	}
}

func (c *census) connections(o metric.Observer) {
	d := &c.r.dims
	count, io, resent := make(tally), make(tally), make(tally)
	for s := range c.r.tracker.Series() {
		k := key{role: s.Role.String(), name: d.names.of(s.Name)}
		resent[d.resent.get(k)] += int64(s.Retransmits)
		for _, st := range c.states {
			n := s.InState(st)
			if st == tcpstate.SynRecv {
				n += s.InState(tcpstate.NewSynRecv)
			}
			of := k
			of.state = st.SemConv()
			count[d.states.get(of)] += n
		}
		in, out := k, k
		in.direction, out.direction = valueReceive, valueTransmit
		io[d.bytes.get(in)] += int64(s.BytesIn)
		io[d.bytes.get(out)] += int64(s.BytesOut)
	}
	count.observe(o, c.count)
	io.observe(o, c.io)
	resent.observe(o, c.resent)
}

func (c *census) groups(o metric.Observer) {
	d := &c.r.dims
	open := make(tally)
	all := c.r.tracker.FindingCounts()
	for i := range all {
		if f := &all[i]; f.Severity != tcpstate.Count {
			open[d.findings.get(d.ofCount(f))] += int64(f.Open)
		}
	}
	open.observe(o, c.findings)
	c.r.countEvents(all)
}

func (c *census) listeners(o metric.Observer) {
	d := &c.r.dims
	queue, limit := make(tally), make(tally)
	for l := range c.r.tracker.Listeners() {
		s := d.queues.get(key{name: d.names.of(l.Name)})
		queue[s] += int64(l.Queue)
		limit[s] += int64(l.Limit)
	}
	queue.observe(o, c.queue)
	limit.observe(o, c.queueLimit)
}

func (c *census) self(o metric.Observer) {
	s := c.r.tracker.Stats()
	for reason, n := range map[string]int64{
		reasonRateLimit:     int64(s.RateLimited),
		reasonMuted:         int64(s.Muted),
		reasonQueueFull:     int64(s.QueueFull),
		reasonTooManyGroups: int64(s.Overflow),
		reasonTooManySpans:  int64(c.r.examples.left.Load()),
	} {
		o.ObserveInt64(c.suppressed, n, c.r.dims.reasons.get(key{suppressed: reason}).observe...)
	}
	o.ObserveInt64(c.sweeps, int64(s.Sweeps))
	o.ObserveFloat64(c.sweepTime, s.Sweep.Seconds())
}
