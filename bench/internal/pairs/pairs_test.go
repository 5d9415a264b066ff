package pairs

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

var kept [][]byte

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
		{[]float64{5}, Dist{5, 0}},
		{[]float64{4, 1}, Dist{2.5, 1.5}},
		{[]float64{100, 1, 2, 4, 3}, Dist{3, 1}},
	} {
		if got := DistOf(tc.values); got != tc.want {
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
			if n > 1 { // one alone comes before each batch
				order.WriteString(name)
			}
			return nil
		}})
	}
	var raw bytes.Buffer
	s := New(Config{Row: "turns", Batch: 2, Rounds: 6, Raw: row.NewRaw(&raw, "")}, variants...)
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
