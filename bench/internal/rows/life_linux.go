package rows

import (
	"context"
	"fmt"
	"net"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/pairs"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
)

// toldAtOnce is more than the ends of connections that wait to be told together
// (tcpstate/dialing.go, wakeQueue). The room for them is used again and again,
// until two collections find it empty: it does not grow with the connections.
const toldAtOnce = 600

// lives compares the making and closing of connections.
func lives(ctx context.Context, e *row.Env, s spec,
	life func(ctx context.Context, w *ways.Way, plain *net.TCPListener) func() error) (row.Result, error) {
	all, done, err := ways.Each(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer done()
	var variants []pairs.Variant
	for _, w := range all {
		l, err := ways.Listen(ctx)
		if err != nil {
			return row.Result{}, err
		}
		defer l.Close()
		variants = append(variants, pairs.Variant{Name: w.Column, Run: times(life(ctx, w, l))})
	}
	res, err := compare(ctx, e, s, variants)
	noteDropped(&res, all)
	return res, err
}

// times makes n operations of one.
func times(op func() error) func(n int) error {
	return func(n int) error {
		for range n {
			if err := op(); err != nil {
				return err
			}
		}
		return nil
	}
}

// noteDropped says where the figures are too good, because observers were not
// told of everything.
func noteDropped(res *row.Result, all []*ways.Way) {
	for _, w := range all {
		if w.Ours != nil && w.Ours.Dropped() > 0 {
			res.Notef("%s: %d events found the queue full, and cost nothing.", w.Column, w.Ours.Dropped())
		}
	}
}

// addLifeCalls adds system calls by connection, other than those that wait or
// move data.
func addLifeCalls(ctx context.Context, res *row.Result, program string, b row.Budget) error {
	if ok, err := tracing(ctx, res); !ok {
		return err
	}
	var plain calls
	for i, column := range transferColumns {
		c, err := countCalls(ctx, onConns, program, column)
		if err != nil {
			return err
		}
		if i == 0 {
			plain = c
		}
		n := (float64(c.total()) - less(i, float64(plain.total()))) / livesWatched
		res.Add(row.Cell{Of: b.Of, Column: column, Value: n, More: i > 0})
		if column == row.Metrics {
			res.Check(b, n, 0)
			res.Notef("calls of %s for %d connections: %v more.", column, livesWatched, c.beyond(plain))
		}
	}
	return nil
}

func dialClose(ctx context.Context, e *row.Env) (row.Result, error) {
	s := spec{row: "dial+close", batch: 40, allocs: 300, warm: toldAtOnce, cost: budget.DialClose}
	res, err := lives(ctx, e, s, dialedLife)
	if err != nil {
		return res, err
	}
	return res, addLifeCalls(ctx, &res, s.row, budget.DialCalls)
}

// dialedLife closes first, as clients do. The peer's reset then takes the socket
// out of FIN-WAIT-2.
func dialedLife(_ context.Context, w *ways.Way, l *net.TCPListener) func() error {
	address := l.Addr().String()
	return func() error {
		c, err := w.Dial(w.Ctx, "tcp", address)
		if err != nil {
			return err
		}
		peer, err := l.AcceptTCP()
		if err != nil {
			return err
		}
		err = c.Close()
		ways.Reset(peer)
		return err
	}
}

func acceptClose(ctx context.Context, e *row.Env) (row.Result, error) {
	s := spec{row: "accept+close", batch: 40, allocs: 300, warm: toldAtOnce, cost: budget.AcceptClose}
	res, err := lives(ctx, e, s, acceptedLife)
	if err != nil {
		return res, err
	}
	return res, addLifeCalls(ctx, &res, s.row, budget.AcceptCalls)
}

// acceptedLife does the same at the other end.
func acceptedLife(ctx context.Context, w *ways.Way, l *net.TCPListener) func() error {
	client := ways.Plain(ctx)
	address := l.Addr().String()
	wrapped := w.Wrap(l)
	return func() error {
		peer, err := client.Dial(ctx, "tcp", address)
		if err != nil {
			return err
		}
		c, err := wrapped.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		err = c.Close()
		ways.Reset(peer.(*net.TCPConn))
		return err
	}
}
