package pool

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// DialPanicError is the error of a Get whose dial panicked, or returned a
// connection whose methods do: dials run on goroutines of the pool, where a
// panic would end the program.
type DialPanicError struct {
	Value any // of the panic; nil when the dial has ended its goroutine
	Stack []byte
}

// Error returns the value of the panic.
func (e *DialPanicError) Error() string {
	if e.Value == nil {
		return "pool: the dial has ended its goroutine"
	}
	return fmt.Sprintf("pool: panic in dial: %v", e.Value)
}

// dialing is a dial in progress.
type dialing struct {
	t    *target
	s    *slip
	site tcpstate.CallSite // of the borrower; 0: there is none
	left atomic.Bool       // of the borrower and the dial, one has left the other alone
	done chan struct{}
	conn *conn
	err  error
}

// dialFor dials for the borrower at site that has s, and lends him the result. It
// returns early when ctx ends; then s goes with the dial.
func (t *target) dialFor(ctx context.Context, s *slip, site tcpstate.CallSite) (*conn, error) {
	d := &dialing{t: t, s: s, site: site, done: make(chan struct{})}
	if !t.p.spawn(func() { d.run(ctx) }) {
		t.mu.Lock()
		t.dialing--
		t.mu.Unlock()
		t.release(s)
		return nil, ErrClosed
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		if d.left.CompareAndSwap(false, true) {
			return nil, ctx.Err()
		}
		<-d.done // it is about to be closed
	}
	return d.conn, d.err
}

// run dials. The dial keeps the values of ctx, but it ends by DialTimeout or
// with the pool.
func (d *dialing) run(ctx context.Context) {
	p := d.t.p
	var (
		c     *conn
		err   error = &DialPanicError{} // unless connect returns
		start       = p.now()
	)
	defer func() {
		if v := recover(); v != nil {
			err = &DialPanicError{Value: v, Stack: debug.Stack()}
		}
		d.finish(ctx, c, err, start)
	}()
	dctx, cancel := context.WithCancel(tcpstate.WithCallSite(context.WithoutCancel(ctx), d.site))
	defer cancel()
	if p.limits.dialing != never {
		dctx, cancel = context.WithTimeout(dctx, time.Duration(p.limits.dialing))
		defer cancel()
	}
	defer context.AfterFunc(p.closing, cancel)()
	c, err = d.connect(dctx)
}

// connect calls the dial and takes in what it returns, which may panic as well:
// an interface that holds a nil pointer is not nil.
func (d *dialing) connect(ctx context.Context) (*conn, error) {
	p := d.t.p
	nc, err := p.dial(ctx, d.t.key.network, d.t.key.address)
	switch {
	case err != nil:
		return nil, err
	case nc == nil:
		return nil, errNoConn
	}
	return newConn(d.t, nc, p.now()), nil
}

var errNoConn = errors.New("pool: the dial returned neither a connection nor an error")

// finish delivers the result to the borrower or, if he has left, the connection
// to whoever comes next.
func (d *dialing) finish(ctx context.Context, c *conn, err error, start int64) {
	t, p := d.t, d.t.p
	now := p.now()
	t.mu.Lock()
	t.dialing--
	t.total.dials++
	if c != nil {
		t.total.opened++
		t.total.dialTime += now - start
	} else {
		t.total.dialErrors++
	}
	// Close ends dials before it comes to their target.
	closed, waiting := t.closed || p.closing.Err() != nil, d.left.CompareAndSwap(false, true)
	switch {
	case closed:
		err = ErrClosed
		if c != nil {
			t.total.left(poolClosed)
		}
	case c == nil:
	case waiting:
		t.lendLocked(c, d.s, ctx)
	default:
		t.idle.push(c)
	}
	t.mu.Unlock()
	switch {
	case c == nil:
	case closed:
		c.close()
		c = nil
	case !waiting:
		c.nowIdle()
	}
	if c == nil || !waiting {
		t.release(d.s)
	}
	if waiting {
		d.conn, d.err = c, err
		close(d.done)
	}
	p.wakeUp()
}
