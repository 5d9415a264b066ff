package rows

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/pairs"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// overflow closes connections while the observer is told of one every 10 ms. What
// the tracker costs by itself is the matter of accept+close.
func overflow(ctx context.Context, e *row.Env) (row.Result, error) {
	fast := newCounting(nil)
	defer fast.close()
	slowly := make(chan struct{}) // until this is closed
	slow := newCounting(slowly)
	defer slow.close()

	alone := &counting{tracker: &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}, stop: func() {}}
	defer alone.close()

	var variants []pairs.Variant
	for _, w := range []*ways.Way{alone.way(ctx, row.Tracker), fast.way(ctx, "quick observer"), slow.way(ctx, "slow observer")} {
		l, err := ways.Listen(ctx)
		if err != nil {
			return row.Result{}, err
		}
		defer l.Close()
		variants = append(variants, pairs.Variant{Name: w.Column, Run: times(acceptedLife(ctx, w, l))})
	}
	// Its queue is full before anything is measured.
	for n := 0; slow.tracker.Stats().QueueFull == 0; n++ {
		if n == 200 {
			return row.Result{}, errors.New("the queue does not fill")
		}
		if err := variants[2].Run(100); err != nil {
			return row.Result{}, err
		}
	}
	s := spec{row: "observer overflow", batch: 40, cost: budget.Cost{Time: &budget.SlowObserver}, judge: "slow observer"}
	res, err := compare(ctx, e, s, variants)
	if err != nil {
		return res, err
	}
	close(slowly)
	lost := 0.0
	for _, c := range []*counting{fast, slow} {
		lost += c.unaccounted()
	}
	st := slow.tracker.Stats()
	res.Notef("Of %d connections the slow observer was told of %d; %d were counted as dropped.",
		st.Closed, slow.told.Load(), st.QueueFull)
	res.Check(budget.Unaccounted, lost, 0)
	return res, nil
}

// counting is a tracker with an observer that counts what it is told.
type counting struct {
	tracker *tcpstate.Tracker
	told    atomic.Uint64
	stop    func()
}

// newCounting is slow until slowly is closed; quick if it is nil.
func newCounting(slowly <-chan struct{}) *counting {
	c := &counting{tracker: &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}}
	c.stop = c.tracker.Observe(&tcpstate.Observer{Closed: func(tcpstate.ClosedInfo) {
		c.told.Add(1)
		if slowly == nil {
			return
		}
		t := time.NewTimer(10 * time.Millisecond)
		defer t.Stop()
		select {
		case <-slowly:
		case <-t.C:
		}
	}})
	return c
}

func (c *counting) way(ctx context.Context, column string) *ways.Way {
	o := ways.Ours{Column: column, Tracker: c.tracker, Context: ctx}
	return o.Way()
}

// unaccounted waits until the observer has been told, and returns how many
// connections it was not told of without being counted.
func (c *counting) unaccounted() float64 {
	c.stop()
	st := c.tracker.Stats()
	return float64(st.Closed) - float64(c.told.Load()) - float64(st.QueueFull)
}

func (c *counting) close() {
	c.stop()
	_ = c.tracker.Close()
}
