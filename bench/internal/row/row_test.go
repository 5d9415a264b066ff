package row

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func TestVerdict(t *testing.T) {
	timed := Budget{Of: "time", Limit: 3, Unit: Nanoseconds}
	mean := Budget{Of: "allocs", Limit: 6, Exact: true, Round: true}
	open := Budget{Of: "allocs", Limit: 6, Exact: true, Round: true, Today: 11}
	count := Budget{Of: "lost", Limit: 0, Exact: true}
	for _, tc := range []struct {
		name  string
		c     Check
		want  Verdict
		worse bool
	}{
		{"met", Check{timed, 3, 1}, OK, false},
		{"met, as far as one can tell", Check{timed, 3, 1.5}, OK, false},
		{"met, if it could be seen at all", Check{timed, 1, 1.6}, Noisy, false},
		{"exceeded, perhaps", Check{timed, 4, 0.6}, Noisy, false},
		{"exceeded; times are no matter for tests", Check{timed, 4, 0.4}, Over, false},
		{"exceeded, with whatever noise", Check{timed, 30, 9}, Over, false},
		{"less than nothing", Check{timed, -1, 0.5}, OK, false},
		{"nothing measured", Check{timed, math.NaN(), math.NaN()}, Over, false},
		{"a mean", Check{mean, 6.4, 0}, OK, false},
		{"a mean beyond", Check{mean, 6.6, 0}, Over, true},
		{"not yet met", Check{open, 11.2, 0}, Over, false},
		{"worse than it was", Check{open, 12, 0}, Over, true},
		{"none lost", Check{count, 0, 0}, OK, false},
		{"one lost", Check{count, 1, 0}, Over, true},
		{"nothing counted", Check{count, math.NaN(), 0}, Over, true},
	} {
		if v, w := tc.c.Verdict(), tc.c.Worse(); v != tc.want || w != tc.worse {
			t.Errorf("%s: %s, worse %v; want %s, %v", tc.name, v, w, tc.want, tc.worse)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, tc := range []struct {
		unit   Unit
		v      float64
		signed bool
		want   string
	}{
		{Nanoseconds, 0.523, true, "+0.52 ns"},
		{Nanoseconds, -3.456, true, "-3.46 ns"},
		{Nanoseconds, 999.9, false, "1 µs"},
		{Nanoseconds, 31_234, false, "31.2 µs"},
		{Nanoseconds, 4_950_000_000, false, "4.95 s"},
		{Bytes, 1234, true, "+1234 B"},
		{Bytes, 12_345, false, "12.3 kB"},
		{Count, 6, true, "+6"},
		{Count, -0.001, false, "0"},
		{Count, 5.85, true, "+5.85"},
		{Percent, 0.4, false, "0.4 %"},
		{"calls", 24, false, "24 calls"},
	} {
		if got := tc.unit.Format(tc.v, tc.signed); got != tc.want {
			t.Errorf("%v %s: %s, want %s", tc.v, tc.unit, got, tc.want)
		}
	}
}

type full struct{ err error }

func (w full) Write([]byte) (int, error) { return 0, w.err }

func TestRaw(t *testing.T) {
	var none *Raw
	none.Batch("a", "b", 1)
	if none.Err() != nil {
		t.Error("nobody fails")
	}
	var out bytes.Buffer
	r := NewRaw(&out, "")
	out.Reset()
	r.Batch("dial+close", "+metrics", 200, Value{31234.5678, "ns/op"}, Value{7, "allocs/op"})
	r.Batch("tls handshake", "slow observer", 1, Value{1, "n"})
	if !bytes.Contains(out.Bytes(), []byte("BenchmarkDialClose/variant=metrics-")) ||
		!bytes.Contains(out.Bytes(), []byte("\t200\t31234.6 ns/op\t7 allocs/op\n")) ||
		!bytes.Contains(out.Bytes(), []byte("BenchmarkTlsHandshake/variant=slow_observer-")) {
		t.Errorf("%s", &out)
	}
	bad := errors.New("full")
	if r := NewRaw(full{bad}, ""); !errors.Is(r.Err(), bad) {
		t.Error("an error of the writer is lost")
	}
}
