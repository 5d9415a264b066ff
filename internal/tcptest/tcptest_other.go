//go:build !linux

package tcptest

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Same names as in the _linux files, where the comments are.

func skip(t testing.TB, what string) {
	t.Helper()
	t.Skipf("tcptest: %s needs Linux, this is %s", what, runtime.GOOS)
}

func nothing() {}

// Deafen skips the test.
func Deafen(t testing.TB, _ syscall.Conn) (heal func()) {
	t.Helper()
	skip(t, "Deafen")
	return nothing
}

// DeafControl fails with errors.ErrUnsupported.
func DeafControl(_, _ string, _ syscall.RawConn) error {
	return fmt.Errorf("require TTL: %w", errors.ErrUnsupported)
}

// DropFIN skips the test.
func DropFIN(t testing.TB, _ syscall.Conn) (heal func()) {
	t.Helper()
	skip(t, "DropFIN")
	return nothing
}

// DropData skips the test.
func DropData(t testing.TB, _ syscall.Conn) (heal func()) {
	t.Helper()
	skip(t, "DropData")
	return nothing
}

// DropLarge skips the test.
func DropLarge(t testing.TB, _ syscall.Conn, _ int) (heal func()) {
	t.Helper()
	skip(t, "DropLarge")
	return nothing
}

// OnlySYN skips the test.
func OnlySYN(t testing.TB, _ syscall.Conn) (heal func()) {
	t.Helper()
	skip(t, "OnlySYN")
	return nothing
}

// DeadListener skips the test.
func DeadListener(t testing.TB, _ ...Option) (address string) {
	t.Helper()
	skip(t, "DeadListener")
	return ""
}

// FullBacklogListener skips the test.
func FullBacklogListener(t testing.TB, _ ...Option) *net.TCPListener {
	t.Helper()
	skip(t, "FullBacklogListener")
	return nil
}

// State skips the test.
func State(t testing.TB, _ syscall.Conn) uint8 {
	t.Helper()
	skip(t, "State")
	return Absent
}

// InodeOf skips the test.
func InodeOf(t testing.TB, _ syscall.Conn) uint64 {
	t.Helper()
	skip(t, "InodeOf")
	return 0
}

// LocalAddr skips the test.
func LocalAddr(t testing.TB, _ syscall.Conn) *net.TCPAddr {
	t.Helper()
	skip(t, "LocalAddr")
	return nil
}

// SetTimers skips the test.
func SetTimers(t testing.TB, _ syscall.Conn, _ Timers) {
	t.Helper()
	skip(t, "SetTimers")
}

// FillWindow skips the test.
func FillWindow(t testing.TB, _ *net.TCPConn) (written int) {
	t.Helper()
	skip(t, "FillWindow")
	return 0
}

// Queues skips the test.
func Queues(t testing.TB, _ syscall.Conn) (recv, send int) {
	t.Helper()
	skip(t, "Queues")
	return 0, 0
}

// SetBacklog skips the test.
func SetBacklog(t testing.TB, _ syscall.Conn, _ int) {
	t.Helper()
	skip(t, "SetBacklog")
}

// DeferAccept skips the test.
func DeferAccept(t testing.TB, _ syscall.Conn, _ time.Duration) {
	t.Helper()
	skip(t, "DeferAccept")
}

// SetFinWait skips the test.
func SetFinWait(t testing.TB, _ syscall.Conn, _ time.Duration) {
	t.Helper()
	skip(t, "SetFinWait")
}

// PortRangeControl returns a hook that fails with errors.ErrUnsupported.
func PortRangeControl(_, _ uint16) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, _ syscall.RawConn) error {
		return fmt.Errorf("port range: %w", errors.ErrUnsupported)
	}
}

// SmallBufferControl does nothing: the buffers keep the size of the platform.
func SmallBufferControl(_, _ string, c syscall.RawConn) error { return shrinkBuffers(c) }

// TableState skips the test.
func TableState(t testing.TB, _, _ net.Addr) uint8 {
	t.Helper()
	skip(t, "TableState")
	return Absent
}

// FDCount skips the test.
func FDCount(t testing.TB) int {
	t.Helper()
	skip(t, "FDCount")
	return 0
}

// EpollWatches skips the test.
func EpollWatches(t testing.TB) []EpollWatch {
	t.Helper()
	skip(t, "EpollWatches")
	return nil
}

// shrinkBuffers does nothing: the buffers keep the size of the platform.
func shrinkBuffers(syscall.RawConn) error { return nil }

// openFDs knows nothing here.
func openFDs() (map[int]string, error) { return nil, nil }
