package tcpstate_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// echo sends back what arrives, in pieces of one byte.
func echo(t testing.TB, c net.Conn) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	return func() { <-done }
}

// pingPong returns one exchange over c. The other end is plain, or tracked too.
func pingPong(t testing.TB, tracked bool) func() {
	a, b := tcptest.Pair(t)
	var near, far net.Conn = a, b
	if tracked {
		tr := newTracker(t)
		near, far = tr.Track(a, tcpstate.Origin{}), tr.Track(b, tcpstate.Origin{Role: tcpstate.Server})
	}
	wait := echo(t, far)
	t.Cleanup(func() { near.Close(); wait(); far.Close() })
	buf := make([]byte, 1)
	return func() {
		if _, err := near.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	plain := testing.AllocsPerRun(2000, pingPong(t, false))
	tracked := testing.AllocsPerRun(2000, pingPong(t, true))
	assert.Zero(t, plain)
	assert.Zero(t, tracked)
}

// Errors come up again and again, too: a server that polls with deadlines.
func TestReadThatFailsAllocatesWhatNetDoes(t *testing.T) {
	for name, prepare := range map[string]func(c tcpConn, peer *net.TCPConn) error{
		"deadline":      func(c tcpConn, _ *net.TCPConn) error { return c.SetReadDeadline(time.Unix(1, 0)) },
		"end of stream": func(_ tcpConn, peer *net.TCPConn) error { return peer.CloseWrite() },
		"closed":        func(c tcpConn, _ *net.TCPConn) error { return c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			buf := make([]byte, 1)
			allocs := func(c tcpConn, peer *net.TCPConn) float64 {
				require.NoError(t, prepare(c, peer))
				return testing.AllocsPerRun(100, func() { c.Read(buf) })
			}
			plain, peer := tcptest.Pair(t)
			want := allocs(plain, peer)
			inner, peer := tcptest.Pair(t)
			c := newTracker(t).Track(inner, tcpstate.Origin{})
			defer c.Close()
			assert.Equal(t, want, allocs(c, peer))
		})
	}
}

func BenchmarkPingPong(b *testing.B) {
	for _, tracked := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tracked"}[tracked], func(b *testing.B) {
			exchange := pingPong(b, tracked)
			b.ReportAllocs()
			for b.Loop() {
				exchange()
			}
		})
	}
}

// A Read that finds nothing costs no more than the call: what is left is the
// overhead.
func BenchmarkReadOfNothing(b *testing.B) {
	for _, way := range []string{"plain", "tracked", "lent"} {
		b.Run(way, func(b *testing.B) {
			inner, _ := tcptest.Pair(b)
			var c net.Conn = inner
			if way != "plain" {
				tr := newTracker(b)
				if way == "lent" {
					watchPool(tr, "db", tcpstate.PoolStats{})
				}
				c = tr.Track(inner, tcpstate.Origin{Name: "db"})
			}
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				c.Read(nil)
			}
		})
	}
}

func BenchmarkSyscallConn(b *testing.B) {
	for _, tracked := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tracked"}[tracked], func(b *testing.B) {
			inner, _ := tcptest.Pair(b)
			var c tcpConn = inner
			if tracked {
				c = newTracker(b).Track(inner, tcpstate.Origin{})
			}
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				raw, err := c.SyscallConn()
				if err != nil {
					b.Fatal(err)
				}
				if err := raw.Control(func(uintptr) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCopyN(b *testing.B) {
	const size = 16 << 10
	for _, tracked := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tracked"}[tracked], func(b *testing.B) {
			in, feeder := tcptest.Pair(b)
			out, sink := tcptest.Pair(b)
			var src, dst tcpConn = in, out
			if tracked {
				tr := newTracker(b)
				src, dst = tr.Track(in, tcpstate.Origin{}), tr.Track(out, tcpstate.Origin{})
			}
			defer dst.Close()
			defer src.Close()
			go io.Copy(io.Discard, sink)
			piece := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				_, err := feeder.Write(piece)
				require.NoError(b, err)
				_, err = io.CopyN(dst, src, size)
				require.NoError(b, err)
			}
		})
	}
}
