package scale

import (
	"context"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// Grown is how cost grows with the number of connections.
type Grown struct {
	Window    time.Duration
	Points    []Point
	Telemetry []Telemetry
}

// Point is what was measured with one number of connections.
type Point struct {
	Processes int
	Conns     int           // in each process
	CPU       float64       // share of a core, of all tracked processes together
	Heap, RSS float64       // bytes that tracking added, of all together
	Sweeps    float64       // complete rounds of a process in the window, on average
	Look      time.Duration // CPU time for each look at a connection in these
	FIN       FIN           // in one of the processes
}

// Total is the number of connections.
func (p *Point) Total() int { return p.Processes * p.Conns }

// growthPlan is what is measured.
type growthPlan struct {
	one       []int // connections of a single process
	processes int   // that have the last of these each
	settle    time.Duration
	window    time.Duration
	fins      int
	names     []int
}

func planGrowth(e *row.Env) growthPlan {
	all := atMost(row.Pick(e, 120, 4_000, many))
	return growthPlan{
		one:       []int{all / 19, all * 5 / 19, all},
		processes: row.Pick(e, 2, 3, 10),
		settle:    row.Pick(e, 100*time.Millisecond, 12*time.Second, 20*time.Second),
		window:    row.Pick(e, time.Second, 20*time.Second, time.Minute),
		fins:      row.Pick(e, 5, 200, 500),
		names:     []int{1, 10, 50},
	}
}

// Growth measures how cost grows.
func Growth(ctx context.Context, e *row.Env) (g Grown, err error) {
	p := planGrowth(e)
	g.Window = p.window
	for _, n := range p.names {
		e.Logf("telemetry of %d names", n)
		t, err := telemetryOf(ctx, n)
		if err != nil {
			return g, err
		}
		g.Telemetry = append(g.Telemetry, t)
	}
	ones, err := p.measure(ctx, e, p.one...)
	if err != nil {
		return g, err
	}
	g.Points = ones
	many := make([]int, p.processes)
	for i := range many {
		many[i] = p.one[len(p.one)-1]
	}
	each, err := p.measure(ctx, e, many...)
	if err != nil {
		return g, err
	}
	sum := each[0]
	for _, p := range each[1:] {
		sum.Processes++
		sum.CPU, sum.Heap, sum.RSS = sum.CPU+p.CPU, sum.Heap+p.Heap, sum.RSS+p.RSS
		sum.Look, sum.Sweeps = sum.Look+p.Look, sum.Sweeps+p.Sweeps
	}
	sum.Look /= time.Duration(sum.Processes)
	sum.Sweeps /= float64(sum.Processes)
	g.Points = append(g.Points, sum)
	return g, nil
}

// measure has processes with that many connections at the same time, and
// measures each.
func (p *growthPlan) measure(ctx context.Context, e *row.Env, conns ...int) ([]Point, error) {
	points := make([]Point, len(conns))
	crowds := make([]*crowd, len(conns))
	defer func() {
		_ = concurrently(2, len(crowds), func(i int) error {
			if crowds[i] != nil {
				crowds[i].stop()
			}
			return nil
		})
	}()
	err := concurrently(2, len(conns), func(i int) (err error) {
		e.Logf("%d connections in process %d of %d", conns[i], i+1, len(conns))
		if crowds[i], err = newCrowd(ctx, conns[i], true); err != nil {
			return err
		}
		u, err := crowds[i].usage(true)
		points[i] = Point{
			Processes: 1, Conns: conns[i],
			Heap: float64(u.Heap) - float64(crowds[i].bare.Heap), RSS: float64(u.RSS) - float64(crowds[i].bare.RSS),
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	time.Sleep(p.settle)
	e.Logf("idle for %v", p.window)
	before := make([]Usage, len(conns))
	for i, c := range crowds {
		if before[i], err = c.usage(false); err != nil {
			return nil, err
		}
	}
	time.Sleep(p.window)
	for i, c := range crowds {
		now, err := c.usage(false)
		if err != nil {
			return nil, err
		}
		points[i].CPU, _ = rates(before[i], now)
		points[i].Sweeps = float64(now.Stats.Sweeps - before[i].Stats.Sweeps)
		if looks := points[i].Sweeps * float64(conns[i]); looks > 0 {
			// Not Stats.Sweep, which goes by the wall clock: whatever else runs
			// on the machine would be in it.
			points[i].Look = time.Duration(float64(now.CPU-before[i].CPU) / looks)
		}
	}
	for i, c := range crowds {
		if i > 0 && conns[i] == conns[0] {
			break // one of those that are alike is enough
		}
		if points[i].FIN, err = c.bestFIN(min(p.fins, c.n/tries)); err != nil {
			return nil, err
		}
	}
	return points, nil
}

// bestFIN measures the ends of n connections, and of others again while that
// does not meet the budget.
func (c *crowd) bestFIN(n int) (best FIN, err error) {
	for try := range tries {
		f, err := c.fin(try*n, n)
		if err != nil {
			return best, err
		}
		if try == 0 || f.P99 < best.P99 {
			best = f
		}
		if float64(best.P99) <= budget.FINEvent.Limit {
			break
		}
	}
	return best, nil
}
