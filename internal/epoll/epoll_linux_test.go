package epoll

import (
	"errors"
	"math"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

func open(t *testing.T) *Poller {
	p, err := New()
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func watch(t *testing.T, p *Poller, c syscall.Conn, token uint64) error {
	var err error
	control(t, c, func(fd uintptr) { err = p.Add(fd, token) })
	return err
}

func control(t *testing.T, c syscall.Conn, f func(fd uintptr)) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(f))
}

// next waits for one event, for as long as a test may take.
func next(t *testing.T, p *Poller) Event {
	t.Helper()
	evs, err := p.Wait(tcptest.Deadline, nil)
	require.NoError(t, err)
	require.Len(t, evs, 1)
	return evs[0]
}

func nothing(t *testing.T, p *Poller) {
	t.Helper()
	evs, err := p.Wait(0, nil)
	require.NoError(t, err)
	require.Empty(t, evs)
}

func TestTokensKeepAllBits(t *testing.T) {
	for _, token := range []uint64{0, 1, 1 << 31, 1 << 32, 1<<63 | 1, math.MaxUint64, 0x0123456789abcdef} {
		ev := toKernel(token)
		require.Equal(t, token, fromKernel(&ev).Token)
	}
}

func TestTheKernelReturnsTheToken(t *testing.T) {
	for _, token := range []uint64{0x8000000180000002, math.MaxUint64, 0x0123456789abcdef} {
		p := open(t)
		c, s := tcptest.Pair(t)
		require.NoError(t, watch(t, p, c, token))
		require.NoError(t, s.CloseWrite())
		require.Equal(t, Event{Token: token, Flags: ReadHup}, next(t, p))
	}
}

// The kernel's struct epoll_event is 12 bytes where it is packed (x86) and 16
// elsewhere; x/sys must agree, or every second event is garbage.
func TestManyEventsAtOnce(t *testing.T) {
	p := open(t)
	const n = len(p.buf) + 7
	want := make(map[uint64]bool)
	for i := range n {
		c, s := tcptest.Pair(t)
		token := uint64(i)<<32 | uint64(n-i)
		want[token] = true
		require.NoError(t, watch(t, p, c, token))
		require.NoError(t, s.CloseWrite())
		tcptest.WaitState(t, c, tcptest.CloseWait)
	}
	evs, err := p.Wait(tcptest.Deadline, nil)
	require.NoError(t, err)
	require.Len(t, evs, len(p.buf), "as many as fit")
	evs, err = p.Wait(tcptest.Deadline, evs)
	require.NoError(t, err)
	require.Len(t, evs, n)
	for _, ev := range evs {
		require.True(t, want[ev.Token], "%#x", ev.Token)
		delete(want, ev.Token)
	}
	require.Empty(t, want)
	t.Logf("struct epoll_event has %d bytes here", unsafe.Sizeof(unix.EpollEvent{}))
}

func TestDataDoesNotWake(t *testing.T) {
	p := open(t)
	c, s := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	nothing(t, p)
	_, err := s.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 5))
	require.NoError(t, err)
	nothing(t, p)
}

func TestAnEdgeIsReportedOnce(t *testing.T) {
	p := open(t)
	c, s := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	require.NoError(t, s.CloseWrite())
	require.Equal(t, ReadHup, next(t, p).Flags)
	nothing(t, p)
}

func TestAResetIsReportedWithItsError(t *testing.T) {
	p := open(t)
	c, s := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	tcptest.Reset(t, s)
	require.Equal(t, ReadHup|Hup|Err, next(t, p).Flags)
}

func TestAddTwiceIsRefused(t *testing.T) {
	p := open(t)
	c, _ := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	require.ErrorIs(t, watch(t, p, c, 2), unix.EEXIST)
	control(t, c, func(fd uintptr) { require.NoError(t, p.Del(fd)) })
	require.NoError(t, watch(t, p, c, 3))
}

func TestAddAfterTheFINFiresAtOnce(t *testing.T) {
	p := open(t)
	c, s := tcptest.Pair(t)
	require.NoError(t, s.CloseWrite())
	tcptest.WaitState(t, c, tcptest.CloseWait)
	require.NoError(t, watch(t, p, c, 1))
	evs, err := p.Wait(0, nil)
	require.NoError(t, err)
	require.Equal(t, []Event{{Token: 1, Flags: ReadHup}}, evs)
}

func TestDelEndsTheWatch(t *testing.T) {
	p := open(t)
	c, s := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	control(t, c, func(fd uintptr) {
		require.NoError(t, p.Del(fd))
		require.ErrorIs(t, p.Del(fd), unix.ENOENT)
	})
	require.NoError(t, s.CloseWrite())
	tcptest.WaitState(t, c, tcptest.CloseWait)
	nothing(t, p)
}

func TestFullIsRecognised(t *testing.T) {
	require.Equal(t, ErrFull, addError(unix.ENOSPC))
	require.NoError(t, addError(nil))
	require.ErrorIs(t, addError(unix.EPERM), unix.EPERM)
}

func TestAFileThatCannotBeWatched(t *testing.T) {
	p := open(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer f.Close()
	require.ErrorIs(t, watch(t, p, f, 1), unix.EPERM)
}

func TestWakeBeforeWait(t *testing.T) {
	p := open(t)
	p.Wake()
	p.Wake() // counts once
	evs, err := p.Wait(-1, nil)
	require.NoError(t, err)
	require.Empty(t, evs)
	start := time.Now()
	nothing(t, p)
	_, err = p.Wait(20*time.Millisecond, nil)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(start), 20*time.Millisecond, "the wake-up is used up")
}

func TestWakeDuringWait(t *testing.T) {
	for _, wait := range []time.Duration{-1, time.Hour} {
		p := open(t)
		done := make(chan error)
		go func() {
			_, err := p.Wait(wait, nil)
			done <- err
		}()
		waiting(t)
		p.Wake()
		require.NoError(t, <-done)
	}
}

// waiting waits until a goroutine is parked in Wait.
func waiting(t *testing.T) {
	tcptest.WaitUntil(t, "a goroutine in Wait", func() bool {
		var b strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
		for g := range strings.SplitSeq(b.String(), "\n\n") {
			if strings.Contains(g, "[IO wait") && strings.Contains(g, "(*Poller).Wait") {
				return true
			}
		}
		return false
	})
}

func TestAWakeHidesNoEvent(t *testing.T) {
	p := open(t)
	c, s := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	require.NoError(t, s.CloseWrite())
	tcptest.WaitState(t, c, tcptest.CloseWait)
	p.Wake()
	require.Equal(t, ReadHup, next(t, p).Flags)
}

func TestWaitTakesNoThread(t *testing.T) {
	threads := pprof.Lookup("threadcreate")
	var wg sync.WaitGroup
	before := threads.Count()
	var ps []*Poller
	for range 50 {
		p := open(t)
		ps = append(ps, p)
		wg.Go(func() { _, _ = p.Wait(-1, nil) })
	}
	waiting(t)
	for _, p := range ps {
		p.Wake()
	}
	wg.Wait()
	require.Less(t, threads.Count()-before, 10)
}

func TestCloseDuringWait(t *testing.T) {
	p, err := New()
	require.NoError(t, err)
	c, _ := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	done := make(chan error)
	go func() {
		_, err := p.Wait(-1, nil)
		done <- err
	}()
	waiting(t)
	require.NoError(t, p.Close())
	require.ErrorIs(t, <-done, ErrClosed)

	_, err = p.Wait(0, nil)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, watch(t, p, c, 1), ErrClosed)
	control(t, c, func(fd uintptr) { require.NoError(t, p.Del(fd)) })
	p.Wake() // does nothing
}

// Close, Add, Del and Wake come from any goroutine.
func TestPollerConcurrentSafe(t *testing.T) {
	for range 50 {
		p, err := New()
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 3 {
			c, s := tcptest.Pair(t)
			wg.Go(func() {
				for range 20 {
					if err := watch(t, p, c, 7); errors.Is(err, ErrClosed) {
						break
					}
					p.Wake()
					control(t, c, func(fd uintptr) { _ = p.Del(fd) })
				}
				c.Close()
				s.Close()
			})
		}
		wg.Go(func() {
			for {
				if _, err := p.Wait(time.Millisecond, nil); err != nil {
					return
				}
			}
		})
		wg.Go(func() { p.Wake(); p.Close() })
		wg.Wait()
	}
}

func TestPeekTakesNothingAway(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(t *testing.T, c, s interface{ CloseWrite() error })
		want Flags
	}{
		"open":       {func(*testing.T, interface{ CloseWrite() error }, interface{ CloseWrite() error }) {}, 0},
		"peer's FIN": {func(t *testing.T, _, s interface{ CloseWrite() error }) { require.NoError(t, s.CloseWrite()) }, ReadHup},
		"both closed": {func(t *testing.T, c, s interface{ CloseWrite() error }) {
			require.NoError(t, s.CloseWrite())
			require.NoError(t, c.CloseWrite())
		}, ReadHup | Hup},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := tcptest.Pair(t)
			tt.end(t, c, s)
			for range 2 {
				tcptest.WaitUntil(t, "the bits", func() bool {
					var got Flags
					control(t, c, func(fd uintptr) { got = Peek(fd) })
					return got == tt.want
				})
			}
		})
	}

	c, s := tcptest.Pair(t)
	tcptest.Reset(t, s)
	tcptest.WaitState(t, c, tcptest.Closed)
	for range 2 {
		control(t, c, func(fd uintptr) { require.Equal(t, ReadHup|Hup|Err, Peek(fd)) })
	}
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET, "the error still waits for the application")
	control(t, c, func(fd uintptr) { require.Equal(t, ReadHup|Hup, Peek(fd)) })
	control(t, c, func(fd uintptr) { require.Zero(t, testing.AllocsPerRun(100, func() { Peek(fd) })) })
}

func TestNothingAllocates(t *testing.T) {
	p := open(t)
	c, _ := tcptest.Pair(t)
	evs := make([]Event, 0, 8)
	control(t, c, func(fd uintptr) {
		require.Zero(t, testing.AllocsPerRun(100, func() {
			_ = p.Add(fd, 1)
			p.Wake()
			evs, _ = p.Wait(time.Hour, evs[:0])
			_ = p.Del(fd)
		}))
	})
}

func TestQuietIsWhenEveryEventWasHandled(t *testing.T) {
	p := open(t)
	require.True(t, p.Quiet())
	c, s := tcptest.Pair(t)
	require.NoError(t, watch(t, p, c, 1))
	require.True(t, p.Quiet())
	require.NoError(t, s.CloseWrite())
	tcptest.WaitState(t, c, tcptest.CloseWait)
	require.False(t, p.Quiet(), "the event waits")
	next(t, p)
	require.False(t, p.Quiet(), "the event was taken")
	p.Handled()
	require.True(t, p.Quiet())
	nothing(t, p)
	require.True(t, p.Quiet(), "there was nothing to handle")
	require.NoError(t, p.Close())
	require.False(t, p.Quiet())
}
