package scale

import (
	"context"
	"math"
	"slices"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// Rows are the rows about many connections, in the order of the table.
var Rows = []row.Row{
	{Name: "fin", What: "from a peer's FIN to the tracker's word, among idle connections", Run: finRow},
	{Name: "sweep", What: "one look at each connection, beside nothing but getsockopt(TCP_INFO)", Run: sweepRow},
	{Name: "after close", What: "following the sockets of 10,000 connections that are closed each second", Run: churnRow},
	{Name: "storm", What: "connections leak at three lines, beside a ping-pong", Run: stormRow},
	{Name: "idle", What: "idle connections and the default sweeps, beside a process without a tracker", Run: idleRow, Start: startIdle},
}

// many is how many connections one process holds here: what a limit of 20,000
// open files allows for.
const many = 19_000

// atMost returns n, or what the limit of open files allows for.
func atMost(n int) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return n
	}
	const others = 500
	return min(n, max(int(min(limit.Cur, math.MaxInt32))-others, 10))
}

// tries is how often something is measured until it meets its budget: whatever
// else runs on the machine makes it longer, never shorter.
const tries = 3

func finRow(ctx context.Context, e *row.Env) (res row.Result, err error) {
	c, err := newCrowd(ctx, atMost(row.Pick(e, 200, many, many)), true)
	if err != nil {
		return res, err
	}
	defer c.stop()
	rounds, n := row.Pick(e, 1, 2, 5), row.Pick(e, 20, 300, 400)
	n = min(n, c.n/(tries*rounds))
	var all []FIN
	next, again := 0, 0
	for try := 1; ; try++ {
		all = nil
		for range rounds {
			f, err := c.fin(next, n)
			if err != nil {
				return res, err
			}
			next += n
			e.Raw.Batch("fin", row.Tracker, n, row.Value{V: float64(f.P50), Unit: "p50-ns"}, row.Value{V: float64(f.P99), Unit: "p99-ns"})
			all = append(all, f)
		}
		if try == tries || float64(p99(all)) <= budget.FINEvent.Limit {
			break
		}
		again++
	}
	var p50s, p99s []float64
	longest := time.Duration(0)
	for _, f := range all {
		p50s, p99s = append(p50s, float64(f.P50)), append(p99s, float64(f.P99))
		longest = max(longest, f.Max)
	}
	of := budget.FINEvent.Of
	res.Add(
		row.Cell{Of: of, Column: "p50", Value: median(p50s), Spread: spread(p50s), Unit: row.Nanoseconds},
		row.Cell{Of: of, Column: "p99", Value: median(p99s), Spread: spread(p99s), Unit: row.Nanoseconds},
		row.Cell{Of: of, Column: "max", Value: float64(longest), Unit: row.Nanoseconds},
	)
	res.Check(budget.FINEvent, median(p99s), spread(p99s))
	res.Notef("%d rounds of %d among %d connections, one each millisecond; the peer is another process, "+
		"and both go by CLOCK_MONOTONIC", rounds, n, c.n)
	if again > 0 {
		res.Notef("measured %d times: what came before was over the budget, and whatever else runs only makes it longer", again+1)
	}
	return res, nil
}

func p99(all []FIN) time.Duration {
	var ns []float64
	for _, f := range all {
		ns = append(ns, float64(f.P99))
	}
	return time.Duration(median(ns))
}

func sweepRow(ctx context.Context, e *row.Env) (res row.Result, err error) {
	c, err := newCrowd(ctx, atMost(row.Pick(e, 200, 6_000, many)), true)
	if err != nil {
		return res, err
	}
	defer c.stop()
	s, err := ask[Sweep](c.holder, "sweep", row.Pick(e, 1, 4, 12))
	if err != nil {
		return res, err
	}
	var ours, raw, ratios []float64
	for i := range s.Ours {
		ours, raw = append(ours, float64(s.Ours[i])), append(raw, float64(s.Raw[i]))
		ratios = append(ratios, float64(s.Ours[i])/float64(s.Raw[i]))
		e.Raw.Batch("sweep", row.Plain, c.n, row.Value{V: raw[i], Unit: "ns/op"})
		e.Raw.Batch("sweep", row.Tracker, c.n, row.Value{V: ours[i], Unit: "ns/op"})
	}
	var dumps []float64
	sockets := 0
	for range row.Pick(e, 1, 3, 5) {
		d, err := ask[Dump](c.holder, "diag", none{})
		if err != nil {
			return res, err
		}
		dumps, sockets = append(dumps, float64(d.Took)/float64(c.n)), d.Sockets
	}
	res.Add(
		row.Cell{Of: budget.Time, Column: row.Plain, Value: median(raw), Spread: spread(raw), Unit: row.Nanoseconds},
		row.Cell{Of: budget.Time, Column: row.Tracker, Value: median(ours), Spread: spread(ours), Unit: row.Nanoseconds},
		row.Cell{Of: budget.Time, Column: "netlink dump", Value: median(dumps), Spread: spread(dumps), Unit: row.Nanoseconds},
	)
	res.Check(budget.SweepRatio, median(ratios), spread(ratios))
	res.Notef("per connection, of %d, in %d rounds; plain asks %d at a time and then waits as the tracker does, so both find "+
		"the memory as cold", c.n, len(ours), sweepChunk)
	res.Notef("vishvananda/netlink SocketDiagTCPInfo dumps all %d sockets of the machine; the time is divided by the "+
		"connections that are asked about", sockets)
	return res, nil
}

const churnRate = 10_000

func churnRow(ctx context.Context, e *row.Env) (res row.Result, err error) {
	rate := row.Pick(e, 200, churnRate, churnRate)
	c, err := churning(ctx, rate, row.Pick(e, time.Second, 5*time.Second, time.Minute))
	if err != nil {
		return res, err
	}
	share := func(d time.Duration) float64 { return 100 * c.perClose(d).Seconds() * churnRate }
	of := budget.AfterClose.Of
	res.Add(
		row.Cell{Of: of, Column: "of a core", Value: share(c.AfterClose), Spread: c.uncertain(share), Unit: row.Percent},
		row.Cell{Of: of, Column: "tracker's goroutine", Value: share(c.Loop), Unit: row.Percent},
		row.Cell{Of: of, Column: "process", Value: share(c.Process), Unit: row.Percent},
	)
	res.Check(budget.AfterClose, share(c.AfterClose), c.uncertain(share))
	res.Notef("%d closed in %v, %.0f a second; shares of a core are for 10,000 a second, by %d samples of a CPU profile: those "+
		"that are in functions for closed sockets", c.Closed, c.Took.Round(time.Millisecond), float64(c.Closed)/c.Took.Seconds(), c.Samples)
	res.Notef("a socket of somebody else waits for its peer meanwhile, or nothing would be looked up; %d were not looked "+
		"up, because there were too many, and are counted", c.Unfollowed)
	return res, nil
}

// uncertain is how far a share may be off, since samples are few.
func (c *Churn) uncertain(share func(time.Duration) float64) float64 {
	if c.Samples == 0 {
		return math.Inf(1)
	}
	each := c.Process / time.Duration(c.Samples)
	return share(time.Duration(math.Sqrt(max(float64(c.AfterClose/max(each, 1)), 1)) * float64(each)))
}

func stormRow(ctx context.Context, e *row.Env) (res row.Result, err error) {
	n := atMost(row.Pick(e, 90, 3_000, 9_000))
	s, err := storming(ctx, n-n%leakLines, row.Pick(e, 20*time.Millisecond, time.Second, 0))
	if err != nil {
		return res, err
	}
	wall := func(all []Pings) (v []float64) {
		for _, p := range all {
			v = append(v, float64(p.N)/p.For.Seconds())
		}
		return v
	}
	cpu := func(all []Pings) (v []float64) {
		for _, p := range all {
			v = append(v, float64(p.N)/p.CPU.Seconds())
		}
		return v
	}
	for _, of := range []struct {
		name string
		f    func([]Pings) []float64
	}{{"round trips a second", wall}, {"  per CPU second", cpu}} {
		b, d := of.f(s.Before), of.f(s.Storming)
		res.Add(
			row.Cell{Of: of.name, Column: "before", Value: median(b), Spread: spread(b)},
			row.Cell{Of: of.name, Column: "storm", Value: median(d), Spread: spread(d)},
		)
	}
	before, during := cpu(s.Before), cpu(s.Storming)
	harm := func(v float64) float64 { return 100 * v / median(before) }
	res.Check(budget.StormHarm, 100-harm(median(during)), 0)
	res.Check(budget.StormGroups, float64(s.End.Groups), 0)
	res.Check(budget.StormSpans, float64(s.End.Spans), 0)
	res.Check(budget.StormConns, float64(s.End.Others), 0)
	res.Check(budget.StormMissing, math.Abs(float64(int64(s.Leaks)-s.End.Conns-s.End.Left)), 0)
	res.Check(budget.StormRecords, float64(s.End.Records), 0)
	res.Check(budget.StormOpen, math.Abs(float64(s.End.Opened-s.End.Cleared)), 0)
	res.Check(budget.StormLost, float64(s.End.Lost), 0)
	if e.Size != row.Smallest { // where a page of anybody's is more than all of it
		res.Check(budget.StormHeap, (float64(s.Open.Heap)-float64(s.Idle.Heap))/float64(s.Leaks), 0)
		res.Check(budget.StormKept, float64(s.After.Heap)-float64(s.Fresh.Heap), 0)
	}
	res.Notef("%d leaks at %d lines, all found after %v; %d findings opened, %d cleared", s.Leaks, leakLines,
		s.Found.Round(time.Millisecond), s.End.Opened, s.End.Cleared)
	res.Notef("closing what had leaked made spans of %d connections, with their phases, as examples; %d were left out and counted",
		s.End.Conns, s.End.Left)
	return res, nil
}

// startIdle begins to observe idle connections, beside the other rows.
func startIdle(ctx context.Context, e *row.Env) (finish func() (row.Result, error), err error) {
	p, err := start(ctx, "idler")
	if err != nil {
		return nil, err
	}
	a := idleArgs{
		Conns:  atMost(row.Pick(e, 200, many, many)),
		Settle: row.Pick(e, 200*time.Millisecond, 12*time.Second, 20*time.Second), // the first sweep comes after 11 s at most
		Window: row.Pick(e, time.Second, 16*time.Second, time.Minute), Windows: row.Pick(e, 1, 2, 10),
	}
	if err := tell(p, "begin", a); err != nil {
		p.stop()
		return nil, err
	}
	return func() (row.Result, error) {
		defer p.stop()
		i, err := ask[Idle](p, "end", none{})
		if err != nil {
			return row.Result{}, err
		}
		return i.result(), nil
	}, nil
}

func idleRow(ctx context.Context, e *row.Env) (row.Result, error) {
	finish, err := startIdle(ctx, e)
	if err != nil {
		return row.Result{}, err
	}
	return finish()
}

func (i *Idle) result() (res row.Result) {
	var plain, ours, more, sleeps, plainSleeps []float64
	for _, w := range i.Windows {
		plain, ours, more = append(plain, 100*w.PlainCPU), append(ours, 100*w.CPU), append(more, 100*(w.CPU-w.PlainCPU))
		sleeps, plainSleeps = append(sleeps, w.Slept), append(plainSleeps, w.PlainSlept)
	}
	wakes := float64(i.Ticks.Count) / i.Ticks.For.Seconds()
	const slept = "threads put to sleep"
	res.Add(
		row.Cell{Of: budget.CPU, Column: row.Plain, Value: median(plain), Spread: spread(plain), Unit: row.Percent},
		row.Cell{Of: budget.CPU, Column: row.Tracker, Value: median(ours), Spread: spread(ours), Unit: row.Percent},
		row.Cell{Of: slept, Column: row.Plain, Value: median(plainSleeps), Unit: "/s"},
		row.Cell{Of: slept, Column: row.Tracker, Value: median(sleeps), Unit: "/s"},
		row.Cell{Of: slept, Column: "empty tracker", Value: float64(i.EmptySlept) / i.Ticks.For.Seconds(), Unit: "/s"},
		row.Cell{Of: "heap", Column: "begin", Value: float64(i.Heap.Begin), Unit: row.Bytes},
		row.Cell{Of: "heap", Column: "end", Value: float64(i.Heap.End), Unit: row.Bytes},
	)
	loops := 0.0
	if i.EmptyLooping {
		loops = 1
	}
	res.Check(budget.IdleCPU, median(more), spread(more))
	res.Check(budget.IdleWakes, wakes, 0)
	res.Check(budget.IdleTick, float64(i.Ticks.Longest), 0)
	res.Check(budget.IdleGrowth, 100*math.Abs(float64(i.Heap.End)-float64(i.Heap.Begin))/float64(i.Heap.Begin), 0)
	res.Check(budget.EmptyLoops, loops, 0)
	window := time.Duration(0)
	if len(i.Windows) > 0 {
		window = (i.Took / time.Duration(len(i.Windows))).Round(time.Second)
	}
	res.Notef("%d connections, CPU time by getrusage over %d windows of %v, memory after a collection at the beginning and "+
		"%v later", i.Conns, len(i.Windows), window, i.Took.Round(time.Second))
	res.Notef("wake-ups and ticks are seen from outside, for %v, by the nanoseconds that the kernel counts for each thread, every "+
		"%v; with each tick the Go runtime's own monitor wakes up and sleeps some twenty times", i.Ticks.For.Round(time.Second), tickLook)
	return res
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// spread is the median distance from the median.
func spread(v []float64) float64 {
	m := median(v)
	d := make([]float64, len(v))
	for i := range v {
		d[i] = math.Abs(v[i] - m)
	}
	return median(d)
}
