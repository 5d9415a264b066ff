package tcptest

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// WaitUntil polls cond, at first every 100 µs and then ever more slowly, and
// fails the test when it does not become true within [Deadline]. what completes
// the sentence "waited for …".
func WaitUntil(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !poll(cond) {
		t.Fatalf("tcptest: waited %v for %s", Deadline, what)
	}
}

// WaitState polls the kernel until c is in the state want.
func WaitState(t testing.TB, c syscall.Conn, want uint8) {
	t.Helper()
	var got uint8
	if !poll(func() bool { got = State(t, c); return got == want }) {
		t.Fatalf("tcptest: waited %v for state %s, still %s", Deadline, StateName(want), StateName(got))
	}
}

// WaitTable polls [TableState] until it is want.
func WaitTable(t testing.TB, local, remote net.Addr, want uint8) {
	t.Helper()
	var got uint8
	if !poll(func() bool { got = TableState(t, local, remote); return got == want }) {
		t.Fatalf("tcptest: waited %v for %v-%v in state %s, still %s",
			Deadline, local, remote, StateName(want), StateName(got))
	}
}

// poll reports whether cond became true within Deadline.
func poll(cond func() bool) bool {
	const longest = 20 * time.Millisecond
	pause := 100 * time.Microsecond
	for end := time.Now().Add(Deadline); ; pause = min(2*pause, longest) {
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
}
