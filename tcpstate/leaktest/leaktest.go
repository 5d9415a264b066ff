// Package leaktest fails a test that leaves TCP connections behind, and says
// which line of code opened them.
//
// Each test has a tracker of its own, so tests may run in parallel:
//
//	func TestClient(t *testing.T) {
//		t.Parallel()
//		tracker := leaktest.Tracker(t)
//		client := payments.New(dialer.Dialer{Tracker: tracker})
//		defer client.Close()
//		...
//	}
//
// When the test and its cleanups are over, what is still open is reported:
// connections that were dialed, accepted or attached, each with the line that
// made it and the line that uses it, and dials in progress; and so are findings
// of severity warning and above that there were meanwhile, such as a connection
// that was dropped without Close. One line of code makes one block of the
// report, however many connections it has left. Closing is often done by other
// goroutines, so they get half a second.
//
// Cleanups run in reverse order: what is called first is checked last. So call
// [Tracker] before anything that has a cleanup.
//
// A test that fails, skips itself or panics is checked all the same, and fails
// with the report after its own message.
//
// # What it does not see
//
//   - Connections that no tracker was told of: dialed and accepted with plain
//     package net, or with another tracker than the one that is checked.
//   - Sockets that are not TCP, listeners, duplicates made by File, and what the
//     kernel still has to do after Close.
//   - A response body that is not closed, where the response was short, over a
//     plain http.Transport and with [IdleHTTP]: its connection looks idle. With
//     package httppool it is seen.
//   - Who has borrowed a connection of a pool.Pool for less than a second: the
//     report has the line that dialed it. The error of Pool.Close has the other.
//   - Most faults that take time. A connection that is closed before a threshold
//     of Config has passed, 30 s for most, was none.
//   - Findings, in a bubble of testing/synctest: connections are counted there,
//     not judged. Those left open are reported, if [Tracker] is called with the
//     T of the bubble; half a second of the machine's time may pass, and none of
//     the bubble's. Windows does not tell a bubble from the machine.
package leaktest

import (
	"log/slog"
	"os"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// TB is the part of testing.TB that is used here.
type TB interface {
	Helper()
	Cleanup(func())
	Error(args ...any)
}

// M is the part of *testing.M that is used here.
type M interface {
	Run() int
}

// Tracker returns a new tracker for the test t. When t is over, it is checked
// and closed. It logs nothing. Its configuration may be changed by Set.
func Tracker(t TB, opts ...Option) *tcpstate.Tracker {
	t.Helper()
	tracker := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	t.Cleanup(func() { _ = tracker.Close() }) // runs after the check
	Check(t, tracker, opts...)
	return tracker
}

// Check is like Tracker for a tracker that there is already: when t is over, t
// fails for what was opened and found since Check was called. If somebody closes
// the tracker, then in a cleanup that was registered before. Findings do not go
// to its Logger until t is over, unless they are ignored.
func Check(t TB, tracker *tcpstate.Tracker, opts ...Option) {
	t.Helper()
	c := begin(tracker, opts)
	t.Cleanup(func() {
		t.Helper()
		if report := c.end(); report != "" {
			t.Error(report)
		}
	})
}

// Default is Check for tcpstate.Default(). What tests that run in parallel open
// there is taken for t's own: where there are such tests, use Tracker or Main.
func Default(t TB, opts ...Option) {
	t.Helper()
	Check(t, tcpstate.Default(), opts...)
}

// Main is the body of a TestMain that checks tcpstate.Default() after all tests:
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
//
// It ends the process: with the code of m.Run, or with 1 where that is 0 and
// something was left open or found. The report goes to standard error.
func Main(m M, opts ...Option) { os.Exit(Checked(m, opts...).Run()) }

// Checked returns an M that does what Main does, but returns the code, for other
// helpers that want an M:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Checked(m)) }
func Checked(m M, opts ...Option) M { return checked{m, opts} }

type checked struct {
	m    M
	opts []Option
}

// Run implements M.
func (m checked) Run() int {
	c := begin(tcpstate.Default(), m.opts)
	code := m.m.Run()
	report := c.end()
	if report == "" {
		return code
	}
	_, _ = os.Stderr.WriteString(report)
	return max(code, 1)
}
