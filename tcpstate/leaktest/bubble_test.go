//go:build unix

package leaktest_test

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// In a bubble time passes only while every goroutine waits for it, and one that
// reads from the network does not.
func TestInABubbleConnsLeftOpenAreReported(t *testing.T) {
	t.Parallel()
	address := sink(t)
	for _, late := range []bool{false, true} {
		var c net.Conn
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			var line int
			out := run(func(ft *fakeT) {
				d := dialer.Dialer{Tracker: leaktest.Tracker(ft), Name: "bubble"}
				c, line = dial(t, d, address)
				go func() { _, _ = c.Read(make([]byte, 1)) }()
				if late {
					ft.Cleanup(func() { go func() { _ = c.Close() }() })
				}
			})
			require.Zero(t, time.Since(begin), "time of the bubble")
			require.NoError(t, ignoreClosed(c.Close()))
			if late {
				require.Empty(t, out)
				return
			}
			require.Contains(t, out, "leaktest: 1 connection left open\n")
			require.Contains(t, out, place("main_test.go", line))
		})
	}
}

func TestATrackerMadeOutsideTheBubbleIsCheckedOutside(t *testing.T) {
	t.Parallel()
	address := sink(t)
	out := run(func(ft *fakeT) {
		d := dialer.Dialer{Tracker: leaktest.Tracker(ft), Name: "bubble"}
		var c net.Conn
		synctest.Test(t, func(*testing.T) {
			var err error
			c, err = d.Dial("tcp", address)
			require.NoError(t, err)
			time.Sleep(time.Hour)
		})
		closes(t, c)
	})
	require.Contains(t, out, "leaktest: 1 connection left open\n")
}
