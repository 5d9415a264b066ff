package tcpstate_test

import (
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// These tests drop connections and look what the garbage collector does. The
// connections must not come from tcptest.Pair, whose cleanup holds them.

// dropped tracks a connection and keeps of it what keep returns.
//
//go:noinline
func dropped[T any](t *testing.T, tr *tcpstate.Tracker, keep func(*tcpstate.Conn) T) T {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	peer, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { peer.(*net.TCPConn).SetLinger(0); peer.Close() })
	return keep(tr.Track(c.(*net.TCPConn), tcpstate.Origin{}))
}

// collect waits until only want connections of tr are open.
func collect(t *testing.T, tr *tcpstate.Tracker, want int) {
	t.Helper()
	tcptest.WaitUntil(t, "the collection of what was dropped", func() bool {
		runtime.GC()
		return tr.Stats().Open <= want
	})
	for range 3 {
		runtime.GC()
	}
	require.Equal(t, want, tr.Stats().Open)
}

// stays asserts that a connection is alive while kept is, and collected soon
// after. A second connection, dropped altogether, shows when the collector has
// been there.
func stays[T any](t *testing.T, keep func(*tcpstate.Conn) T, use func(T) error) {
	tr := leaktest.Tracker(t, leaktest.IgnoreKind(tcpstate.KindLeakCollected))
	kept := dropped(t, tr, keep)
	dropped(t, tr, func(*tcpstate.Conn) int { return 0 })
	require.Equal(t, 2, tr.Stats().Open)
	collect(t, tr, 1)
	require.NoError(t, use(kept))
	runtime.KeepAlive(kept)
	collect(t, tr, 0)
}

func TestConnLivesWhileItIsReferenced(t *testing.T) {
	write := func(c net.Conn) error { _, err := c.Write([]byte("x")); return err }
	t.Run("by itself", func(t *testing.T) {
		stays(t, func(c *tcpstate.Conn) net.Conn { return c }, write)
	})
	t.Run("by its NetConn", func(t *testing.T) {
		stays(t, func(c *tcpstate.Conn) net.Conn { return c.NetConn() }, write)
	})
	t.Run("by its RawConn", func(t *testing.T) {
		stays(t, func(c *tcpstate.Conn) syscall.RawConn {
			raw, err := c.SyscallConn()
			require.NoError(t, err)
			return raw
		}, func(raw syscall.RawConn) error { return raw.Control(func(uintptr) {}) })
	})
	t.Run("by one of many RawConns", func(t *testing.T) {
		stays(t, func(c *tcpstate.Conn) (last syscall.RawConn) {
			for range 100 {
				last, _ = c.SyscallConn()
			}
			return last
		}, func(raw syscall.RawConn) error { return raw.Control(func(uintptr) {}) })
	})
	t.Run("by a method value", func(t *testing.T) {
		stays(t, func(c *tcpstate.Conn) func([]byte) (int, error) { return c.TCPConn.Write },
			func(f func([]byte) (int, error)) error { _, err := f([]byte("x")); return err })
	})
}

func TestConnIsCollectedWhenOnlyTheTrackerKnowsIt(t *testing.T) {
	for name, keep := range map[string]func(*tcpstate.Conn) any{
		"nothing kept": func(*tcpstate.Conn) any { return nil },
		"its Watch":    func(c *tcpstate.Conn) any { return c.Watch() },
		"its Snapshot": func(c *tcpstate.Conn) any { return c.Watch().Snapshot() },
		"its use":      func(c *tcpstate.Conn) any { return c.Watch().Use(t.Context(), tcpstate.Use{Name: "use"}) },
		"its context":  func(c *tcpstate.Conn) any { return tcpstate.NewContext(t.Context(), c.Watch()) },
		"its addresses": func(c *tcpstate.Conn) any {
			return []net.Addr{c.LocalAddr(), c.RemoteAddr()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := leaktest.Tracker(t, leaktest.IgnoreKind(tcpstate.KindLeakCollected))
			kept := dropped(t, tr, keep)
			collect(t, tr, 0)
			runtime.KeepAlive(kept)
			assert.EqualValues(t, 1, tr.Stats().Closed)
		})
	}
}

// A duplicate of the descriptor is the application's own: the connection it
// came from is gone, the socket works on.
func TestFileOutlivesItsConn(t *testing.T) {
	needSockets(t)
	tr := leaktest.Tracker(t)
	inner, peer := tcptest.Pair(t)
	c := tr.Track(inner, tcpstate.Origin{})
	f, err := c.File()
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, c.Close())
	assert.Zero(t, tr.Stats().Open)
	again, err := net.FileConn(f)
	require.NoError(t, err)
	defer again.Close()
	_, err = again.Write([]byte("x"))
	require.NoError(t, err)
	n, err := peer.Read(make([]byte, 2))
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}
