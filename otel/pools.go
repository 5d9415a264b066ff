package tcpotel

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// poolCensus is what is observed of pools that tell of themselves, see
// tcpstate.Pool.Report and Tracker.WatchPool. Pools count and add up, so there
// are sums and no distributions.
type poolCensus struct {
	own, db  poolLevels // db is what the conventions for databases define
	dbNames  bool       // use db for pools of databases
	waits    poolTimes
	uses     poolTimes
	creates  poolTimes
	discards metric.Int64ObservableCounter
}

// poolLevels are the instruments that the semantic conventions know, too.
type poolLevels struct {
	count, max, idleMax, idleMin, pending metric.Int64ObservableUpDownCounter
	timeouts                              metric.Int64ObservableCounter
}

// poolTimes is how often something happened, and how long it took together.
type poolTimes struct {
	count metric.Int64ObservableCounter
	time  metric.Float64ObservableCounter
}

const (
	poolPrefix = "tcpstate.pool.connection."
	dbPrefix   = "db.client.connection."
)

func newPoolCensus(m *maker, dbNames bool) poolCensus {
	c := poolCensus{
		own:      newPoolLevels(m, poolPrefix),
		dbNames:  dbNames,
		waits:    newPoolTimes(m, "waits", "{request}", "Requests that had to wait for a connection.", "wait_time", "Time that requests waited for a connection, together."),
		uses:     newPoolTimes(m, "uses", "{use}", "Connections that were given back.", "use_time", "Time that connections were lent out, together."),
		creates:  newPoolTimes(m, "creates", "{connection}", "Connections that were made.", "create_time", "Time that making connections took, together."),
		discards: m.observed(poolPrefix+"discards", "{connection}", "Connections that were not used again."),
	}
	if dbNames {
		c.db = newPoolLevels(m, dbPrefix)
	}
	return c
}

func newPoolLevels(m *maker, prefix string) poolLevels {
	return poolLevels{
		count:    m.level(prefix+"count", "{connection}", "Connections of a pool by state."),
		max:      m.level(prefix+"max", "{connection}", "Connections that a pool may have."),
		idleMax:  m.level(prefix+"idle.max", "{connection}", "Idle connections that a pool keeps at most."),
		idleMin:  m.level(prefix+"idle.min", "{connection}", "Idle connections that a pool keeps at least."),
		pending:  m.level(prefix+"pending_requests", "{request}", "Requests that wait for a connection."),
		timeouts: m.observed(prefix+"timeouts", "{timeout}", "Requests that gave up waiting for a connection."),
	}
}

func newPoolTimes(m *maker, count, unit, counted, time, what string) poolTimes {
	t, err := m.Float64ObservableCounter(poolPrefix+time, metric.WithUnit("s"), metric.WithDescription(what))
	return poolTimes{count: m.observed(poolPrefix+count, unit, counted), time: made(m, t, err)}
}

func (c *poolCensus) instruments() []metric.Observable {
	all := []metric.Observable{
		c.waits.count, c.waits.time, c.uses.count, c.uses.time, c.creates.count, c.creates.time, c.discards,
	}
	for _, l := range []*poolLevels{&c.own, &c.db} {
		if l.count != nil {
			all = append(all, l.count, l.max, l.idleMax, l.idleMin, l.pending, l.timeouts)
		}
	}
	return all
}

// poolTotals adds up what the pools of one name say, in one set of instruments.
type poolTotals struct {
	levels                                poolLevels
	count, max, idleMax, idleMin, pending tally
	timeouts                              tally
	unlimited                             map[*series]bool
}

func newPoolTotals(l poolLevels) *poolTotals {
	return &poolTotals{
		levels: l, count: make(tally), max: make(tally), idleMax: make(tally), idleMin: make(tally),
		pending: make(tally), timeouts: make(tally), unlimited: make(map[*series]bool),
	}
}

// add counts one pool. What it does not know is left out, not 0; so is the limit
// of pools of which one has none.
func (p *poolTotals) add(d *dimensions, k key, s *tcpstate.PoolStats) {
	idle, used := k, k
	idle.poolState, used.poolState = valueIdle, valueUsed
	p.count[d.pools.get(idle)] += int64(s.Idle)
	p.count[d.pools.get(used)] += int64(s.Used)
	of := d.pools.get(k)
	if s.Max > 0 {
		p.max[of] += int64(s.Max)
	} else {
		p.unlimited[of] = true
	}
	for t, n := range map[*tally]int{&p.idleMax: s.IdleMax, &p.idleMin: s.IdleMin} {
		if n > 0 {
			(*t)[of] += int64(n)
		}
	}
	for t, n := range map[*tally]int64{&p.pending: int64(s.Pending), &p.timeouts: s.Timeouts} {
		if n >= 0 {
			(*t)[of] += n
		}
	}
}

func (p *poolTotals) observe(o metric.Observer) {
	for s := range p.unlimited {
		delete(p.max, s)
	}
	p.count.observe(o, p.levels.count)
	p.max.observe(o, p.levels.max)
	p.idleMax.observe(o, p.levels.idleMax)
	p.idleMin.observe(o, p.levels.idleMin)
	p.pending.observe(o, p.levels.pending)
	p.timeouts.observe(o, p.levels.timeouts)
}

// timeTotals adds up what the pools of one name say of waits, uses or dials.
type timeTotals struct {
	count tally
	time  map[*series]float64
}

func (t *timeTotals) add(s *series, x tcpstate.PoolTimes) {
	if x.Count < 0 {
		return
	}
	if t.count == nil {
		t.count, t.time = make(tally), make(map[*series]float64)
	}
	t.count[s] += x.Count
	t.time[s] += x.Time.Seconds()
}

func (t *timeTotals) observe(o metric.Observer, i poolTimes) {
	t.count.observe(o, i.count)
	for s, sum := range t.time {
		o.ObserveFloat64(i.time, sum, s.observe...)
	}
}

func (c *census) pools(o metric.Observer) {
	d, p := &c.r.dims, &c.ofPools
	own, db := newPoolTotals(p.own), newPoolTotals(p.db)
	var waits, uses, creates timeTotals
	discards := make(tally)
	for s := range c.r.tracker.Pools() {
		k := key{pool: d.names.of(s.Name)}
		if p.dbNames && s.Database {
			as := k
			as.db = true
			db.add(d, as, &s)
		} else {
			own.add(d, k, &s)
		}
		of := d.pools.get(k)
		waits.add(of, s.Waits)
		uses.add(of, s.Uses)
		creates.add(of, s.Creates)
		for _, x := range s.Discards {
			why := k
			why.discard = discardReason(x.Reason)
			discards[d.pools.get(why)] += x.Count
		}
	}
	own.observe(o)
	if p.dbNames {
		db.observe(o)
	}
	waits.observe(o, p.waits)
	uses.observe(o, p.uses)
	creates.observe(o, p.creates)
	discards.observe(o, p.discards)
}

// waitSpan makes the span of a wait for a connection: a child of the caller's
// span where that one is recorded.
func (r *reporter) waitSpan(w tcpstate.WaitInfo) {
	caller := tokenOf(w.Token)
	if caller == nil || !caller.recording {
		return
	}
	pool := r.dims.names.of(w.Pool)
	name := "tcpstate wait_for_connection"
	if pool != "" {
		name += " " + pool
	}
	var a attrs
	a.str(keyPoolName, w.Pool)
	if w.ID != 0 {
		a.add(keyConnID.Int64(int64(w.ID)))
	}
	if w.Err != nil {
		a.str(keyErrorType, errorType(w.Err))
	}
	parent := trace.ContextWithSpanContext(context.Background(), caller.sc)
	_, span := r.tracer.Start(parent, name, trace.WithTimestamp(w.Start), trace.WithAttributes(a...),
		trace.WithLinks(links(nil, tokenOf(w.DialToken))...))
	if w.Err != nil {
		span.SetStatus(codes.Error, w.Err.Error())
	}
	span.End(trace.WithTimestamp(w.End))
}

// discardReason returns a reason of the short list.
func discardReason(r tcpstate.DiscardReason) string {
	switch r {
	case tcpstate.DiscardPeerClosed, tcpstate.DiscardUnreadData, tcpstate.DiscardIdleTimeout,
		tcpstate.DiscardIdleMax, tcpstate.DiscardMaxLifetime, tcpstate.DiscardProbeFailed, tcpstate.DiscardCaller:
		return string(r)
	}
	return valueOther
}
