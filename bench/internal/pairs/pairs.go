// Package pairs compares ways to do the same thing on a machine that does other
// things meanwhile. All ways take turns in short batches, and what is compared
// are batches of the same round: what slows down a second slows down all of
// them. Medians forget the rounds in which it slowed down only one.
//
// Batches are warm, as programs are: a quarter of a batch comes before each, so
// that the caches of the processor are its own again, and no collection is
// forced, which would empty every sync.Pool. Collections that come by themselves
// hit few batches, because the heap is as large as that of a program, and medians
// forget these, too. What a variant's garbage costs is therefore measured apart,
// by Set.Collect: the processor time of a collection after many operations. It
// does not say how much sooner the next collection comes; that goes by the bytes
// of each operation, and costs what the heap of the program costs to mark.
//
// What a variant leaves to goroutines in the background, such as reporting, falls
// on whoever's turn it is. Differences do not show it.
package pairs

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// A Variant is one way to do it. The first one is what the others are compared
// with.
type Variant struct {
	Name string

	// Run makes n operations.
	Run func(n int) error

	// Before, if not nil, prepares n operations. It is not measured.
	Before func(n int) error
}

// Config says how much to do.
type Config struct {
	Row    string // its name, for the raw output
	Batch  int    // operations in a batch
	Rounds int    // at least
	Time   time.Duration
	Allocs int // operations in a batch that counts allocations; 0: not counted
	Warm   int // operations right before such a batch, that fill what a collection has emptied
	Raw    *row.Raw
}

// Set is a comparison.
type Set struct {
	cfg      Config
	variants []Variant
	batches  [][]batch   // by variant and round
	allocs   []count     // by variant
	gc       [][]float64 // by variant, ns for each operation
	rounds   int
}

// batch is what one operation of a batch took, in ns.
type batch struct{ wall, cpu float64 }

// count is what one operation allocates.
type count struct{ allocs, bytes float64 }

// New prepares a comparison.
func New(cfg Config, variants ...Variant) *Set {
	return &Set{cfg: cfg, variants: variants, batches: make([][]batch, len(variants))}
}

// heapSize is what there is to collect garbage beside, as far as the collector
// knows: nobody writes to it, and there is nothing in it to be marked.
const heapSize = 64 << 20

// Run makes rounds until the time is up, but at least as many as configured.
// Calling it again adds rounds to those that there are.
func (s *Set) Run(ctx context.Context) error {
	if s.rounds == 0 {
		for i := range s.variants { // pools and tables are filled
			if _, err := s.measure(i, s.cfg.Batch); err != nil {
				return err
			}
		}
	}
	heap := make([]byte, heapSize)
	defer runtime.KeepAlive(heap)
	end := time.Now().Add(s.cfg.Time)
	for n := 0; n < s.cfg.Rounds || time.Now().Before(end); n++ {
		if err := s.round(ctx); err != nil {
			return err
		}
	}
	return nil
}

// round makes a batch of each variant. The first one is another every time, and
// so is the one that each comes after.
func (s *Set) round(ctx context.Context) error {
	n := len(s.variants)
	for k := range n {
		i := (s.rounds + k) % n
		if s.rounds/n%2 == 1 {
			i = (s.rounds + n - k) % n
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := s.measure(i, s.cfg.Batch)
		if err != nil {
			return err
		}
		s.batches[i] = append(s.batches[i], b)
		values := []row.Value{{V: b.wall, Unit: "ns/op"}, {V: b.cpu, Unit: "cpu-ns/op"}}
		if s.allocs != nil {
			values = append(values, row.Value{V: s.allocs[i].bytes, Unit: "B/op"}, row.Value{V: s.allocs[i].allocs, Unit: "allocs/op"})
		}
		s.cfg.Raw.Batch(s.cfg.Row, s.variants[i].Name, s.cfg.Batch, values...)
	}
	s.rounds++
	return nil
}

func (s *Set) measure(i, n int) (batch, error) {
	v := s.variants[i]
	warm := max(1, n/4)
	if v.Before != nil {
		if err := v.Before(warm + n); err != nil {
			return batch{}, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	if err := v.Run(warm); err != nil {
		return batch{}, fmt.Errorf("%s: %w", v.Name, err)
	}
	cpu, begin := cpuTime(), time.Now()
	err := v.Run(n)
	wall := time.Since(begin)
	cpu = cpuTime() - cpu
	if err != nil {
		return batch{}, fmt.Errorf("%s: %w", v.Name, err)
	}
	return batch{float64(wall) / float64(n), float64(cpu) / float64(n)}, nil
}

// Count counts allocations, on one thread: what else runs in the process only
// adds to them, so that the least of several counts is the best. It is taken
// when it came up twice, or after many tries.
func (s *Set) Count(ctx context.Context) error {
	if s.cfg.Allocs == 0 {
		return nil
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const few, many = 5, 12 // the first fills pools and tables
	counts := make([][]count, len(s.variants))
	for try := range many {
		for i := range s.variants {
			if err := ctx.Err(); err != nil {
				return err
			}
			if try >= few && agree(counts[i]) {
				continue
			}
			c, err := s.count(i, s.cfg.Allocs)
			if err != nil {
				return err
			}
			counts[i] = append(counts[i], c)
			slices.SortFunc(counts[i], func(a, b count) int { return cmp.Compare(a.allocs, b.allocs) })
		}
	}
	s.allocs = make([]count, len(s.variants))
	for i, c := range counts {
		s.allocs[i] = c[0]
		for _, other := range c { // that with the least allocations may have a larger one of a table
			s.allocs[i].bytes = min(s.allocs[i].bytes, other.bytes)
		}
	}
	return nil
}

// agree reports whether the two least counts are the same, but for what the
// runtime allocates now and then.
func agree(sorted []count) bool { return sorted[1].allocs-sorted[0].allocs < 0.1 }

func (s *Set) count(i, n int) (count, error) {
	v := s.variants[i]
	if v.Before != nil {
		if err := v.Before(s.cfg.Warm + n); err != nil {
			return count{}, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	if s.cfg.Warm > 0 {
		if err := v.Run(s.cfg.Warm); err != nil {
			return count{}, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := v.Run(n)
	runtime.ReadMemStats(&after)
	if err != nil {
		return count{}, fmt.Errorf("%s: %w", v.Name, err)
	}
	return count{
		allocs: float64(after.Mallocs-before.Mallocs) / float64(n),
		bytes:  float64(after.TotalAlloc-before.TotalAlloc) / float64(n),
	}, nil
}

// Collect measures what it takes to collect what operations leave behind, as
// often as is said, on one thread. There is nothing to be measured where nothing
// is allocated.
func (s *Set) Collect(ctx context.Context, times int) error {
	if s.allocs == nil || !slices.ContainsFunc(s.allocs, func(c count) bool { return c.allocs >= 1 }) {
		return nil
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // all at once, in the end
	s.gc = make([][]float64, len(s.variants))
	for range times {
		for i := range s.variants {
			if err := ctx.Err(); err != nil {
				return err
			}
			ns, err := s.collect(i, s.cfg.Allocs)
			if err != nil {
				return err
			}
			s.gc[i] = append(s.gc[i], ns)
		}
	}
	return nil
}

func (s *Set) collect(i, n int) (ns float64, err error) {
	v := s.variants[i]
	if v.Before != nil {
		if err := v.Before(n); err != nil {
			return 0, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	runtime.GC()
	if err := v.Run(n); err != nil {
		return 0, fmt.Errorf("%s: %w", v.Name, err)
	}
	cpu := cpuTime()
	runtime.GC()
	return float64(cpuTime()-cpu) / float64(n), nil
}

// Dist is where the middle of measurements is.
type Dist struct {
	Median float64
	Spread float64 // the median distance from it
	Error  float64 // the standard error of Median
}

// Stat is what was measured of a variant, per operation.
type Stat struct {
	Name              string
	Time, CPU         Dist // ns
	MoreTime, MoreCPU Dist // beyond the first variant in the same round
	GC, MoreGC        Dist // ns of processor time by Collect; NaN if not measured
	Allocs, Bytes     float64
	MoreAllocs        float64
	MoreBytes         float64
}

// Rounds returns how many rounds were made.
func (s *Set) Rounds() int { return s.rounds }

// Stats returns what was measured of all variants, in their order.
func (s *Set) Stats() []Stat {
	stats := make([]Stat, len(s.variants))
	for i, v := range s.variants {
		st := Stat{Name: v.Name}
		st.GC, st.MoreGC = s.collected(i)
		st.Time = s.dist(func(r int) float64 { return s.batches[i][r].wall })
		st.CPU = s.dist(func(r int) float64 { return s.batches[i][r].cpu })
		st.MoreTime = s.dist(func(r int) float64 { return s.batches[i][r].wall - s.batches[0][r].wall })
		st.MoreCPU = s.dist(func(r int) float64 { return s.batches[i][r].cpu - s.batches[0][r].cpu })
		if s.allocs != nil {
			st.Allocs, st.Bytes = s.allocs[i].allocs, s.allocs[i].bytes
			st.MoreAllocs, st.MoreBytes = st.Allocs-s.allocs[0].allocs, st.Bytes-s.allocs[0].bytes
		}
		stats[i] = st
	}
	return stats
}

func (s *Set) dist(of func(round int) float64) Dist {
	values := make([]float64, s.rounds)
	for r := range values {
		values[r] = of(r)
	}
	return DistOf(values)
}

// collected returns what collecting takes, and what beyond the first variant.
func (s *Set) collected(i int) (all, more Dist) {
	if s.gc == nil {
		return DistOf(nil), DistOf(nil)
	}
	d := slices.Clone(s.gc[i])
	for k := range d {
		d[k] -= s.gc[0][k]
	}
	return DistOf(slices.Clone(s.gc[i])), DistOf(d)
}

// DistOf returns the middle of values, which it sorts; NaN if there are none.
func DistOf(values []float64) Dist {
	m := median(values)
	for i, v := range values {
		values[i] = math.Abs(v - m)
	}
	spread := median(values)
	// A normal distribution has 1.4826 times the spread for its standard
	// deviation, and a median is less certain than a mean by √(π/2).
	sd := 1.4826 * spread
	return Dist{m, spread, math.Sqrt(math.Pi/2) * sd / math.Sqrt(float64(len(values)))}
}

func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	slices.SortFunc(values, cmp.Compare[float64])
	return (values[(n-1)/2] + values[n/2]) / 2
}
