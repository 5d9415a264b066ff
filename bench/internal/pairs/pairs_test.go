package pairs

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

var (
	kept    [][]byte
	garbage []byte
)

func allocating(times int) func(n int) error {
	return func(n int) error {
		kept = kept[:0]
		for range n * times {
			kept = append(kept, make([]byte, 64))
		}
		return nil
	}
}

func TestCountIsExact(t *testing.T) {
	kept = make([][]byte, 0, 1<<12)
	s := New(Config{Batch: 10, Rounds: 1, Allocs: 1000},
		Variant{Name: "none", Run: allocating(0)}, Variant{Name: "three", Run: allocating(3)})
	if err := s.Count(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if a, b := math.Round(st[1].MoreAllocs), math.Round(st[1].MoreBytes); a != 3 || b != 3*64 {
		t.Errorf("%.2f allocations and %.1f bytes more, want 3 and 192", st[1].MoreAllocs, st[1].MoreBytes)
	}
	if n := runtime.GOMAXPROCS(0); n != runtime.NumCPU() && n == 1 {
		t.Error("GOMAXPROCS was not put back")
	}
}

// What costs one variant a lot, but in few rounds, does not show.
func TestMediansForgetWhatHappensNowAndThen(t *testing.T) {
	s := &Set{variants: make([]Variant, 2), batches: make([][]batch, 2)}
	for r := range 9 {
		slow := float64(r * 1000) // the machine gets slower and slower
		s.batches[0] = append(s.batches[0], batch{wall: slow + 100})
		s.batches[1] = append(s.batches[1], batch{wall: slow + 103})
	}
	s.batches[1][4].wall += 1e6
	s.rounds = 9
	if d := s.Stats()[1].MoreTime; d.Median != 3 || d.Spread != 0 {
		t.Errorf("%+v, want 3 more, always", d)
	}
}

func TestDistOf(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   Dist
	}{
		{[]float64{5}, Dist{5, 0, 0}},
		{[]float64{4, 1}, Dist{2.5, 1.5, 1.97}},
		{[]float64{100, 1, 2, 4, 3}, Dist{3, 1, 0.83}},
	} {
		got := DistOf(tc.values)
		got.Error = math.Round(100*got.Error) / 100
		if got != tc.want {
			t.Errorf("%v: %v, want %v", tc.values, got, tc.want)
		}
	}
	if d := DistOf(nil); !math.IsNaN(d.Median) {
		t.Errorf("of nothing: %v", d)
	}
}

// Each variant comes first, and each comes after each other one.
func TestVariantsTakeTurns(t *testing.T) {
	var order strings.Builder
	var variants []Variant
	for _, name := range []string{"a", "b", "c"} {
		variants = append(variants, Variant{Name: name, Run: func(n int) error {
			if n > 1 { // what warms up is a quarter
				order.WriteString(name)
			}
			return nil
		}})
	}
	var raw bytes.Buffer
	s := New(Config{Row: "turns", Batch: 4, Rounds: 6, Raw: row.NewRaw(&raw, "")}, variants...)
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := order.String(), "abc"+"abcbcacab"+"acbbaccba"; got != want {
		t.Errorf("%s, want %s after the first batch of each", got, want)
	}
	if n := strings.Count(raw.String(), "BenchmarkTurns/variant="); n != 18 {
		t.Errorf("%d batches written, want 18", n)
	}
}

func TestRunReturnsWhatAVariantDoes(t *testing.T) {
	bad := errors.New("bad")
	s := New(Config{Batch: 1, Rounds: 1}, Variant{Name: "x", Run: func(int) error { return bad }})
	if err := s.Run(t.Context()); !errors.Is(err, bad) {
		t.Error(err)
	}
}

// The batch that is measured comes after a part of one, and nothing is collected
// between them that would empty the pools.
func TestBatchesAreWarm(t *testing.T) {
	var runs []int
	v := Variant{Name: "x", Run: func(n int) error { runs = append(runs, n); return nil }}
	before := 0
	v.Before = func(n int) error { before += n; return nil }
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	forced := m.NumForcedGC
	if err := New(Config{Batch: 40, Rounds: 1}, v).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []int{10, 40, 10, 40}; !slices.Equal(runs, want) || before != 100 {
		t.Errorf("%v operations, %d prepared; want %v", runs, before, want)
	}
	if runtime.ReadMemStats(&m); m.NumForcedGC != forced {
		t.Error("a collection was forced")
	}
}

// What operations leave behind is collected once for all of them, and before
// anything else is measured.
func TestCollect(t *testing.T) {
	var m runtime.MemStats
	collections := func() uint32 { runtime.ReadMemStats(&m); return m.NumGC }
	var at []uint32
	run := func(n int) error {
		at = append(at, collections())
		for range n {
			garbage = make([]byte, 1<<16)
		}
		if got := collections(); got != at[len(at)-1] {
			t.Errorf("%d collections while operations ran", got-at[len(at)-1])
		}
		return nil
	}
	s := New(Config{Batch: 1, Rounds: 1, Allocs: 100}, Variant{Name: "a", Run: run}, Variant{Name: "b", Run: run})
	if err := s.Collect(t.Context(), 3); err != nil || at != nil {
		t.Fatal("nobody knows yet whether there is anything to collect", err)
	}
	s.allocs = []count{{allocs: 1}, {allocs: 1}}
	if err := s.Collect(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(at); i++ {
		if at[i]-at[i-1] != 2 {
			t.Errorf("%d collections between two variants, want one that is measured, and one before", at[i]-at[i-1])
		}
	}
	if len(at) != 6 {
		t.Errorf("%d runs, want 6", len(at))
	}
	if st := s.Stats()[1]; !(st.GC.Median > 0) {
		t.Errorf("collecting takes %v", st.GC)
	}
	s.allocs, s.gc = []count{{}, {}}, nil
	if err := s.Collect(t.Context(), 3); err != nil || len(at) != 6 || !math.IsNaN(s.Stats()[0].GC.Median) {
		t.Error("nothing is allocated, and nothing to be measured", err)
	}
}
