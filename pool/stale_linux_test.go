package pool_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/pool"
)

// hangUpTable makes this test binary a server that closes its connections at
// random, and writes into the file of this name when it has done so.
const hangUpTable = "TCPSTATE_HANGUP_TABLE"

// closings is memory shared with the server: by the port of the client, when
// the server has closed the connection, in nanoseconds of CLOCK_MONOTONIC, which
// all processes share. Zero: it has not.
type closings [1 << 16]atomic.Int64

func mapClosings(tb testing.TB, name string) *closings {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(tb, err)
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(closings{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(tb, err)
	tb.Cleanup(func() { unix.Munmap(b) })
	return (*closings)(unsafe.Pointer(&b[0]))
}

// monotonic returns the time of CLOCK_MONOTONIC. It goes by Go's clock, which is
// the same and no system call, from one comparison of the two.
func monotonic() int64 { return atZero() + int64(time.Since(zero)) }

var (
	zero   = time.Now()
	atZero = sync.OnceValue(func() int64 {
		best, at := time.Hour, int64(0)
		for range 1000 { // the quickest is the most exact
			var ts unix.Timespec
			before := time.Since(zero)
			if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
				panic(err)
			}
			if took := time.Since(zero) - before; took < best {
				best, at = took, ts.Nano()-int64(before)
			}
		}
		return at
	})
)

// TestHangUpServer is the server, in a process of its own. It greets, so that
// the client knows that its entry in the table is a new one.
func TestHangUpServer(t *testing.T) {
	name := os.Getenv(hangUpTable)
	if name == "" {
		t.Skip("runs in a child process of the tests of stale connections")
	}
	closed := mapClosings(t, name)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	os.Stdout.WriteString(l.Addr().String() + "\n")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		at := &closed[c.RemoteAddr().(*net.TCPAddr).Port]
		at.Store(0)
		c.Write([]byte{'!'})
		go io.Copy(c, c)
		time.AfterFunc(time.Duration(5+rand.IntN(95))*time.Millisecond, func() {
			c.Close()
			at.Store(monotonic())
		})
	}
}

// startHangUp starts the server. It ends with the test.
func startHangUp(t *testing.T) (addr string, closed *closings) {
	name := filepath.Join(t.TempDir(), "closings")
	require.NoError(t, os.WriteFile(name, make([]byte, unsafe.Sizeof(closings{})), 0o600))
	cmd := exec.Command(os.Args[0], "-test.run=^TestHangUpServer$")
	cmd.Env = append(os.Environ(), hangUpTable+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line := make([]byte, 64)
	n, err := out.Read(line)
	require.NoError(t, err)
	return string(line[:n-1]), mapClosings(t, name)
}

// dialGreeted dials and waits for the greeting.
func dialGreeted(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// borrow takes a connection out of a pool. giveBack returns it, or throws it
// away when it is broken.
// got is when the pool had returned.
type borrow func() (c net.Conn, got int64, giveBack func(broken bool), err error)

// tally is what the borrowers saw.
type tally struct {
	cycles, failed, closed atomic.Int64
	stale                  atomic.Int64 // closed a millisecond before it was handed out
	stalled                atomic.Int64 // of these, while Get itself was held up for a millisecond
	worst                  atomic.Int64
}

// borrowers take n connections together and look at each in the table at once.
// Some use it, some wait before they ask again, so that connections get idle.
func borrowers(n int, get borrow, closed *closings) *tally {
	var sum tally
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			b := []byte{'?'}
			for sum.cycles.Add(1) <= int64(n) {
				// From here on the goroutine has its whole share of time, so that
				// it is not stopped between the answer and the clock.
				runtime.Gosched()
				asked := monotonic()
				c, got, giveBack, err := get()
				if err != nil {
					sum.failed.Add(1)
					continue
				}
				at := closed[c.LocalAddr().(*net.TCPAddr).Port].Load()
				if at != 0 {
					sum.closed.Add(1)
					if got-at >= int64(time.Millisecond) {
						sum.stale.Add(1)
						if at > asked-int64(time.Millisecond) && got-asked >= int64(time.Millisecond) {
							sum.stalled.Add(1)
						}
						for w := sum.worst.Load(); got-at > w && !sum.worst.CompareAndSwap(w, got-at); w = sum.worst.Load() {
						}
					}
				}
				broken := false
				switch rand.IntN(16) {
				case 0, 1:
					if _, err := c.Write(b); err != nil {
						broken = true
					} else if _, err := c.Read(b); err != nil {
						broken = true
					}
				case 2:
					giveBack(false)
					time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
					continue
				}
				giveBack(broken)
			}
		})
	}
	wg.Wait()
	return &sum
}

// cycles is a million where the machine is there for it.
func cycles() int {
	switch {
	case testing.Short():
		return 50_000
	case os.Getenv("TCPSTATE_CI") == "1":
		return 1_000_000
	}
	return 200_000
}

// A connection whose peer closed it a millisecond ago is not handed out, which
// the server itself bears witness to. The engine alone hands out thousands.
func TestNoConnThatThePeerHasClosedIsHandedOut(t *testing.T) {
	for name, fifo := range map[string]bool{"LIFO": false, "FIFO": true} {
		t.Run(name, func(t *testing.T) {
			addr, closed := startHangUp(t)
			p := newPool(t, &pool.Pool{Dial: dialGreeted, FIFO: fifo})
			start := time.Now()
			sum := borrowers(cycles()/2, func() (net.Conn, int64, func(bool), error) {
				c, err := p.Get(context.Background(), "tcp", addr)
				got := monotonic()
				return c, got, func(broken bool) { c.Close() }, err
			}, closed)
			s := p.Stats()
			t.Logf("%d cycles in %v: %d stale (%d held up in Get, the worst %v), %d closed within the last millisecond, %d failed dials",
				cycles()/2, time.Since(start).Round(time.Millisecond), sum.stale.Load(), sum.stalled.Load(),
				time.Duration(sum.worst.Load()), sum.closed.Load()-sum.stale.Load(), sum.failed.Load())
			t.Logf("%+v", s)
			// A Get that the machine stops for longer than that, after its last
			// look at the clock, cannot know.
			require.Zero(t, sum.stale.Load()-sum.stalled.Load())
			require.Positive(t, s.Discarded.PeerClosed)
			requireBalance(t, p)
		})
	}
	t.Run("puddle", func(t *testing.T) {
		addr, closed := startHangUp(t)
		p := newPuddle(t, func(ctx context.Context) (net.Conn, error) { return dialGreeted(ctx, "tcp", addr) })
		sum := borrowers(50_000, func() (net.Conn, int64, func(bool), error) {
			r, err := p.Acquire(context.Background())
			got := monotonic()
			if err != nil {
				return nil, 0, nil, err
			}
			return r.Value(), got, func(broken bool) {
				if broken {
					r.Destroy()
				} else {
					r.Release()
				}
			}, nil
		}, closed)
		t.Logf("%d of 50000 stale, the worst after %v", sum.stale.Load(), time.Duration(sum.worst.Load()))
		require.Positive(t, sum.stale.Load(), "the test finds stale connections where there are any")
	})
}
