package rows

import (
	"maps"
	"strings"
	"testing"
)

// The lines are those of strace -f -y: of two threads, with calls that are
// interrupted, calls that find nothing, and calls that are somebody else's.
func TestParseCalls(t *testing.T) {
	const log = `10 read(5, "before", 6) = 6
10 faccessat(AT_FDCWD, "/tcpstate-bench-begin", F_OK) = -1 ENOENT (No such file or directory)
10 splice(7<socket:[12]>, NULL, 9<pipe:[13]>, NULL, 1048576, SPLICE_F_NONBLOCK) = 32768
10 read(5<socket:[10]>,  <unfinished ...>
11 write(6<socket:[11]>, "a, b) = 1", 9 <unfinished ...>
10 <... read resumed>"\0\0, 9) = 3", 512) = 512
11 <... write resumed>)              = 9
11 read(5<socket:[10]>, 0x15, 4096)    = -1 EAGAIN (Resource temporarily unavailable)
11 write(4, "\1\0\0\0\0\0\0\0", 8) = 8
12 sendfile64(6<socket:[11]>, 5<socket:[10]>, NULL, 32256)      = 32256
11 read(6<socket:[11]>, "x", 1) = 1
11 sendto(6<socket:[14]>, "a request", 72, 0, NULL, 0) = 72
11 read(5</proc/net/sockstat>, "x", 1) = 1
10 faccessat(AT_FDCWD, "/tcpstate-bench-end", F_OK) = -1 ENOENT (No such file or directory)
10 write(6, "after", 5) = 5
`
	e := ends{From: []string{"5<socket:[10]>"}, To: []string{"6<socket:[11]>"}}
	got, err := parseCalls(strings.NewReader(log), e.moves)
	if err != nil {
		t.Fatal(err)
	}
	want := calls{"splice": 1, "read": 1, "write": 1, "sendfile": 1}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestParseCallsWantsMarks(t *testing.T) {
	for _, log := range []string{
		"10 read(5, \"x\", 1) = 1\n",
		"10 faccessat(AT_FDCWD, \"/tcpstate-bench-begin\", F_OK) = -1 ENOENT (No such file or directory)\n10 read(5, \"x\", 1) = 1\n",
	} {
		if c, err := parseCalls(strings.NewReader(log), func(string, []string) bool { return true }); err == nil {
			t.Errorf("%v of\n%s", c, log)
		}
	}
}
