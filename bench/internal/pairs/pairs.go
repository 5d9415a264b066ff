// Package pairs compares ways to do the same thing on a machine that does other
// things meanwhile. All ways take turns in short batches, and what is compared
// are batches of the same round: what slows down a second slows down all of
// them. Medians forget the rounds in which it slowed down only one.
package pairs

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
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
	batches  [][]batch // by variant and round
	allocs   []count   // by variant
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
	if v.Before != nil {
		if err := v.Before(n + 1); err != nil {
			return batch{}, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	runtime.GC() // what other batches left is not collected in this one
	// Pools are empty now, and the caches of the processor are somebody else's.
	if err := v.Run(1); err != nil {
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

// Dist is where the middle of measurements is, and how far they are from it:
// the median of the distances.
type Dist struct{ Median, Spread float64 }

// Stat is what was measured of a variant, per operation.
type Stat struct {
	Name              string
	Time, CPU         Dist // ns
	MoreTime, MoreCPU Dist // beyond the first variant in the same round
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

// DistOf returns the middle of values, which it sorts; NaN if there are none.
func DistOf(values []float64) Dist {
	m := median(values)
	for i, v := range values {
		values[i] = math.Abs(v - m)
	}
	return Dist{m, median(values)}
}

func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	slices.SortFunc(values, cmp.Compare[float64])
	return (values[(n-1)/2] + values[n/2]) / 2
}
