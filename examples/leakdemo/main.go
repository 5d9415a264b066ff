// Command leakdemo leaks connections in four ways that are common in real
// services, beside healthy traffic, and shows what tcpstate says about it.
//
// It needs no network and no set-up. With OTEL_EXPORTER_OTLP_ENDPOINT set it
// exports traces, metrics and logs there; all other OTEL_* variables of the SDK
// work, too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// threshold replaces the default of 30 s, which nobody wants to wait for in a
// demonstration.
const threshold = 2 * time.Second

// healthyFor is how long the healthy traffic runs: longer than twice every
// threshold.
const healthyFor = 2*threshold + time.Second

func main() {
	without := flag.String("without", "", "leave out the leak of this `kind`")
	hold := flag.Bool("hold", false, "keep the leaks open until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demonstrate(ctx, *without, *hold); err != nil {
		fmt.Fprintln(os.Stderr, "leakdemo:", err)
		os.Exit(1)
	}
}

func demonstrate(ctx context.Context, without string, hold bool) error {
	planted := slices.Clone(leaks)
	if without != "" {
		planted = slices.DeleteFunc(planted, func(l leak) bool { return l.kind == tcpstate.Kind(without) })
		if len(planted) == len(leaks) {
			return fmt.Errorf("no leak of kind %q; there are %s", without, kindsOf(leaks))
		}
	}
	var tracker tcpstate.Tracker
	defer tracker.Close()
	return run(ctx, &tracker, planted, hold)
}

// run plants the leaks beside healthy traffic until all were found.
func run(ctx context.Context, tracker *tcpstate.Tracker, planted []leak, hold bool) (err error) {
	if err := tracker.Set(func(c *tcpstate.Config) {
		c.Thresholds.CloseWait, c.Thresholds.DeadSocket = threshold, threshold
		c.SweepInterval = time.Second
	}); err != nil {
		return err
	}
	fmt.Printf("thresholds lowered to %v for this demonstration; the default is 30s\n\n", threshold)

	tele, err := startTelemetry(ctx, tracker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tele.stop()) }()
	reports := newReports(tracker)
	defer reports.stop()

	net, err := newBackends(tracker)
	if err != nil {
		return err
	}
	defer net.close()

	for _, l := range planted {
		if err := l.plant(ctx, net); err != nil {
			return fmt.Errorf("%s: %w", l.kind, err)
		}
	}
	healthy := startHealthy(ctx, net)

	deadline := time.After(3 * healthyFor)
	for !reports.have(planted) {
		runtime.GC() // leak.collected shows when the garbage is collected
		select {
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			return fmt.Errorf("not everything was found: want %s, got %s", kindsOf(planted), reports.list())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := healthy.wait(); err != nil {
		return fmt.Errorf("healthy traffic: %w", err)
	}
	n := 0
	for _, f := range tracker.Findings() {
		if strings.HasPrefix(f.Subject.Name, "healthy") {
			n++
			_, _ = f.WriteTo(os.Stdout)
		}
	}
	n += reports.healthy()
	fmt.Printf("healthy: %d findings\n", n)
	if n > 0 {
		return errors.New("healthy traffic was reported")
	}
	if extra := reports.unexpected(planted); extra != "" {
		return errors.New("reported, but not planted: " + extra)
	}
	if hold {
		fmt.Println("holding the leaks open; interrupt to end")
		<-ctx.Done()
	}
	return nil
}

func kindsOf(ls []leak) string {
	var ks []string
	for _, l := range ls {
		ks = append(ks, string(l.kind))
	}
	return strings.Join(ks, ", ")
}

// reports prints what the tracker finds.
type reports struct {
	stop func()

	mu   sync.Mutex // guards seen
	seen []tcpstate.Finding
}

func newReports(t *tcpstate.Tracker) *reports {
	r := new(reports)
	show := func(f tcpstate.Finding) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen = append(r.seen, f)
		_, _ = f.WriteTo(os.Stdout)
		fmt.Println()
	}
	r.stop = t.Observe(&tcpstate.Observer{
		// The trace to show under a finding.
		Token:   traceToken,
		Opened:  show,
		Changed: show,
		Cleared: func(f tcpstate.Finding) { _, _ = f.WriteTo(os.Stdout) },
	})
	return r
}

func (r *reports) have(ls []leak) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range ls {
		if !slices.ContainsFunc(r.seen, func(f tcpstate.Finding) bool { return f.Kind == l.kind }) {
			return false
		}
	}
	return true
}

// healthy counts the reports about healthy connections.
func (r *reports) healthy() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, f := range r.seen {
		if strings.HasPrefix(f.Subject.Name, "healthy") {
			n++
		}
	}
	return n
}

// unexpected names the reports that no leak of ls explains.
func (r *reports) unexpected(ls []leak) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, f := range r.seen {
		if !slices.ContainsFunc(ls, func(l leak) bool { return f.Kind == l.kind }) {
			names = append(names, string(f.Kind))
		}
	}
	return strings.Join(names, ", ")
}

func (r *reports) list() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, f := range r.seen {
		names = append(names, string(f.Kind))
	}
	return strings.Join(names, ", ")
}
