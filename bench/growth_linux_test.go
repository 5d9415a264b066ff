package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// What takes long begins before the first row is measured, and is waited for
// when it is its turn; alone there is nothing to begin before.
func TestALongRowBeginsFirst(t *testing.T) {
	var order []string
	did := func(what string) { order = append(order, what) }
	short := row.Row{Name: "short", What: "s", Run: func(context.Context, *row.Env) (row.Result, error) {
		did("short")
		return row.Result{}, nil
	}}
	long := row.Row{Name: "long", What: "l", Run: func(context.Context, *row.Env) (row.Result, error) {
		did("alone")
		return row.Result{}, nil
	}, Start: func(context.Context, *row.Env) (func() (row.Result, error), error) {
		did("begin")
		return func() (row.Result, error) { did("end"); return row.Result{}, nil }, nil
	}}
	broken := row.Row{Name: "broken", What: "b", Start: func(context.Context, *row.Env) (func() (row.Result, error), error) {
		return nil, errors.New("cannot begin")
	}}
	for _, tc := range []struct {
		rows []row.Row
		want string
		not  string
	}{
		{[]row.Row{short, long}, "begin short end", ""},
		{[]row.Row{long}, "alone", ""},
		{[]row.Row{broken, short}, "short", "broken: failed"},
	} {
		order = nil
		sum, err := measure(t.Context(), io.Discard, new(row.Env), tc.rows)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(order, " "); got != tc.want {
			t.Errorf("%s, not %s", got, tc.want)
		}
		if got := strings.Join(sum.not, ", "); got != tc.not {
			t.Errorf("%q, not %q", got, tc.not)
		}
	}
}

// The documents have the marks between which the program writes.
func TestDocumentsHaveTheirMarks(t *testing.T) {
	for path, names := range map[string][]string{"../docs/cost.md": {"table", "growth"}, "../README.md": {"cost"}} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(b), "\n")
		for _, name := range names {
			begin, end := slices.Index(lines, "<!-- begin "+name+" -->"), slices.Index(lines, "<!-- end "+name+" -->")
			if begin < 0 || end < begin {
				t.Errorf("%s has no marks for %s", path, name)
			}
		}
	}
}
