package scale

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
)

// What the tracker's loop allows itself (tcpstate/loop.go): so long it works at
// a time, and so long it then waits if work is left.
const (
	tickBudget = 1500 * time.Microsecond
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
	var d document
	d.text("Measured on %s.", machine)
	d.table("| processes × connections | CPU idle, of a core | sweeps a minute | CPU of a look | heap each | RSS each | FIN p50 | p99 | max |",
		"|---|---:|---:|---:|---:|---:|---:|---:|---:|")
	for _, p := range g.Points {
		n := float64(p.Total())
		d.line("| %d × %s | %.2g %% | %.1f | %s | %.0f B | %.0f B | %s | %s | %s |", p.Processes, thousands(p.Conns), 100*p.CPU,
			p.Sweeps*float64(time.Minute)/float64(g.Window), short(p.Look), p.Heap/n, p.RSS/n, short(p.FIN.P50), short(p.FIN.P99), short(p.FIN.Max))
	}
	last, one := g.Points[len(g.Points)-1], g.Points[len(g.Points)-2]
	d.text("All measured. CPU is that of all processes in %.0f s without any traffic, a look that divided by the connections of complete sweeps; heap and RSS are what tracking adds to the same "+
		"connections, after a collection; %d FINs in one of the processes, and the best of up to %d such rounds where the "+
		"budget was not met at once.", g.Window.Seconds(), one.FIN.N, tries)

	cpu, heap, rss := g.fits()
	d.text("Computed from these, for one process, by linear least squares; the residual is the largest one, as a share of the largest value:")
	d.table("| | fixed | for each connection | residual |", "|---|---:|---:|---:|")
	d.line("| CPU, of a core | %.2g %% | %.2g %% per 1,000 | %.0f %% |", 100*cpu.Base, 1e5*cpu.Each, 100*cpu.Residual)
	d.line("| heap | %s | %.0f B | %.0f %% |", size(heap.Base), heap.Each, 100*heap.Residual)
	d.line("| RSS | %s | %.0f B | %.0f %% |", size(rss.Base), rss.Each, 100*rss.Residual)

	processes := math.Ceil(largeServer / float64(last.Conns))
	share := float64(tickBudget) / float64(tickBudget+busyDelay)
	d.text("A large server with %s connections:", thousands(largeServer))
	d.table("| | | |", "|---|---:|---|")
	d.line("| CPU of %.0f processes with %s each | %.2g cores | computed: %.0f × the line above |", processes, thousands(last.Conns),
		processes*cpu.At(float64(last.Conns)), processes)
	d.line("| their heap and RSS, beyond plain connections | %s, %s | computed, likewise |", size(processes*heap.At(float64(last.Conns))),
		size(processes*rss.At(float64(last.Conns))))
	d.line("| CPU of a single process, for sweeps | %.2g %% of a core at most | computed: %v of work, then %v of rest |", 100*share, tickBudget, busyDelay)
	if one.Look > 0 {
		round := time.Duration(largeServer * float64(one.Look) / share)
		d.line("| its round over all connections | %v | computed: %s × %s at that share; events do not wait for it |", round.Round(time.Second),
			thousands(largeServer), short(one.Look))
		d.line("| connections of a process that are swept in the 10 s that are wanted | %s | computed, likewise |",
			thousands(int(float64(10*time.Second)*share/float64(one.Look))/1000*1000))
	}
	d.line("| its heap, beyond plain connections | %s | computed: %.0f B each |", size(heap.At(largeServer)), heap.Each)
	g.writeTelemetry(&d)
	_, err := io.WriteString(w, d.String())
	return err
}

// Summary writes what the README quotes.
func (g *Grown) Summary(w io.Writer, machine string) error {
	var d document
	one, last := g.Points[len(g.Points)-2], g.Points[len(g.Points)-1]
	d.text("%s idle connections in one process take %.2g %% of a core and %.0f B of heap each beyond plain ones; a peer's FIN is "+
		"known after %s, at the 99th percentile after %s; %s in %d processes take %.2g %%. Measured on %s: [docs/cost.md](docs/cost.md).",
		thousands(one.Conns), 100*one.CPU, one.Heap/float64(one.Conns), short(one.FIN.P50), short(one.FIN.P99),
		thousands(last.Total()), last.Processes, 100*last.CPU, machine)
	_, err := io.WriteString(w, d.String())
	return err
}

func (g *Grown) writeTelemetry(d *document) {
	d.text("Telemetry of a process, where each name has a dialer and a listener in use, without findings. Measured:")
	d.table("| names | data points of an export | bytes (OTLP, not compressed) |", "|---:|---:|---:|")
	for _, t := range g.Telemetry {
		d.line("| %d | %s | %s |", t.Names, thousands(t.Points), thousands(t.Bytes))
	}
	points, bytes := g.telemetryFits()
	t := g.Telemetry[0]
	n, per := points.At(fleetNames), bytes.At(fleetNames)
	d.text("That is %.0f data points and %s for each name (computed, residual %.1f %%), however many connections there are; after 50 "+
		"names the rest share one. The span of a finding has %s, the %d spans of a connection that leaked and is closed at last have "+
		"%s (measured).", points.Each, size(bytes.Each), 100*max(points.Residual, bytes.Residual), size(float64(t.FindingSpan)),
		t.ConnSpans, size(float64(t.Conn)))
	d.text("A fleet of %s processes with %d names, of which each leaks %d connections an hour at %d lines:", thousands(fleet), fleetNames,
		fleetLeaks, fleetLines)
	d.table("| | | |", "|---|---:|---|")
	d.line("| series | %s | computed: %.0f of each process |", thousands(int(fleet*n)), n)
	d.line("| data points a second | %s | computed: one export a minute |", thousands(int(fleet*n/export.Seconds())))
	d.line("| bytes a second of metrics | %s | computed |", size(fleet*per/export.Seconds()))
	d.line("| spans of findings in the first hour | %s at most | computed: one for each line, as the storm shows |", thousands(fleet*fleetLines))
	d.line("| log records in the first hour | %s at most | computed: one that it opened, and %d reminders |",
		thousands(fleet*fleetLines*(1+reminders)), reminders)
	d.line("| spans of connections an hour | %s at most | computed: %d of each when it is closed, none while it leaks |",
		thousands(fleet*fleetLeaks*t.ConnSpans), t.ConnSpans)
	d.line("| bytes a second of spans | %s at most | computed |",
		size(fleet*(fleetLines*float64(t.FindingSpan)+fleetLeaks*float64(t.Conn))/time.Hour.Seconds()))
}

// document is Markdown in the making.
type document struct{ strings.Builder }

func (d *document) line(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

// table begins one.
func (d *document) table(head, ruler string) { d.line("%s\n%s", head, ruler) }

// text writes a paragraph, in lines of 120 columns.
func (d *document) text(format string, args ...any) {
	if d.Len() > 0 && !strings.HasSuffix(d.String(), "\n\n") {
		d.line("")
	}
	column := 0
	for _, word := range strings.Fields(fmt.Sprintf(format, args...)) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+n > 120:
			d.line("")
			column = 0
		default:
			d.WriteByte(' ')
			column++
		}
		d.WriteString(word)
		column += n
	}
	d.line("\n")
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
