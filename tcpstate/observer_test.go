package tcpstate

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestEveryObserverHasItsOwnTokens(t *testing.T) {
	d := newDocket(t, Config{})
	type key struct{}
	var mu sync.Mutex
	got := make(map[string]Tokens)
	for _, name := range []string{"one", "two", "none"} {
		o := &Observer{
			Token: func(ctx context.Context) any {
				if v, _ := ctx.Value(key{}).(string); v != "" {
					return name + " " + v
				}
				return nil
			},
			Opened: func(f Finding) {
				mu.Lock()
				defer mu.Unlock()
				got[name] = f.Tokens
			},
		}
		if name == "none" {
			o.Token = nil
		}
		t.Cleanup(d.tr.Observe(o))
	}
	e := d.entry("payments", line(88))
	e.tokens = d.tr.takeTokens(context.WithValue(t.Context(), key{}, "dial"))
	done := (&Watch{e: e}).Use(context.WithValue(t.Context(), key{}, "query"), Use{})
	d.finds(KindCloseWaitUnreadBody, e)
	d.drained()
	mu.Lock()
	require.Equal(t, map[string]Tokens{
		"one": {Dial: "one dial", Use: "one query"}, "two": {Dial: "two dial", Use: "two query"}, "none": {},
	}, got)
	mu.Unlock()
	require.Equal(t, Tokens{}, d.tr.Findings()[0].Tokens, "Findings is nobody's")
	done()
}

func TestASlowObserverBlocksNobodyAndItsLossesAreCounted(t *testing.T) {
	d := newDocket(t, Config{})
	release := make(chan struct{})
	var closed, ended atomic.Int64
	stop := d.tr.Observe(&Observer{
		Opened:  func(Finding) { <-release },
		Closed:  func(ClosedInfo) { closed.Add(1) },
		Cleared: func(Finding) { ended.Add(1) },
	})
	defer stop()
	e := d.entry("payments", line(88))
	d.finds(KindCloseWaitNotReading, e)
	s := (*d.tr.observers.Load())[0]
	tcptest.WaitUntil(t, "the observer to be busy", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.queues == nil || s.queues.events.len() == 0
	})
	const extra = 1000
	for range maxQueue + extra {
		s.push(event{what: eventClosed})
	}
	require.Equal(t, uint64(extra), d.tr.Stats().QueueFull)
	for range maxFindings + extra { // findings have room of their own
		s.push(event{what: eventReminded})
	}
	require.Equal(t, uint64(2*extra), d.tr.Stats().QueueFull)
	d.finds("", e) // the end is never lost

	close(release)
	d.drained()
	require.Equal(t, int64(maxQueue), closed.Load())
	require.Equal(t, int64(1), ended.Load())
}

func TestWhatDidNotFitIsToldLater(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	s := (*d.tr.observers.Load())[0]
	s.mu.Lock()
	s.queues, s.running = &queues{events: fifo[event]{room: make([]event, maxQueue+maxFindings)}}, true // nobody drains
	s.mu.Unlock()
	d.finds(KindCloseWaitNotReading, d.entry("payments", line(88)))
	gone := d.entry("payments", line(90))
	d.finds(KindCloseWaitNotReading, gone)
	d.finds("", gone)
	s.mu.Lock()
	require.Equal(t, maxQueue+maxFindings, s.queues.events.len(), "what was not begun is not ended")
	s.queues, s.running = nil, false
	s.mu.Unlock()
	d.wait(59 * time.Second)
	a.hears(d)
	d.wait(2 * time.Second)
	a.hears(d, "opened")
}

func TestAnObserverThatPanicsIsCaught(t *testing.T) {
	d := newDocket(t, Config{})
	var told atomic.Int64
	stop := d.tr.Observe(&Observer{
		Token:  func(context.Context) any { panic("token") },
		Closed: func(ClosedInfo) { told.Add(1); panic("closed") },
		Opened: func(Finding) { panic("opened") },
	})
	require.Nil(t, d.tr.takeTokens(t.Context()))
	s := (*d.tr.observers.Load())[0]
	d.finds(KindCloseWaitNotReading, d.entry("payments", line(88)))
	s.push(event{what: eventClosed})
	s.push(event{what: eventClosed})
	stop()
	require.Equal(t, int64(2), told.Load(), "the next event comes all the same")
	require.Equal(t, uint64(4), d.tr.Stats().Panics)
	require.Len(t, d.log.all(), 1, "one is logged, with its stack")
	require.Contains(t, d.log.all()[0], "observer_test.go")
}

func TestAnObserverThatEndsItsGoroutineIsToldOfTheNextEvent(t *testing.T) {
	d := newDocket(t, Config{})
	var told atomic.Int64
	stop := d.tr.Observe(&Observer{Closed: func(ClosedInfo) {
		told.Add(1)
		runtime.Goexit() // what t.FailNow does
	}})
	s := (*d.tr.observers.Load())[0]
	for range 5 {
		s.push(event{what: eventClosed})
	}
	stop()
	require.Equal(t, int64(5), told.Load())
}

type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool { panic("logger") }

func TestALoggerThatPanicsIsCaught(t *testing.T) {
	d := newDocket(t, Config{})
	d.tr.Logger = slog.New(panicking{})
	d.finds(KindCloseWaitNotReading, d.entry("payments", line(88)))
	d.drained()
	require.Equal(t, uint64(1), d.tr.Stats().Panics)
}

func TestHooksMayCallTheTracker(t *testing.T) {
	d := newDocket(t, Config{})
	var calls atomic.Int64
	hook := func(Finding) {
		d.tr.Findings()
		for range d.tr.Conns() {
		}
		for range d.tr.Series() {
		}
		d.tr.FindingCounts()
		d.tr.Stats()
		d.tr.Facilities()
		if err := d.tr.Report(io.Discard); err != nil {
			t.Error(err)
		}
		if err := d.tr.Set(func(c *Config) { c.SweepInterval = time.Second }); err != nil {
			t.Error(err)
		}
		d.tr.Observe(&Observer{})()
		calls.Add(1)
	}
	stop := d.tr.Observe(&Observer{Opened: hook, Changed: hook, Reminded: hook, Cleared: hook})
	e := d.entry("payments", line(88))
	d.finds(KindCloseWaitNotReading, e)
	d.finds(KindLeakDeadSocket, e)
	d.finds("", e)
	stop()
	require.Equal(t, int64(4), calls.Load())
}

func TestStopWaitsForWhatHappenedBefore(t *testing.T) {
	d := newDocket(t, Config{})
	var told atomic.Int64
	stop := d.tr.Observe(&Observer{Opened: func(Finding) { time.Sleep(20 * time.Millisecond); told.Add(1) }})
	for i := range 5 {
		d.finds(KindCloseWaitNotReading, d.entry("payments", line(i+1)))
	}
	stop()
	require.Equal(t, int64(5), told.Load())
	d.finds(KindCloseWaitNotReading, d.entry("payments", line(99)))
	stop()
	time.Sleep(time.Millisecond)
	require.Equal(t, int64(5), told.Load(), "nothing comes after stop")
	require.NotPanics(t, d.tr.Observe(nil))
}

func TestObserversComeAndGoConcurrentSafe(t *testing.T) {
	d := newDocket(t, Config{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				stop := d.tr.Observe(&Observer{Opened: func(Finding) {}, Cleared: func(Finding) {}})
				stop()
			}
		})
	}
	for i := range 100 {
		e := d.entry(fmt.Sprint(i%3), line(i%7+1))
		d.finds(KindCloseWaitNotReading, e)
		d.finds("", e)
	}
	wg.Wait()
	require.Nil(t, d.tr.observers.Load())
}

func TestCloseTellsWhatIsQueuedAndForgets(t *testing.T) {
	d := newDocket(t, Config{})
	a := d.observe()
	d.finds(KindCloseWaitNotReading, d.entry("payments", line(88)))
	require.NoError(t, d.tr.Close())
	a.hears(d, "opened")
	require.Empty(t, d.tr.Findings())
	require.Zero(t, d.tr.Stats().Warnings)
	require.ErrorIs(t, d.tr.Close(), ErrClosed)
}

func TestATokenReplacesThatOfTheSameObserver(t *testing.T) {
	a, b := new(subscriber), new(subscriber)
	old := &token{sub: a, v: "a", next: &token{sub: b, v: "b"}}
	list := old.with(b, "dial")
	require.Equal(t, []any{"a", "dial"}, []any{list.of(a), list.of(b)})
	require.Equal(t, []any{"a", "b"}, []any{old.of(a), old.of(b)}, "others may hold it")
	n := 0
	for k := list; k != nil; k = k.next {
		n++
	}
	require.Equal(t, 2, n, "what was replaced is not held")
	require.Equal(t, "first", (*token)(nil).with(a, "first").of(a))
}
