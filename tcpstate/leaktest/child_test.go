package leaktest_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// forgotten keeps what the tests of children leave open.
var forgotten []net.Conn

// forget opens a connection that nobody closes.
func forget(t *testing.T, d dialer.Dialer) {
	t.Helper()
	c, err := d.Dial("tcp", os.Getenv(childAddress))
	require.NoError(t, err)
	forgotten = append(forgotten, c)
}

const childAddress = "LEAKTEST_CHILD_ADDRESS"

// TestChild is a test as users write them, in a process of its own.
func TestChild(t *testing.T) {
	switch os.Getenv(child) {
	case "":
		t.Skip("run by the tests below")
	case "closes":
		leaktest.Default(t)
		d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
		forget(t, d)
		forget(t, dialer.Dialer{})
		for _, c := range forgotten {
			require.NoError(t, c.Close())
		}
	case "default left open", "goleak":
		forget(t, dialer.Dialer{Name: "cache"})
	case "default left open and failed":
		forget(t, dialer.Dialer{Name: "cache"})
		t.Error("the first failure")
	case "tracker":
		tracker := leaktest.Tracker(t)
		forget(t, dialer.Dialer{Tracker: tracker, Name: "cache"})
	case "failed":
		tracker := leaktest.Tracker(t)
		forget(t, dialer.Dialer{Tracker: tracker, Name: "cache"})
		t.Fatal("the first failure")
	case "skipped":
		tracker := leaktest.Tracker(t)
		forget(t, dialer.Dialer{Tracker: tracker, Name: "cache"})
		t.Skip("the first failure")
	case "panicked":
		tracker := leaktest.Tracker(t)
		forget(t, dialer.Dialer{Tracker: tracker, Name: "cache"})
		panic("the first failure")
	}
}

// runChild runs a child and returns its exit code and what it prints.
func runChild(t *testing.T, what string) (code int, out string) {
	t.Helper()
	exe, err := os.Executable()
	if runtime.GOOS == "js" || err != nil {
		t.Skip("no processes here")
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), child+"="+what, childAddress+"="+sink(t))
	b, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = nil
		code = exit.ExitCode()
	}
	require.NoError(t, err)
	return code, string(b)
}

func TestMainAndTrackerInAProcessOfTheirOwn(t *testing.T) {
	t.Parallel()
	const first, left = "the first failure", "leaktest: 1 connection left open\n"
	for _, c := range []struct {
		what  string
		code  int
		wants []string // regular expressions, in this order
	}{
		{"closes", 0, []string{"PASS"}},
		{"default left open", 1, []string{"--- PASS", "\nPASS\n", left, `forget +tcpstate/leaktest/child_test\.go:\d+\n`, `TestChild +tcpstate/leaktest/child_test\.go:\d+\n`}},
		{"default left open and failed", 1, []string{first, "--- FAIL", "\nFAIL\n", left}},
		{"tracker", 1, []string{`\n    child_test\.go:\d+: ` + left, `forget +tcpstate/leaktest/child_test\.go:\d+\n`, "--- FAIL"}},
		{"failed", 1, []string{first, left, "--- FAIL"}},
		{"skipped", 1, []string{first, left, "--- FAIL"}},
		{"panicked", 2, []string{left, "--- FAIL", "panic: " + first}},
		{"goleak", 1, []string{"\nPASS\n", left}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			code, out := runChild(t, c.what)
			require.Equal(t, c.code, code, out)
			rest := out
			for _, want := range c.wants {
				at := regexp.MustCompile(want).FindStringIndex(rest)
				require.NotNil(t, at, "%q is not in the rest of:\n%s", want, out)
				rest = rest[at[1]:]
			}
			require.Equal(t, c.code != 0, strings.Contains(out, "leaktest: "), out)
		})
	}
}

type exits int

func (e exits) Run() int { return int(e) }

func TestTheCodeOfTheTestsIsKept(t *testing.T) {
	for code := range 4 {
		require.Equal(t, code, leaktest.Checked(exits(code)).Run())
	}
	address := sink(t)
	var m leaksAnd = func() int {
		dial(t, dialer.Dialer{Name: "cache"}, address)
		return 3
	}
	out := stderr(t, func() { require.Equal(t, 3, leaktest.Checked(m).Run()) })
	require.Contains(t, out, "leaktest: 1 connection left open\n")
	stderr(t, func() { require.Equal(t, 3, leaktest.Checked(m, leaktest.IgnoreName("cache")).Run()) })
}

type leaksAnd func() int

func (f leaksAnd) Run() int { return f() }

// stderr returns what f writes to os.Stderr: less than a pipe holds.
func stderr(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	before := os.Stderr
	os.Stderr = w
	f()
	os.Stderr = before
	_, err = fmt.Fprint(w, ".")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	b := make([]byte, 1<<16)
	n, err := r.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}
