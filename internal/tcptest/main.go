package tcptest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Main is the body of a TestMain that also fails when the tests leave
// goroutines or, on Linux, file descriptors behind:
//
//	func TestMain(m *testing.M) { tcptest.Main(m) }
//
// It waits up to [Deadline] for those that are about to end. Unless benchmarks
// are run, every call stack that is remembered is found by both ways there are.
func Main(m *testing.M) {
	before, err := openFDs()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tcptest:", err)
		os.Exit(1)
	}
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		sites.CheckShortcuts()
	}
	code := m.Run()
	if code == 0 {
		var left []string
		if !poll(func() bool { left = leftovers(before); return len(left) == 0 }) {
			fmt.Fprintf(os.Stderr, "tcptest: the tests left behind:\n%s\n", strings.Join(left, "\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// leftovers describes the goroutines other than the calling one, and the
// descriptors that were not open before.
func leftovers(before map[int]string) []string {
	var left []string
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for i, g := range strings.Split(string(stacks), "\n\n") {
		// os/signal keeps one for ever once somebody asked for signals, as
		// go test -fuzz does; js/wasm has one for its events.
		if i == 0 || strings.Contains(g, "os/signal.") || strings.Contains(g, "runtime.handleEvent") {
			continue
		}
		left = append(left, g)
	}
	now, err := openFDs()
	if err != nil {
		return append(left, err.Error())
	}
	for fd, target := range now {
		if before[fd] != target {
			left = append(left, fmt.Sprintf("fd %d: %s", fd, target))
		}
	}
	return left
}
