package rows

import (
	"context"
	"math"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/pairs"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// maxRuns is how often a comparison is made anew, each time with as many rounds
// more, while it does not tell whether the budget is met.
const maxRuns = 3

// collecting is the processor time that it takes to collect what one operation
// leaves behind. It is in no other line.
const collecting = "collect"

// spec says what is compared.
type spec struct {
	row    string
	batch  int // operations in a batch: some milliseconds
	allocs int // operations in a batch that counts allocations
	warm   int // operations before that
	cost   budget.Cost
	judge  string // the column that cost is about; "" means row.Metrics
}

// compare measures variants, the first of which is plain, and judges one.
func compare(ctx context.Context, e *row.Env, s spec, variants []pairs.Variant) (row.Result, error) {
	if s.judge == "" {
		s.judge = row.Metrics
	}
	if e.Size == row.Smallest && s.cost.Allocs == nil {
		s.allocs = min(s.allocs, 10) // nobody judges
	}
	set := pairs.New(pairs.Config{
		Row: s.row, Raw: e.Raw,
		Batch:  row.Pick(e, min(s.batch, 10), s.batch, s.batch),
		Allocs: s.allocs,
		Warm:   s.warm,
		Rounds: row.Pick(e, 1, 15, 60),
		Time:   row.Pick(e, 0, 1200*time.Millisecond, 15*time.Second),
	}, variants...)
	if err := set.Count(ctx); err != nil {
		return row.Result{}, err
	}
	if err := set.Collect(ctx, row.Pick(e, 1, 5, 25)); err != nil {
		return row.Result{}, err
	}
	runs := 0
	for {
		if err := set.Run(ctx); err != nil {
			return row.Result{}, err
		}
		runs++
		if e.Size == row.Smallest || runs == maxRuns || s.decided(set) {
			break
		}
		e.Logf("%s: once more, %d rounds do not tell", s.row, set.Rounds())
	}
	res := costs(set, s.allocs > 0)
	for _, st := range set.Stats() {
		if st.Name != s.judge {
			continue
		}
		if b := s.cost.Time; b != nil {
			res.Check(*b, st.MoreTime.Median, st.MoreTime.Error)
		}
		if b := s.cost.Allocs; b != nil {
			res.Check(*b, st.MoreAllocs, 0)
		}
		if b := s.cost.Bytes; b != nil {
			res.Check(*b, st.MoreBytes, 0)
		}
	}
	if runs > 1 {
		res.Notef("measured %d times over, %d rounds in all: fewer did not tell.", runs, set.Rounds())
	}
	return res, nil
}

// decided reports whether it is certain that the time that is judged is within
// its budget, or beyond.
func (s *spec) decided(set *pairs.Set) bool {
	if s.cost.Time == nil {
		return true
	}
	for _, st := range set.Stats() {
		if st.Name == s.judge {
			c := row.Check{Budget: *s.cost.Time, Measured: st.MoreTime.Median, Error: st.MoreTime.Error}
			return c.Verdict() != row.Noisy
		}
	}
	return true
}

// costs makes the lines of a comparison.
func costs(set *pairs.Set, allocs bool) row.Result {
	var res row.Result
	for i, st := range set.Stats() {
		more := i > 0
		time, cpu, gc, n, bytes := st.MoreTime, st.MoreCPU, st.MoreGC, st.MoreAllocs, st.MoreBytes
		if !more {
			time, cpu, gc, n, bytes = st.Time, st.CPU, st.GC, st.Allocs, st.Bytes
		}
		res.Add(
			row.Cell{Of: budget.Time, Column: st.Name, Value: time.Median, Spread: time.Error, Unit: row.Nanoseconds, More: more},
			row.Cell{Of: budget.CPU, Column: st.Name, Value: cpu.Median, Spread: cpu.Error, Unit: row.Nanoseconds, More: more},
		)
		if !math.IsNaN(gc.Median) {
			res.Add(row.Cell{Of: collecting, Column: st.Name, Value: gc.Median, Spread: gc.Error, Unit: row.Nanoseconds, More: more})
		}
		if allocs {
			res.Add(row.Cell{Of: budget.Allocs, Column: st.Name, Value: n, More: more},
				row.Cell{Of: budget.Bytes, Column: st.Name, Value: bytes, Unit: row.Bytes, More: more})
		}
	}
	return res
}
