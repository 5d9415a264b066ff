package zerocopy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const childEnv = "TCPSTATE_ZEROCOPY"

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		scenario, e, _ := strings.Cut(what, "|")
		if err := run(scenario, ends(e)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// calls counts system calls by what they did: "splice src>pipe",
// "write dst". Their results are summed up in bytes.
type calls struct {
	made  map[string]int
	bytes map[string]int64
}

// TestTrackedCopiesMakeTheSameSystemCalls copies what is queued already, so
// that every run makes the same calls.
func TestTrackedCopiesMakeTheSameSystemCalls(t *testing.T) {
	needStrace(t)
	both := []ends{tracked, trackerOff, fromPlain, toPlain}
	for scenario, tc := range map[string]struct {
		ends []ends
		want map[string]int // what plain connections do with this release of Go
	}{
		"Copy conn to conn":  {both, map[string]int{"splice src>pipe": 2, "splice pipe>dst": 1}},
		"CopyN conn to conn": {both[:3], map[string]int{"splice src>pipe": pieces, "splice pipe>dst": pieces}},
		"CopyN past the end": {both[:3], map[string]int{"splice src>pipe": 2, "splice pipe>dst": 1}},
		"Copy conn to file":  {both[:2], map[string]int{"splice src>pipe": 2, "splice pipe>dst": 1}},
		"CopyN conn to file": {both[:2], map[string]int{"splice src>pipe": pieces, "splice pipe>dst": pieces}},
		"Copy file to conn":  {both[:2], map[string]int{"sendfile src>dst": 2}},
		"CopyN file to conn": {both[:2], map[string]int{"sendfile src>dst": 1}},
		"Copy conn to unix":  {both[:2], map[string]int{"splice src>pipe": 2, "splice pipe>dst": 1}},
		"Copy unix to conn":  {both[:2], map[string]int{"splice src>pipe": 2, "splice pipe>dst": 1}},
		"Buffers":            {both[:2], map[string]int{"writev dst": 1}},
	} {
		t.Run(scenario, func(t *testing.T) {
			want := trace(t, scenario, plain)
			assert.Equal(t, tc.want, want.made)
			for _, e := range tc.ends {
				got := trace(t, scenario, e)
				assert.Equal(t, want, got, e)
			}
		})
	}
}

// TestHTTPServesFilesWithSendfile serves a file through the listener package.
// How often the server looks for the next request varies.
func TestHTTPServesFilesWithSendfile(t *testing.T) {
	needStrace(t)
	served := func(scenario string, e ends) calls {
		c := trace(t, scenario, e)
		delete(c.made, "read dst")
		delete(c.bytes, "read dst")
		delete(c.made, "read src") // http.ServeContent may look what type it is
		delete(c.bytes, "read src")
		return c
	}
	want := served("http file", plain)
	assert.Equal(t, map[string]int{"sendfile src>dst": 1, "write dst": 1}, want.made)
	assert.Equal(t, want, served("http file", tracked))
	assert.Equal(t, want, served("http file", trackerOff))

	big := served("http large file", tracked)
	whole := served("http large file", plain)
	assert.Equal(t, whole.bytes, big.bytes)
	assert.Greater(t, big.bytes["sendfile src>dst"], int64(bulkSize-pieceSize))
}

// TestBulkCopiesStayInTheKernel copies with a fast peer at either end: the
// number of calls depends on the scheduler, who moves the bytes does not.
func TestBulkCopiesStayInTheKernel(t *testing.T) {
	needStrace(t)
	for scenario, paths := range map[string][]string{
		"bulk Copy conn to conn":   {"splice src>pipe", "splice pipe>dst"},
		"bulk Copy there and back": {"splice src>pipe", "splice pipe>dst", "splice dst>pipe", "splice pipe>src"},
	} {
		t.Run(scenario, func(t *testing.T) {
			for _, e := range []ends{plain, tracked, trackerOff, fromPlain, toPlain} {
				got := trace(t, scenario, e)
				t.Logf("%s: %v calls", e, got.made)
				for _, path := range paths {
					assert.EqualValues(t, bulkSize, got.bytes[path], "%s: %s", e, path)
				}
				assert.Len(t, got.made, len(paths), "%s: nothing else touches the data", e)
			}
		})
	}
}

// A CopyN to a plain connection is lost to splice: net decides by the type of
// the reader in the io.LimitedReader, and no code of ours is asked. The test is
// here so that the documentation of Conn can be changed when that changes.
func TestCopyNToAPlainConnectionGoesThroughUserSpace(t *testing.T) {
	needStrace(t)
	got := trace(t, "CopyN conn to conn", toPlain)
	assert.Equal(t, map[string]int{"read src": pieces, "write dst": pieces}, got.made)
}

// needStrace skips the test where system calls cannot be watched. In CI that is
// a failure: the tests would be skipped for ever and nobody would know.
func needStrace(t *testing.T) {
	t.Helper()
	reason := ""
	if path, err := exec.LookPath("strace"); err != nil {
		reason = "strace is not installed: " + err.Error()
	} else if out, err := exec.CommandContext(t.Context(), path, "-f", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		reason = fmt.Sprintf("strace may not trace here: %v: %s", err, out)
	}
	switch {
	case reason == "":
	case os.Getenv("TCPSTATE_CI") == "1":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

// trace runs a scenario under strace and counts the calls between the marks
// that touch its descriptors. Calls that found nothing to do are left out.
func trace(t *testing.T, scenario string, e ends) calls {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	log := filepath.Join(t.TempDir(), "strace")
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-y", "-o", log, "-e", "signal=none", "-s", "64", "-e",
		"trace=/^(splice|sendfile.*|copy_file_range|p?readv?(64)?|p?writev?(64)?|(send|recv)m?msg|sendto|recvfrom|f?access(at2?)?)$", exe)
	cmd.WaitDelay = time.Second
	// The race detector waits a second before a process ends.
	cmd.Env = append(os.Environ(), childEnv+"="+scenario+"|"+string(e), "GORACE=atexit_sleep_ms=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	fds := make(map[string]string)
	require.NoError(t, json.Unmarshal(out, &fds), "%s", out)
	f, err := os.Open(log)
	require.NoError(t, err)
	defer f.Close()
	c, err := count(bufio.NewScanner(f), fds)
	require.NoError(t, err)
	return c
}

var (
	straceLine = regexp.MustCompile(`^(\d+) +(.*)$`)
	resumed    = regexp.MustCompile(`^<\.\.\. \w+ resumed>(.*)$`)
	straceCall = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+)`)
)

// count reads what strace -f -y writes: a call that another thread's interrupts is
// split over two lines.
func count(lines *bufio.Scanner, fds map[string]string) (calls, error) {
	names := make(map[string]string)
	for name, fd := range fds {
		names[fd] = name
	}
	c := calls{made: make(map[string]int), bytes: make(map[string]int64)}
	unfinished := make(map[string]string)
	watching, marks := false, 0
	for lines.Scan() {
		m := straceLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		pid, text := m[1], m[2]
		if begin, ok := strings.CutSuffix(text, " <unfinished ...>"); ok {
			unfinished[pid] = begin
			continue
		}
		if m := resumed.FindStringSubmatch(text); m != nil {
			text = unfinished[pid] + m[1]
		}
		if strings.Contains(text, beginMark) || strings.Contains(text, endMark) {
			watching = strings.Contains(text, beginMark)
			marks++
			continue
		}
		m = straceCall.FindStringSubmatch(text)
		if !watching || m == nil {
			continue
		}
		call, args, result := m[1], strings.Split(m[2], ", "), m[3]
		n, err := strconv.ParseInt(result, 10, 64)
		if err != nil {
			return c, err
		}
		if n < 0 {
			continue // EAGAIN
		}
		call = strings.TrimSuffix(call, "64")
		var what string
		switch call {
		case "splice":
			what = end(names, args[0]) + ">" + end(names, args[2])
		case "sendfile":
			what = end(names, args[1]) + ">" + end(names, args[0])
		case "copy_file_range":
			what = end(names, args[0]) + ">" + end(names, args[2])
		default:
			if what = named(names, args[0]); what == "" {
				continue // standard output, the runtime's eventfd, a peer
			}
		}
		c.made[call+" "+what]++
		c.bytes[call+" "+what] += n
	}
	if marks == 0 || marks%2 != 0 {
		return c, fmt.Errorf("%d marks", marks)
	}
	return c, lines.Err()
}

// named returns the name of a descriptor, which strace -y writes as "7<what it
// is>". The number alone would not do: before a connection is accepted and after it
// is closed, a descriptor of the tracker's own may have it.
func named(names map[string]string, arg string) string {
	fd, _, _ := strings.Cut(arg, ">")
	return names[fd+">"]
}

// end names an end of a copy in the kernel. What is no descriptor of the
// scenario is the pipe that splice needs.
func end(names map[string]string, arg string) string {
	if name := named(names, arg); name != "" {
		return name
	}
	return "pipe"
}
