package table

import (
	"strings"
	"testing"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

func TestRow(t *testing.T) {
	var res row.Result
	res.Add(
		row.Cell{Of: "time", Column: "plain", Value: 31_200, Spread: 400, Unit: row.Nanoseconds},
		row.Cell{Of: "allocs", Column: "plain", Value: 24},
		row.Cell{Of: "time", Column: "+metrics", Value: 4_000, Spread: 700, Unit: row.Nanoseconds, More: true},
		row.Cell{Of: "allocs", Column: "+metrics", Value: 5, More: true},
	)
	res.Check(row.Budget{Of: "time", Limit: 6_000, Unit: row.Nanoseconds, More: true}, 4_000, 700)
	res.Check(row.Budget{Of: "lost", Limit: 0, Exact: true}, 2, 0)
	res.Notef("%s", strings.Repeat("word ", 30))
	var out strings.Builder
	if err := Row(&out, row.Row{Name: "dial+close", What: "one of each"}, res); err != nil {
		t.Fatal(err)
	}
	want := `dial+close: one of each
              plain  +metrics  budget  measured  verdict
    time    31.2 µs     +4 µs   +6 µs     +4 µs       ok
      ±      400 ns    700 ns
    allocs       24        +5
    lost                            0         2     OVER
    ` + strings.TrimSpace(strings.Repeat("word ", 23)) + `
    ` + strings.TrimSpace(strings.Repeat("word ", 7)) + `
`
	if out.String() != want {
		t.Errorf("\n%s\nwant\n%s", &out, want)
	}
}
