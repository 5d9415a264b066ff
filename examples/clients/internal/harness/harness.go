// Package harness tries a client library against a real server, with tcpstate
// in between. A test has four parts:
//
//	srv := harness.Redis(t, nil)            // a server of its own, stopped when the test ends
//	path := harness.NewPath(t, srv.Addr())  // the way to it, with faults at will
//	rig := harness.New(t)                   // a tracker whose clock the test moves
//	client := recipe(rig.Dialer("cache"), path.Addr())
//
// and ends in one of two verdicts:
//
//	rig.Finds(t, tcpstate.KindCloseWaitEOFSeen, "cache", "dial", "lost") // at the line marked "// leak: lost"
//	rig.Silent(t)                                                        // nothing above inventory, ever
//
// What the client has set on its socket, and how it ends its connections, the
// path tells: Link.Options, Path.Announced.
//
// The clock of a rig stands still but in Advance, Rest, Finds and Silent, and
// then runs a hundred times as fast as real time.
//
// Each client has a directory with its recipe, which is the code that the
// documentation shows, the tests, and row.json, see Row. Main, called by the
// tests' TestMain, fails when a row claims what no test has shown.
package harness

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// deadline is how long a fact may take to come true. Servers start slowly on a
// busy machine; nothing waits that long when all is well.
const deadline = 60 * time.Second

// WaitUntil polls cond until it is true, and fails the test after a minute.
// what completes the sentence "waiting for".
func WaitUntil(t testing.TB, what string, cond func() bool) {
	t.Helper()
	pause := 100 * time.Microsecond
	for end := time.Now().Add(deadline); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("waiting for %s: still not so after %v", what, deadline)
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// Line returns the place of the comment "// leak: word" in the Go files of the
// package under test as a report shows it: "redis/redis_test.go:57". There must
// be exactly one.
func Line(t testing.TB, word string) string {
	t.Helper()
	dir, err := os.Getwd() // that of the package, by go test
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var places []string
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		name, err := filepath.Rel(moduleRoot(t), file)
		require.NoError(t, err)
		for i, line := range strings.Split(string(source), "\n") {
			if _, comment, ok := strings.Cut(line, "// leak: "); ok && strings.TrimSpace(comment) == word {
				places = append(places, filepath.ToSlash(name)+":"+strconv.Itoa(i+1))
			}
		}
	}
	require.Lenf(t, places, 1, "lines marked %q in %s", "// leak: "+word, dir)
	return places[0]
}

// moduleRoot returns the directory of the go.mod above the package under test.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		require.NotEqual(t, dir, parent, "no go.mod")
		dir = parent
	}
}
