// Command healthyhour is a busy program in which nothing is wrong: uneven load,
// long polls, event streams, quiet websockets, subscriptions, slow downloads,
// half-closed uploads, restarts and a drain, all over tracked connections. It
// must end without a single finding above inventory, and it says what it found.
//
//	go run ./healthyhour -for 10m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func main() {
	d := flag.Duration("for", time.Hour, "how long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	found, err := run(ctx, *d, new(tcpstate.Tracker), os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "healthyhour:", err)
		os.Exit(1)
	}
	fmt.Printf("healthy: %d findings\n", found)
	if found > 0 {
		os.Exit(1)
	}
}

// hour is one run of the program.
type hour struct {
	tr   *tcpstate.Tracker
	ctx  context.Context // of the clients: ends first
	done atomic.Int64    // things that clients did
	errs chan error
	wg   sync.WaitGroup
}

// run lets everything happen for d and returns the number of findings above
// inventory, which it writes to w.
func run(ctx context.Context, d time.Duration, tr *tcpstate.Tracker, w io.Writer) (found int, err error) {
	var mu sync.Mutex
	report := func(f tcpstate.Finding) {
		if f.Severity < tcpstate.Warning {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		found++
		fmt.Fprintln(w, f.String())
	}
	tr.Logger = slog.New(slog.DiscardHandler)
	stop := tr.Observe(&tcpstate.Observer{Opened: report, Changed: report})

	// The end of the run is no deadline of the requests.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer time.AfterFunc(d, cancel).Stop()
	h := &hour{tr: tr, ctx: ctx, errs: make(chan error, 1)}
	s, err := h.startServers()
	if err != nil {
		return 0, err
	}
	for _, c := range []struct {
		n int
		f func() error
	}{
		{8, func() error { return h.browse(s.web) }},
		{2, func() error { return h.burst(s.web) }},
		{2, func() error { return h.events(s.web) }},
		{3, func() error { return h.poll(s.web) }},
		{1, func() error { return h.download(s.web) }},
		{2, func() error { return h.websocket(s.web) }},
		{2, func() error { return h.upload(s.upload) }},
		{3, func() error { return h.subscribe(s.feed) }},
		{4, func() error { return h.retrying(s.api) }},
	} {
		for range c.n {
			h.wg.Go(func() { h.failed(c.f()) })
		}
	}
	h.wg.Wait()
	s.drain()
	stop()
	select {
	case err = <-h.errs:
	default:
	}
	st := tr.Stats()
	fmt.Fprintf(w, "%d things done over %d connections in %v; %d still open, inventory %d\n", h.done.Load(), st.Opened, d, st.Open, st.Inventory)
	return found, errors.Join(err, tr.Close())
}

// failed keeps the first error that is none of the end of the run.
func (h *hour) failed(err error) {
	if err == nil || h.ctx.Err() != nil {
		return
	}
	select {
	case h.errs <- err:
	default:
	}
}

// sleep waits for d and reports whether the run goes on.
func (h *hour) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}
