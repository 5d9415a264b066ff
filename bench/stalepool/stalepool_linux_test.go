package main

import (
	"os"
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/hangup"
)

func TestMain(m *testing.M) {
	hangup.Main()
	os.Exit(m.Run())
}

// Of the pools compared here, ours hands out no connection that its peer has
// closed; and the comparison shows those that do.
func TestOursHandsOutNoStaleConn(t *testing.T) {
	for _, c := range contestants {
		t.Run(c.name, func(t *testing.T) {
			sum, note, err := c.measure(20_000)
			if err != nil {
				t.Fatal(err)
			}
			stale := sum.Stale.Load() - sum.Stalled.Load()
			t.Logf("%d of %d stale, %s", stale, sum.Cycles, note)
			switch c.name {
			case "puddle":
				if stale == 0 {
					t.Error("nothing is stale")
				}
			case "tcpstate pool, LIFO", "tcpstate pool, FIFO":
				if stale != 0 {
					t.Error("stale")
				}
			}
		})
	}
}
