package tcpstate

import (
	"context"
	"net"
	"sync"
	"time"
)

// Watch is the tracker's view of one connection. Every method works on nil, so
// the result of Of and FromContext need not be checked, and may be called from
// any goroutine. A Watch does not keep the connection alive.
type Watch struct{ e *entry }

// Expect declares what is normal on the connection from now on, on top of what
// its origin declares. restore takes the declaration back.
func (w *Watch) Expect(x Expect) (restore func()) {
	if w == nil {
		return func() {}
	}
	e := w.e
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.expect.Load()
	next := x
	if old != nil {
		next = old.Merge(x)
	}
	e.expect.Store(&next)
	var once sync.Once
	return func() { once.Do(func() { e.expect.CompareAndSwap(&next, old) }) }
}

// Use says that the calling code uses the connection for u, until done is
// called. Findings then name the calling line, and observers link to the trace
// of ctx. A description left in ctx by WithUse fills what u leaves empty.
func (w *Watch) Use(ctx context.Context, u Use) (done func()) {
	if w == nil {
		return func() {}
	}
	if u.Method == "" && u.Name == "" {
		if c, ok := UseFromContext(ctx); ok {
			u.Method, u.Name, u.Expect = c.Method, c.Name, c.Expect.Merge(u.Expect)
		}
	}
	us := w.e.t.NewUsage(ctx, u)
	if us != nil {
		us.plain = true
	}
	us.Attach(w)
	return us.End
}

// Alive says that the peer has proved to be there otherwise than by bytes on
// this connection, such as by a message that a multiplexer had in its buffer.
// It restarts the clock of peer.silent.
func (w *Watch) Alive() {
	if w != nil {
		w.e.progressed()
	}
}

// CloseConn ends the connection by shutting down both directions, for an
// observer that cleans up: operations that block return, the peer gets a FIN.
// The descriptor belongs to the connection's owner and is freed when that one
// closes or drops it. It returns net.ErrClosed for a connection that is closed
// already.
func (w *Watch) CloseConn() error {
	if w == nil {
		return net.ErrClosed
	}
	raw := w.e.rawConn()
	if raw == nil {
		return net.ErrClosed
	}
	const both = flagCloseRead | flagCloseWrite
	before := w.e.flags.Or(both)
	var err error
	if cerr := raw.Control(func(fd uintptr) { err = shutdownBoth(fd) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		w.e.flags.And(^(both &^ before)) // as it was
	}
	return err
}

// Snapshot returns the state of the connection now, read from the kernel while
// it is open.
func (w *Watch) Snapshot() Snapshot {
	if w == nil {
		return Snapshot{}
	}
	return w.e.snapshot(true)
}

// ID returns the number of the connection in its tracker, from 1, or 0.
func (w *Watch) ID() uint64 {
	if w == nil {
		return 0
	}
	return w.e.id
}

// Open reports whether the connection is open as far as the tracker knows.
func (w *Watch) Open() bool {
	return w != nil && w.e.rawConn() != nil
}

// LocalAddr returns the local address, nil for a nil Watch.
func (w *Watch) LocalAddr() net.Addr {
	if w == nil {
		return nil
	}
	return w.e.local
}

// RemoteAddr returns the address of the peer, nil for a nil Watch.
func (w *Watch) RemoteAddr() net.Addr {
	if w == nil {
		return nil
	}
	return w.e.remote
}

// Target returns the address as it was dialed or listened on, as Origin.Target.
func (w *Watch) Target() string {
	if w == nil {
		return ""
	}
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	return w.e.target
}

// Opened returns when the connection was dialed or accepted.
func (w *Watch) Opened() time.Time {
	if w == nil {
		return time.Time{}
	}
	return w.e.born
}
