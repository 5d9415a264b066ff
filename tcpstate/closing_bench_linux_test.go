package tcpstate

import (
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
)

// benchTracker has a clock, and its loop is played by the benchmark.
func benchTracker(b *testing.B, orphans int) (*Tracker, *testclock.Clock) {
	t := &Tracker{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	clk := testclock.Install(t)
	t.init()
	t.seam.orphans = func() (int, error) { return orphans, nil }
	b.Cleanup(func() {
		t.Close()
		testclock.Remove(t)
	})
	return t, clk
}

// benchEntry makes up a connection that has ended, as its loop left it.
func benchEntry(t *Tracker, s sample) *entry {
	e := &entry{
		t: t, id: t.nextID.Add(1), name: "db", target: "db:5432", series: t.judge.seriesOf(Client, "db"), site: line(1),
		local:  &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53122},
		remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1},
		state:  Established, born: t.seam.now(), end: &ending{at: t.seam.now(), sample: s},
	}
	e.flags.Store(flagWrapped | flagClosed)
	e.closed = true
	return e
}

// BenchmarkFollow is what following costs for each Close: handing over, and
// asking whether anybody's socket waits.
func BenchmarkFollow(b *testing.B) {
	t, _ := benchTracker(b, 0)
	e := benchEntry(t, sample{ok: true, state: Established})
	t.live = 1
	c := &t.judge.closing
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if d, ok := e.departure(); ok {
			t.mu.Lock()
			t.closes = append(t.closes, d)
			t.mu.Unlock()
		}
		if n++; n%wakeClosing == 0 {
			t.judge.mu.Lock()
			c.take(t, t.now())
			c.run(t, t.now())
			t.judge.mu.Unlock()
		}
	}
}

// BenchmarkLookUp is what a socket costs that has to be looked up.
func BenchmarkLookUp(b *testing.B) {
	t, clk := benchTracker(b, 1)
	e := benchEntry(t, sample{ok: true, state: Established})
	t.live = 1
	c := &t.judge.closing
	t.judge.mu.Lock()
	defer t.judge.mu.Unlock()
	n, runs := 0, 0
	var worst time.Duration
	for n < b.N {
		for len(c.waiting) < closingBatch*8 {
			d, _ := e.departure()
			d.at = 1
			c.add(t, d)
		}
		clk.Advance(time.Second)
		before := len(c.waiting)
		start := time.Now()
		c.run(t, t.now())
		worst = max(worst, time.Since(start))
		n += before - len(c.waiting)
		runs++
	}
	b.ReportMetric(float64(n)/float64(runs), "lookups/run")
	b.ReportMetric(float64(worst.Microseconds()), "µs/worst-run")
	c.hangUp()
}

// BenchmarkReset is what the loop does for each connection that was reset.
func BenchmarkReset(b *testing.B) {
	t, _ := benchTracker(b, 0)
	t.live = 1
	e := benchEntry(t, sample{ok: true, state: Closed, bytesSent: 100, bytesReceived: 100})
	t.judge.mu.Lock()
	defer t.judge.mu.Unlock()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if r, ok := e.reset(nil); ok {
			t.judge.closing.resets.add(t, r, t.now())
		}
		if n++; n%10000 == 0 {
			t.judge.closing.resets.judge(t, t.now())
		}
	}
}

// BenchmarkCloseInOrder is a connection that is dialed and closed at both ends,
// as ShortLife but without the reset.
func BenchmarkCloseInOrder(b *testing.B) {
	for _, tracked := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tracked"}[tracked], func(b *testing.B) {
			var t Tracker
			defer t.Close()
			ln := tcptest.Listen(b)
			keep := tcptest.Connect(b, ln)
			defer t.Track(keep, Origin{}).Close()
			if s, err := ln.AcceptTCP(); err == nil {
				defer s.Close()
			}
			for b.Loop() {
				c, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				s, err := ln.AcceptTCP()
				if err != nil {
					b.Fatal(err)
				}
				if tracked {
					t.Track(s, Origin{Role: Server, Name: "bench"}).Close()
				} else {
					s.Close()
				}
				c.Close()
			}
		})
	}
}
