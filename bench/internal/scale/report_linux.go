package scale

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// What the tracker's loop allows itself (tcpstate/loop.go): so long it works at
// a time, and so long it then waits if work is left.
const (
	tickBudget = 2 * time.Millisecond
	busyDelay  = 500 * time.Millisecond
)

// The machine and the fleet that figures are computed for.
const (
	largeServer = 1_000_000
	fleet       = 1_000
	fleetNames  = 10
	fleetLeaks  = 60          // connections that each process leaks in an hour
	fleetLines  = 3           // at so many lines
	export      = time.Minute // OTEL_METRIC_EXPORT_INTERVAL, the default
	reminders   = 5           // of a group in its first hour: after 1, 3, 7, 15 and 31 minutes
)

// fits are lines through the points of single processes and the mean of the
// many.
func (g *Grown) fits() (cpu, heap, rss Fit) {
	var x, c, h, r []float64
	for _, p := range g.Points {
		n := float64(p.Processes)
		x = append(x, float64(p.Conns))
		c, h, r = append(c, p.CPU/n), append(h, p.Heap/n), append(r, p.RSS/n)
	}
	return fit(x, c), fit(x, h), fit(x, r)
}

// telemetryFits are lines over the number of names.
func (g *Grown) telemetryFits() (points, bytes Fit) {
	var x, p, b []float64
	for _, t := range g.Telemetry {
		x, p, b = append(x, float64(t.Names)), append(p, float64(t.Points)), append(b, float64(t.Bytes))
	}
	return fit(x, p), fit(x, b)
}

// Markdown writes what docs/cost.md holds. machine is what it was measured on.
func (g *Grown) Markdown(w io.Writer, machine string) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Measured on %s.\n", machine)
	line("| processes × connections | CPU idle, of a core | sweep of a connection | heap each | RSS each | FIN p50 | p99 | max |")
	line("|---|---:|---:|---:|---:|---:|---:|---:|")
	for _, p := range g.Points {
		n := float64(p.Total())
		line("| %d × %s | %.3g %% | %s | %.0f B | %.0f B | %s | %s | %s |", p.Processes, thousands(p.Conns), 100*p.CPU, short(p.Sweep),
			p.Heap/n, p.RSS/n, short(p.FIN.P50), short(p.FIN.P99), short(p.FIN.Max))
	}
	line("\nAll measured: CPU in %v without any traffic, with %.1f sweeps of each process on average; heap and RSS are what tracking", g.Window,
		g.Points[len(g.Points)-1].Sweeps)
	line("adds to the same connections, after a collection; FINs in one of the processes, %d of them.\n", g.Points[len(g.Points)-1].FIN.N)

	cpu, heap, rss := g.fits()
	line("Per process, by linear least squares over the four lines, with the largest residual as a share of the largest value:\n")
	line("| | fixed | each connection | residual |")
	line("|---|---:|---:|---:|")
	line("| CPU, of a core | %.3g %% | %.3g %% per 1,000 | %.0f %% |", 100*cpu.Base, 1e5*cpu.Each, 100*cpu.Residual)
	line("| heap | %s | %.0f B | %.0f %% |", size(heap.Base), heap.Each, 100*heap.Residual)
	line("| RSS | %s | %.0f B | %.0f %% |", size(rss.Base), rss.Each, 100*rss.Residual)

	last := g.Points[len(g.Points)-1]
	sweep := g.Points[len(g.Points)-2].Sweep
	processes := math.Ceil(largeServer / float64(last.Conns))
	line("\nA large server with %s connections:\n", thousands(largeServer))
	line("| | | |")
	line("|---|---:|---|")
	line("| CPU of %.0f processes with %s each | %.2g cores | computed: %.0f × the line above |", processes, thousands(last.Conns),
		processes*cpu.At(float64(last.Conns)), processes)
	line("| their heap, RSS | %s, %s | computed, likewise |", size(processes*heap.At(float64(last.Conns))), size(processes*rss.At(float64(last.Conns))))
	limit := float64(tickBudget) / float64(tickBudget+busyDelay)
	line("| CPU of a single process | %.2g %% of a core at most | computed: %v of sweeping, then %v of rest |", 100*limit, tickBudget, busyDelay)
	if sweep > 0 {
		round := time.Duration(largeServer*float64(sweep)/float64(tickBudget)) * (tickBudget + busyDelay)
		line("| its round over all connections, at that | %v | computed: %s × %s; events are as quick as ever |", round.Round(time.Second),
			thousands(largeServer), short(sweep))
		most := time.Duration(float64(10*time.Second) * limit)
		line("| connections it sweeps in the 10 s that are wanted | %s | computed |", thousands(int(most/sweep)/1000*1000))
	}
	line("| its heap | %s | computed: %.0f B each |", size(heap.At(largeServer)), heap.Each)
	g.telemetryText(line)
	_, err := io.WriteString(w, b.String())
	return err
}

func (g *Grown) telemetryText(line func(string, ...any)) {
	line("\nTelemetry of a process, where each name has a dialer and a listener in use:\n")
	line("| names | data points of an export | bytes (OTLP, not compressed) | |")
	line("|---:|---:|---:|---|")
	for _, t := range g.Telemetry {
		line("| %d | %s | %s | measured |", t.Names, thousands(t.Points), thousands(t.Bytes))
	}
	points, bytes := g.telemetryFits()
	t := g.Telemetry[0]
	n, per := points.At(fleetNames), bytes.At(fleetNames)
	line("\nThat is %.0f data points and %s for each name (residual %.1f %%), however many connections there are; after 50 names the",
		points.Each, size(bytes.Each), 100*points.Residual)
	line("rest share one. The span of a finding has %s, the %d spans of a connection that leaked and is closed at last %s (both",
		size(float64(t.FindingSpan)), t.ConnSpans, size(float64(t.Conn)))
	line("measured).\n")
	line("A fleet of %s processes with %d names, of which each leaks %d connections an hour at %d lines:\n", thousands(fleet), fleetNames,
		fleetLeaks, fleetLines)
	line("| | | |")
	line("|---|---:|---|")
	line("| series | %s | computed: %.0f of each process |", thousands(int(fleet*n)), n)
	line("| data points a second | %s | computed: one export a minute |", thousands(int(fleet*n/export.Seconds())))
	line("| bytes a second of metrics | %s | computed |", size(fleet*per/export.Seconds()))
	line("| spans of findings in the first hour | %s at most | computed: one for each line, as the storm measures |", thousands(fleet*fleetLines))
	line("| log records in the first hour | %s at most | computed: opened, and %d reminders |", thousands(fleet*fleetLines*(1+reminders)), reminders)
	line("| spans of leaked connections an hour | %s at most | computed: %d when it is closed; none while it leaks |",
		thousands(fleet*fleetLeaks*t.ConnSpans), t.ConnSpans)
	line("| bytes a second of spans | %s at most | computed |",
		size(fleet*(fleetLines*float64(t.FindingSpan)+fleetLeaks*float64(t.Conn))/time.Hour.Seconds()))
}

// short writes a duration with three digits.
func short(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return row.Nanoseconds.Format(float64(d), false)
}

func size(b float64) string { return row.Bytes.Format(b, false) }

// thousands writes n with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
