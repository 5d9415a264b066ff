package scale

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tcpstate/tcpstate-go/bench/internal/child"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

func TestEveryFINIsNoticedAfterItWasSent(t *testing.T) {
	c, err := newCrowd(t.Context(), 100, true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	for _, first := range []int{0, 50} {
		f, err := c.fin(first, 30)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", f)
		if f.N != 30 || f.P50 <= 0 || f.P99 < f.P50 || f.Max < f.P99 {
			t.Errorf("%+v", f)
		}
	}
	u, err := c.usage(false)
	if err != nil {
		t.Fatal(err)
	}
	if s := u.Stats; s.Opened != 100 || s.Closed != 60 || s.Open != 40 || s.Found != 0 {
		t.Errorf("%+v", s)
	}
	if err := tell(c.holder, "close", none{}); err != nil {
		t.Fatal(err)
	}
	if u, err = c.usage(true); err != nil {
		t.Fatal(err)
	}
	if u.Stats.Closed != u.Stats.Opened || u.Stats.Panics != 0 || u.Looping {
		t.Errorf("%+v", u)
	}
}

// A sweep asks the kernel for all connections that are open, and so does the
// plain loop.
func TestSweepAndPlainLoopAskForTheSame(t *testing.T) {
	h, p := new(holder), new(peer)
	h.commands()
	addrs, err := h.listen(50)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.dial(dialArgs{addrs, 50}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.waitAccepted(none{}); err != nil {
		t.Fatal(err)
	}
	err = together(
		func() error { _, err := p.hello(none{}); return err },
		func() error { _, err := h.track(none{}); return err },
	)
	if err != nil {
		t.Fatal(err)
	}
	defer h.closeAll(none{})
	if err := h.tracked[7].Close(); err != nil {
		t.Fatal(err)
	}
	a, err := newAsker(h)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.raw) != 49 {
		t.Errorf("%d connections are asked", len(a.raw))
	}
	s, err := h.sweep(2)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Ours) != 2 || len(s.Raw) != 2 || s.Ours[0] <= 0 || s.Raw[0] <= 0 {
		t.Errorf("%+v", s)
	}
}

func TestAStormFromThreeLinesIsThreeSpans(t *testing.T) {
	const n = 90
	s, err := storming(t.Context(), n, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
	if r := s.End; r.Groups != 3 || r.Spans != 3 || r.Opened != n || r.Cleared != n || r.Open != 0 || r.Lost != 0 {
		t.Errorf("%+v", r)
	}
	if r := s.End; r.Conns != 30 || r.Others != 90 || r.Left != n-30 {
		t.Errorf("of connections: %+v", r)
	}
	if s.Peak.Open != n || s.Peak.Cleared != 0 {
		t.Errorf("at its height: %+v", s.Peak)
	}
	if s.After.Looping || s.After.Stats.Open != 0 {
		t.Errorf("after: %+v", s.After)
	}
}

func TestEveryConnectionOfAChurnIsAccountedFor(t *testing.T) {
	c, err := churning(t.Context(), 200, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", c)
	if c.Closed == 0 || c.Process < c.Loop || c.Loop < 0 {
		t.Errorf("%+v", c)
	}
}

func TestAnEmptyTrackerHasNoLoop(t *testing.T) {
	d := new(idler)
	if _, err := d.begin(idleArgs{Conns: 100, Settle: 100 * time.Millisecond, Window: time.Second, Windows: 2}); err != nil {
		t.Fatal(err)
	}
	i, err := d.end(none{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", i)
	if i.EmptyLooping {
		t.Error("a tracker without connections has a goroutine")
	}
	if len(i.Windows) != 2 || i.Heap.Begin == 0 || i.Heap.End == 0 || i.Took < 2*time.Second || i.Ticks.For < time.Second/2 {
		t.Errorf("%+v", i)
	}
}

// What the tracker does once a second or so is seen from outside.
func TestTicksAreSeen(t *testing.T) {
	c, err := newCrowd(t.Context(), 100, true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	done := make(chan error, 1)
	go func() {
		_, err := ask[Sweep](c.holder, "sweep", 2)
		done <- err
	}()
	ticks, err := watchTicks(c.holder.cmd.Process.Pid, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", ticks)
	if ticks.Count == 0 || ticks.Longest == 0 || ticks.Total < ticks.Longest {
		t.Errorf("%+v", ticks)
	}
	if switches(c.holder.cmd.Process.Pid) == 0 {
		t.Error("no thread has ever slept")
	}
}

// The functions that are looked for in profiles, and the loop's own bounds, are
// those of the library.
func TestWhatIsTakenFromTheLibraryIsThere(t *testing.T) {
	files, err := filepath.Glob("../../../tcpstate/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var source bytes.Buffer
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(b)
	}
	var want []string
	for _, name := range append([]string{ofLoop}, afterClose...) {
		receiver, method, _ := strings.Cut(strings.TrimPrefix(name, "tcpstate.(*"), ").")
		want = append(want, fmt.Sprintf(" *%s) %s", receiver, method))
	}
	want = append(want,
		fmt.Sprintf("tickBudget = %d * time.Microsecond", tickBudget.Microseconds()),
		fmt.Sprintf("busyDelay = %d * time.Millisecond", busyDelay.Milliseconds()))
	for _, w := range want {
		if !strings.Contains(source.String(), w) {
			t.Errorf("package tcpstate has no %q", w)
		}
	}
}

func TestGrowthIsWritten(t *testing.T) {
	g, err := Growth(t.Context(), &row.Env{Size: row.Smallest, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Points) != 4 || g.Points[3].Processes != 2 || g.Points[3].Total() != 2*g.Points[2].Conns {
		t.Errorf("%+v", g.Points)
	}
	for _, p := range g.Points {
		if p.Heap <= 0 || p.FIN.N == 0 || p.FIN.P50 <= 0 {
			t.Errorf("%+v", p)
		}
	}
	for _, tel := range g.Telemetry {
		if tel.FindingSpans != 1 || tel.FindingSpan == 0 || tel.ConnSpans == 0 || tel.Conn == 0 || tel.Bytes < tel.Points {
			t.Errorf("%+v", tel)
		}
	}
	// A name has as many series in a large process as in a small one.
	if points, _ := g.telemetryFits(); points.Residual > 1e-9 || points.Each <= 0 || points.Each != math.Round(points.Each) {
		t.Errorf("series per name: %+v", points)
	}
	var b strings.Builder
	for _, write := range []func(io.Writer, string) error{g.Markdown, g.Summary} {
		if err := write(&b, "a machine"); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(b.String())
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 && !strings.HasPrefix(line, "|") {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	if s := b.String(); strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
		t.Error("not all are numbers")
	}
}

func TestFitFindsTheLine(t *testing.T) {
	f := fit([]float64{1, 5, 19, 19}, []float64{12, 20, 48, 48})
	if math.Abs(f.Base-10) > 1e-9 || math.Abs(f.Each-2) > 1e-9 || f.Residual > 1e-9 {
		t.Errorf("%+v", f)
	}
	if f = fit([]float64{0, 1, 2}, []float64{0, 3, 0}); math.Abs(f.Residual-2./3) > 1e-9 {
		t.Errorf("%+v", f)
	}
}

// A process ends when nobody can ask it anything any more, and says what it
// could not do.
func TestProcesses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := start(ctx, "peer")
	if err != nil {
		t.Fatal(err)
	}
	if err := tell(p, "sing", none{}); err == nil || err.Error() != "peer sing: unknown command sing" {
		t.Error(err)
	}
	if err := tell(p, "fin", "what"); err == nil {
		t.Error("an argument of another type is taken")
	}
	p.stop()
	if !p.cmd.ProcessState.Success() {
		t.Error(p.cmd.ProcessState)
	}
	if p, err = start(ctx, "holder"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := tell(p, "usage", false); err == nil {
		// It was quicker. The next one is not.
		_ = p.cmd.Wait()
		err = tell(p, "usage", false)
		if err == nil {
			t.Error("a process that was killed answers")
		}
	}
	p.stop()
}
