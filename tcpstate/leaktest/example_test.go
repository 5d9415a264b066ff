package leaktest_test

import (
	"fmt"
	"net"
	"strings"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// TestPayments is what stands in a test file, where t is a *testing.T.
func Example() {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	var conn net.Conn
	TestPayments := func(t leaktest.TB) {
		tracker := leaktest.Tracker(t) // before anything that has a cleanup
		d := dialer.Dialer{Tracker: tracker, Name: "payments"}
		conn, err = d.Dial("tcp", server.Addr().String())
		// Somebody forgot to close it.
	}

	report := run(func(t *fakeT) { TestPayments(t) })
	for line := range strings.Lines(report) {
		if strings.HasPrefix(line, "leaktest:") || strings.Contains(line, "fix ") {
			fmt.Println(strings.TrimSpace(line))
		}
	}
	if err == nil {
		conn.Close()
	}
	// Output:
	// leaktest: 1 connection left open
	// fix    close it where it was made, or in a cleanup: t.Cleanup(func() { conn.Close() })
}
