// Package table prints what rows have measured, in 120 columns.
package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// Width is how wide a line may be.
const Width = 120

// Row writes what r has measured: a line for each quantity, with a column for
// each variant, the budget and the verdict.
func Row(w io.Writer, r row.Row, res row.Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Name, r.What)
	grid(&b, lines(res))
	for _, n := range res.Notes {
		for _, l := range wrap(n, Width-4) {
			fmt.Fprintf(&b, "    %s\n", l)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lines makes the table: a head, and the cells of each line, whose first is the
// quantity.
func lines(res row.Result) [][]string {
	head := []string{""}
	for _, c := range res.Cells {
		if !slices.Contains(head, c.Column) {
			head = append(head, c.Column)
		}
	}
	columns := head[1:]
	if len(res.Checks) > 0 {
		head = append(head, "budget", "measured", "verdict")
	}
	all := [][]string{head}
	checks := slices.Clone(res.Checks)
	for _, of := range quantities(res) {
		line, spread := make([]string, len(head)), make([]string, len(head))
		line[0], spread[0] = of, "  ±"
		spreads := false
		for _, c := range res.Cells {
			if c.Of != of {
				continue
			}
			i := 1 + slices.Index(columns, c.Column)
			line[i] = c.Unit.Format(c.Value, c.More)
			if c.Spread > 0 {
				spread[i] = c.Unit.Format(c.Spread, false)
				spreads = true
			}
		}
		for i, c := range checks {
			if c.Budget.Of == of {
				judged(line, c)
				checks = slices.Delete(checks, i, i+1)
				break
			}
		}
		all = append(all, line)
		if spreads {
			all = append(all, spread)
		}
	}
	for _, c := range checks {
		line := make([]string, len(head))
		line[0] = c.Budget.Of
		judged(line, c)
		all = append(all, line)
	}
	return all
}

func quantities(res row.Result) []string {
	var of []string
	for _, c := range res.Cells {
		if !slices.Contains(of, c.Of) {
			of = append(of, c.Of)
		}
	}
	return of
}

func judged(line []string, c row.Check) {
	b := c.Budget
	at := len(line) - 3
	line[at] = b.Unit.Format(b.Limit, b.More)
	line[at+1] = b.Unit.Format(c.Measured, b.More)
	line[at+2] = string(c.Verdict())
}

// grid aligns columns to the right, but the first.
func grid(b *strings.Builder, lines [][]string) {
	width := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, s := range l {
			width[i] = max(width[i], utf8.RuneCountInString(s))
		}
	}
	for n, l := range lines {
		if n == 0 && len(l) == 1 {
			continue
		}
		var line strings.Builder
		fmt.Fprintf(&line, "    %-*s", width[0], l[0])
		for i, s := range l[1:] {
			fmt.Fprintf(&line, "  %*s", width[i+1], s)
		}
		fmt.Fprintf(b, "%s\n", strings.TrimRight(line.String(), " "))
	}
}

// wrap breaks text between words.
func wrap(text string, width int) []string {
	var all []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			all, line = append(all, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(all, line)
}
