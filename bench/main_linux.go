// Command bench measures what tracking connections costs, beside plain net and
// beside others, and holds it against budgets:
//
//	go run . -quick
//
// How that grows with the number of connections, with and without the document
// that holds it:
//
//	go run . -growth
//	go run . -growth -o ../docs/cost.md -readme ../README.md
//
// It exits with status 1 if a budget is exceeded, if a measurement is too noisy
// to tell, or if a row fails. What is printed with + comes on top of the first
// column. What follows ± is the standard error of a median; in rows about many
// connections, which have few rounds, the median distance from it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/child"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/rows"
	"github.com/tcpstate/tcpstate-go/bench/internal/scale"
	"github.com/tcpstate/tcpstate-go/bench/internal/table"
)

// all returns every row, in the order of the table.
func all() []row.Row {
	return slices.Concat(rows.All, scale.Rows)
}

func main() {
	child.Main()
	quick := flag.Bool("quick", false, "less than two minutes in all, with less certain figures")
	pattern := flag.String("run", "", "only rows whose name matches this regular `expression`")
	raw := flag.String("raw", "", "write every batch to `file`, for benchstat -col /variant")
	list := flag.Bool("list", false, "print the names of the rows and do nothing")
	growth := flag.Bool("growth", false, "measure how cost grows with the number of connections instead, in some five minutes")
	doc := flag.String("o", "", "put what is printed into `file` as well, between the marks for it: ../docs/cost.md")
	readme := flag.String("readme", "", "with -growth, put what is quoted of it into `file`, between the marks for it: ../README.md")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, os.Stdout, options{quick: *quick, pattern: *pattern, raw: *raw, list: *list, growth: *growth, doc: *doc, readme: *readme})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

type options struct {
	quick        bool
	pattern, raw string
	list, growth bool
	doc, readme  string
}

// run measures the rows that are asked for. ok is false if a budget is not met
// or a row fails.
func run(ctx context.Context, out io.Writer, o options) (ok bool, err error) {
	re, err := regexp.Compile(o.pattern)
	if err != nil {
		return false, err
	}
	selected := slices.DeleteFunc(all(), func(r row.Row) bool { return !re.MatchString(r.Name) })
	if len(selected) == 0 {
		return false, fmt.Errorf("no row matches %q", o.pattern)
	}
	if o.list {
		for _, r := range selected {
			fmt.Fprintf(out, "%-20s %s\n", r.Name, r.What)
		}
		return true, nil
	}
	m := thisMachine()
	env := &row.Env{Logf: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	if o.quick {
		env.Size = row.Quick
	}
	if o.growth {
		return true, growth(ctx, out, env, m, o.doc, o.readme)
	}
	if o.doc != "" {
		page := newPage(out)
		out = page
		defer func() {
			if err == nil {
				err = page.put(o.doc)
			}
		}()
	}
	if o.raw != "" {
		f, err := os.Create(o.raw)
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, env.Raw.Err(), f.Close()) }()
		env.Raw = row.NewRaw(f, m.cpu)
	}
	fmt.Fprintln(out, m)
	begin := time.Now()
	sum, err := measure(ctx, out, env, selected)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(out, "\n%s in %v, load now %s\n", sum, time.Since(begin).Round(time.Second), load())
	return sum.good(), nil
}

// summary counts verdicts.
type summary struct {
	rows     int
	verdicts map[row.Verdict]int
	not      []string // what is not as it should be
}

func (s *summary) good() bool { return len(s.not) == 0 }

func (s *summary) String() string {
	text := fmt.Sprintf("%d rows; budgets: %d ok, %d over, %d too noisy to tell",
		s.rows, s.verdicts[row.OK], s.verdicts[row.Over], s.verdicts[row.Noisy])
	for _, n := range s.not {
		text = n + "\n" + text
	}
	return text
}

// measure runs rows one by one. One that fails does not keep the others from
// being measured.
func measure(ctx context.Context, out io.Writer, env *row.Env, selected []row.Row) (*summary, error) {
	sum := &summary{verdicts: make(map[row.Verdict]int)}
	runs := make([]func() (row.Result, error), len(selected))
	for i, r := range selected {
		runs[i] = func() (row.Result, error) { return r.Run(ctx, env) }
		if r.Start != nil && len(selected) > 1 {
			finish, err := r.Start(ctx, env)
			if err != nil {
				finish = func() (row.Result, error) { return row.Result{}, err }
			}
			runs[i] = finish
		}
	}
	for i, r := range selected {
		fmt.Fprintln(out)
		res, err := runs[i]()
		sum.rows++
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			fmt.Fprintf(out, "%s: FAILED: %v\n", r.Name, err)
			sum.not = append(sum.not, fmt.Sprintf("%s: failed", r.Name))
			continue
		}
		if err := table.Row(out, r, res); err != nil {
			return nil, err
		}
		for _, c := range res.Checks {
			v := c.Verdict()
			sum.verdicts[v]++
			if v != row.OK {
				b := c.Budget
				sum.not = append(sum.not, fmt.Sprintf("%s: %s %s: %s, budget %s", r.Name, b.Of, v,
					b.Unit.Format(c.Measured, b.More), b.Unit.Format(b.Limit, b.More)))
			}
		}
	}
	return sum, nil
}
