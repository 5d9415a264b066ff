package main

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/perf/benchfmt"

	"github.com/tcpstate/tcpstate-go/bench/internal/child"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/table"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

// Every row runs, as little as it can. What does not depend on the machine has
// to be within its budget: allocations, system calls, what is lost.
func TestEveryRow(t *testing.T) {
	var raw bytes.Buffer
	env := &row.Env{Size: row.Smallest, Raw: row.NewRaw(&raw, "test"), Logf: t.Logf}
	for _, r := range all() {
		t.Run(r.Name, func(t *testing.T) {
			res, err := r.Run(t.Context(), env)
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := table.Row(&text, r, res); err != nil {
				t.Fatal(err)
			}
			t.Logf("\n%s", &text)
			for line := range strings.Lines(text.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > table.Width {
					t.Errorf("a line of %d columns: %s", n, line)
				}
			}
			for _, c := range res.Checks {
				b := c.Budget
				switch {
				case raceEnabled && b.Of == "allocs":
					// sync.Pool drops at random under the race detector.
				case c.Worse():
					t.Errorf("%s: %s, budget %s", b.Of, b.Unit.Format(c.Measured, b.More), b.Unit.Format(max(b.Limit, b.Today), b.More))
				case b.Exact && b.Today != 0 && c.Verdict() == row.OK:
					t.Errorf("%s: the budget is met: take away what was accepted meanwhile", b.Of)
				}
			}
		})
	}
	if err := env.Raw.Err(); err != nil {
		t.Fatal(err)
	}
	parses(t, &raw)
}

// parses fails if benchstat could not read the raw output, or could not tell
// the columns of a row from each other.
func parses(t *testing.T, raw io.Reader) {
	t.Helper()
	columns := make(map[string][]string) // by name
	for r := benchfmt.NewReader(raw, "raw"); r.Scan(); {
		switch rec := r.Result().(type) {
		case *benchfmt.SyntaxError:
			t.Error(rec)
		case *benchfmt.Result:
			if len(rec.Values) == 0 || rec.Iters == 0 {
				t.Errorf("%s: nothing measured", rec.Name)
			}
			name, parts := rec.Name.Parts()
			for _, p := range parts {
				if v, ok := strings.CutPrefix(string(p), "/variant="); ok && !slices.Contains(columns[string(name)], v) {
					columns[string(name)] = append(columns[string(name)], v)
				}
			}
		}
	}
	names := slices.Sorted(maps.Keys(columns))
	t.Log(names)
	if len(names) == 0 {
		t.Error("nothing is written")
	}
	for _, name := range names {
		if len(columns[name]) == 0 {
			t.Errorf("%s has no variant", name)
		}
	}
}

func TestNamesOfRowsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range all() {
		if seen[r.Name] {
			t.Errorf("two rows are %q", r.Name)
		}
		seen[r.Name] = true
		if r.What == "" {
			t.Errorf("%s says nothing of itself", r.Name)
		}
	}
}

func TestRunSaysWhatIsNotMet(t *testing.T) {
	rows := func(c row.Check) []row.Row {
		return []row.Row{{Name: "a", What: "b", Run: fixed(row.Result{Checks: []row.Check{c}}, nil)}}
	}
	limit := row.Budget{Of: "time", Limit: 3, Unit: row.Nanoseconds, More: true}
	for _, tc := range []struct {
		name string
		rows []row.Row
		good bool
		says string
	}{
		{"met", rows(row.Check{Budget: limit, Measured: 2, Error: 1}), true, "1 ok, 0 over, 0 too noisy"},
		{"exceeded", rows(row.Check{Budget: limit, Measured: 6, Error: 1}), false, "a: time OVER: +6 ns, budget +3 ns"},
		{"noisy", rows(row.Check{Budget: limit, Measured: 2, Error: 4}), false, "a: time noisy: +2 ns, budget +3 ns"},
		{"failed", []row.Row{{Name: "a", Run: fixed(row.Result{}, io.ErrUnexpectedEOF)}}, false, "a: FAILED: unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			sum, err := measure(t.Context(), &out, &row.Env{}, tc.rows)
			if err != nil {
				t.Fatal(err)
			}
			if text := out.String() + sum.String(); sum.good() != tc.good || !strings.Contains(text, tc.says) {
				t.Errorf("good: %v, want %v and %q in:\n%s", sum.good(), tc.good, tc.says, text)
			}
		})
	}
}

func fixed(res row.Result, err error) func(context.Context, *row.Env) (row.Result, error) {
	return func(context.Context, *row.Env) (row.Result, error) { return res, err }
}

func TestList(t *testing.T) {
	var out bytes.Buffer
	if ok, err := run(t.Context(), &out, options{pattern: "^dial", list: true}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if !strings.HasPrefix(out.String(), "dial+close ") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%s", &out)
	}
	if _, err := run(t.Context(), &out, options{pattern: "no such row"}); err == nil {
		t.Error("a pattern that matches nothing is no error")
	}
}
