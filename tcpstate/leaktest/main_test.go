package leaktest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// child makes this binary the tests of a program that uses Main.
const child = "LEAKTEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(child) {
	case "":
	case "goleak":
		goleak.VerifyTestMain(leaktest.Checked(m))
	default:
		leaktest.Main(m)
	}
	// Who reports a leak has waited for it. The flag still works.
	if err := flag.Set("test.parallel", "100"); err != nil {
		panic(err)
	}
	tcptest.Main(m)
}

// fakeT is the T of a test that is watched by another one.
type fakeT struct {
	mu       sync.Mutex
	cleanups []func()
	errors   []string
}

func (f *fakeT) Helper() {}

func (f *fakeT) Cleanup(fn func()) { f.cleanups = append(f.cleanups, fn) }

func (f *fakeT) Error(args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errors = append(f.errors, fmt.Sprint(args...))
}

// run runs a test with its cleanups and returns what it fails with.
func run(test func(t *fakeT)) string {
	f := new(fakeT)
	test(f)
	for _, fn := range slices.Backward(f.cleanups) {
		fn()
	}
	return strings.Join(f.errors, "")
}

// sink is a server that no tracker knows of. It ends with t.
func sink(t *testing.T) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// closes closes c when t is over, which is after the test that is watched.
func closes(t *testing.T, c net.Conn) {
	t.Cleanup(func() { _ = c.Close() })
}

// dial leaves a connection behind until t is over. It is at the line that is
// returned.
func dial(t *testing.T, d dialer.Dialer, address string) (c net.Conn, line int) {
	t.Helper()
	c, err := d.DialContext(context.Background(), "tcp", address)
	require.NoError(t, err)
	closes(t, c)
	return c, here() - 3
}

// here returns the number of the line that calls it.
func here() int {
	_, _, line, _ := runtime.Caller(1)
	return line
}

// place is how a report shows a line of this package.
func place(file string, line int) string {
	return fmt.Sprintf("tcpstate/leaktest/%s:%d\n", file, line)
}

// tidy lets the garbage collector close the descriptors of what was dropped,
// before the cleanups that were registered earlier.
func tidy(t *testing.T) {
	t.Cleanup(func() {
		for range 4 {
			runtime.GC()
			runtime.Gosched()
		}
	})
}

// same replaces in a report what differs from run to run.
func same(report string) string {
	for _, r := range []struct{ old, new string }{
		{`127\.0\.0\.1:\d+`, "127.0.0.1:PORT"},
		{`\b\d+(\.\d+)?(ms|s|m)\b( ago)?`, "AGE$3"},
		{`conn \d+`, "conn N"},
		{`\.go:\d+`, ".go:LINE"},
		{`pid=\d+|/proc/\d+`, "PID"},
	} {
		report = regexp.MustCompile(r.old).ReplaceAllString(report, r.new)
	}
	return report
}

var _ leaktest.TB = testing.TB(nil)

// ignoreClosed returns err, but for that of a second Close.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
