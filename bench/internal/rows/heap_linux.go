package rows

import (
	"context"
	"net"
	"runtime"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
)

// heapPerConn opens connections, both ends in the same way, looks at the heap,
// and closes them. A first time fills pools and tables. It does so with few and
// with many: what each costs is the difference, and the rest is there once,
// such as the room of queues.
func heapPerConn(ctx context.Context, e *row.Env) (row.Result, error) {
	all, done, err := ways.Each(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer done()
	few, many := row.Pick(e, 25, 1000, 1000), row.Pick(e, 50, 4500, 4500)
	var res row.Result
	var plain perConn
	for i, w := range all {
		small, err := heapOf(ctx, w, few, e.Size == row.Smallest)
		if err != nil {
			return row.Result{}, err
		}
		h, err := heapOf(ctx, w, many, e.Size == row.Smallest)
		if err != nil {
			return row.Result{}, err
		}
		all := h.live * float64(2*many)
		h.live = (all - small.live*float64(2*few)) / float64(2*(many-few))
		h.fixed = all - h.live*float64(2*many)
		e.Raw.Batch("heap", w.Column, 2*many, row.Value{V: h.live, Unit: "live-B/conn"}, row.Value{V: h.fixed, Unit: "fixed-B"},
			row.Value{V: h.left, Unit: "retained-B/conn"})
		live, fixed, left := h.live, h.fixed, h.left
		if i == 0 {
			plain = h
		} else {
			live, fixed, left = live-plain.live, fixed-plain.fixed, left-plain.left
		}
		res.Add(row.Cell{Of: budget.LiveConn.Of, Column: w.Column, Value: live, Unit: row.Bytes, More: i > 0},
			row.Cell{Of: "fixed", Column: w.Column, Value: fixed, Unit: row.Bytes, More: i > 0},
			row.Cell{Of: budget.Retained.Of, Column: w.Column, Value: left, Unit: row.Bytes, More: i > 0})
		if w.Column == row.Metrics {
			res.Check(budget.LiveConn, live, 0)
			res.Check(budget.Retained, left, 0)
		}
	}
	res.Notef("%d and %d connections, watched for the peer's FIN; half of them dialed, half accepted. live is what each of "+
		"the difference takes, fixed the rest, which is there once: room of queues.", 2*few, 2*many)
	return res, nil
}

// perConn is heap in bytes by connection: while it is open, and what is left
// when it has been closed. fixed is of all together.
type perConn struct{ live, left, fixed float64 }

func heapOf(ctx context.Context, w *ways.Way, pairs int, hasty bool) (perConn, error) {
	l, err := ways.Listen(ctx)
	if err != nil {
		return perConn{}, err
	}
	defer l.Close()
	r := &room{way: w, plain: l, wrapped: w.Wrap(resetting{l}), open: make([]net.Conn, 0, 2*pairs)}
	wait := w.Ours != nil && !hasty // until all is quiet: otherwise the figures mean nothing
	per := 1 / float64(2*pairs)
	defer runtime.KeepAlive(r)
	if _, err := r.fill(ctx, pairs, false); err != nil {
		r.clear()
		return perConn{}, err
	}
	r.clear()
	var h perConn
	before := settled(wait, per)
	live, err := r.fill(ctx, pairs, wait)
	h.live = (live - before) * per
	r.clear()
	if err != nil {
		return perConn{}, err
	}
	h.left = max(0, settled(wait, per)-before) * per
	return h, nil
}

// settled returns the heap when it falls no more: connections are looked after
// for a moment after Close.
func settled(wait bool, per float64) float64 {
	least, since := heap(), time.Now()
	if !wait {
		return least
	}
	const calm, most = 800 * time.Millisecond, 5 * time.Second
	for begin := since; time.Since(since) < calm && time.Since(begin) < most; time.Sleep(50 * time.Millisecond) {
		h := heap()
		if (least-h)*per > 0.1 {
			since = time.Now()
		}
		least = min(least, h)
	}
	return least
}

// room holds open connections.
type room struct {
	way     *ways.Way
	plain   *net.TCPListener
	wrapped net.Listener
	open    []net.Conn
}

// fill opens connections and returns the heap, when they are watched.
func (r *room) fill(ctx context.Context, pairs int, watched bool) (float64, error) {
	for range pairs {
		c, err := r.way.Dial(r.way.Ctx, "tcp", r.plain.Addr().String())
		if err != nil {
			return 0, err
		}
		r.open = append(r.open, c)
		s, err := r.wrapped.Accept()
		if err != nil {
			return 0, err
		}
		r.open = append(r.open, s)
	}
	if o := r.way.Ours; watched {
		for end := time.Now().Add(5 * time.Second); o.Tracker.Stats().Watched < len(r.open) && time.Now().Before(end); {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return heap(), nil
}

// clear closes the accepted ends first, which reset.
func (r *room) clear() {
	for i := len(r.open) - 1; i >= 0; i-- {
		_ = r.open[i].Close()
	}
	clear(r.open)
	r.open = r.open[:0]
}

// heap returns the bytes that are in use after collections: what has a
// finalizer or is in a sync.Pool takes more than one.
func heap() float64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// resetting makes Close of accepted connections reset them, so that thousands
// are not left in TIME-WAIT.
type resetting struct{ *net.TCPListener }

func (l resetting) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return c, c.SetLinger(0)
}
