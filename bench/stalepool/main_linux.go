// Command stalepool runs pools against a server that closes idle connections at
// random, and prints which of them hand out connections that are closed:
//
//	go run ./stalepool -cycles 1000000
//
// The server writes down when it has closed a connection. One that was handed
// out a millisecond or more after that is stale.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/hangup"
)

func main() {
	hangup.Main()
	n := flag.Int("cycles", 100_000, "how often each pool lends a connection")
	flag.Parse()
	if err := compare(os.Stdout, *n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// compare writes the table.
func compare(out io.Writer, n int) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "pool\tcycles\ttook\tstale\theld up\tworst\tclosed < 1ms\tfailed\t  \t")
	for _, c := range contestants {
		sum, note, err := c.measure(n)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintf(w, "%s\t%d\t%v\t%d\t%d\t%v\t%d\t%d\t  %s\t\n", c.name, sum.Cycles, sum.Took.Round(time.Millisecond),
			sum.Stale.Load()-sum.Stalled.Load(), sum.Stalled.Load(), time.Duration(sum.Worst.Load()).Round(10*time.Microsecond),
			sum.Recent.Load(), sum.Failed.Load(), note)
	}
	return w.Flush()
}

func (c *contestant) measure(n int) (*hangup.Tally, string, error) {
	s, err := hangup.Start()
	if err != nil {
		return nil, "", err
	}
	defer s.Stop()
	sum := new(hangup.Tally)
	note, err := c.run(n, s, sum)
	return sum, note, err
}

func percent(part uint64, of int) string {
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(of))
}
