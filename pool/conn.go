package pool

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Conn is a connection that is lent out, until Close or Discard. It is a
// net.Conn, and a value of two words: to keep it in an interface costs an
// allocation of 16 bytes, the rest of a Get and a Close none. Copies are the
// same loan.
//
// After the loan every method fails with net.ErrClosed, for every copy, while
// the connection may have its next borrower. A call that is in progress when
// the loan ends is interrupted, as with any net.Conn; then the connection is not
// kept.
//
// What lasts longer than a loan, such as the state of TLS, belongs to the
// connection below, see Pool.Dial: a tls.Conn made of a Conn is no use to the
// next borrower.
//
// Methods that the connection below lacks, such as CloseWrite for a connection
// that is neither TCP nor TLS, fail with errors.ErrUnsupported. The zero Conn is
// a loan that has ended.
type Conn struct {
	c    *conn
	loan uint64
}

// What callers look for by type assertion.
var _ interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	syscall.Conn
	CloseRead() error
	CloseWrite() error
	NetConn() net.Conn
	File() (*os.File, error)
	SetKeepAliveConfig(net.KeepAliveConfig) error
} = Conn{}

// enter begins a call on the connection below. It reports false when the loan
// has ended.
func (h Conn) enter() bool {
	if h.c == nil {
		return false
	}
	for {
		s := h.c.state.Load()
		if s>>opBits != h.loan {
			return false
		}
		if h.c.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

// leave ends a call.
func (h Conn) leave() { h.c.state.Add(^uint64(0)) }

// enterIO is enter for calls that move bytes. The first one of a loan remembers
// who makes it if Get has not.
func (h Conn) enterIO() bool {
	if !h.enter() {
		return false
	}
	h.c.mark(markIO)
	if h.c.site.Load() == 0 {
		h.c.site.Store(uint32(tcpstate.CaptureSite(2)))
	}
	return true
}

// leaveIO ends a call that moved bytes.
func (h Conn) leaveIO(err error) {
	if err != nil {
		h.c.mark(markFailed)
	}
	h.leave()
}

// end ends the loan. It reports false when it has ended before.
func (h Conn) end() bool {
	if h.c == nil {
		return false
	}
	for {
		s := h.c.state.Load()
		if s>>opBits != h.loan {
			return false
		}
		busy := s & opMask
		if h.c.state.CompareAndSwap(s, (h.loan+1)<<opBits|busy) {
			if busy != 0 {
				h.c.mark(markBusy)
			}
			return true
		}
	}
}

// errClosed is the error of package net for a closed connection.
func (h Conn) errClosed(op string) error {
	if h.c == nil {
		return &net.OpError{Op: op, Err: net.ErrClosed}
	}
	l, r := h.c.LocalAddr(), h.c.RemoteAddr()
	e := &net.OpError{Op: op, Source: l, Addr: r, Err: net.ErrClosed}
	if l != nil {
		e.Net = l.Network()
	}
	return e
}

// Close returns the connection to the pool. A later Close, of a copy as well,
// returns net.ErrClosed and does nothing.
//
// The connection is closed instead when it cannot be used again, as far as is
// known: the peer has closed it; a Read or Write failed, met the end of the
// stream or timed out; CloseRead, CloseWrite or File was called; a call is still
// in progress; bytes that came were not read (not for TLS, where session tickets
// come at any time); it is too old, or the pool is closed. Deadlines are
// cleared; other options of the socket stay as the borrower has set them.
func (h Conn) Close() error {
	if !h.end() {
		return h.errClosed("close")
	}
	c, t := h.c, h.c.t
	now := t.p.now()
	why := c.returned(now)
	if why == fit {
		if t.put(c, now) {
			return nil
		}
		why = poolClosed
	}
	err := c.close()
	t.leave(c, why)
	return err
}

// Discard closes the connection instead of returning it, because of what the
// borrower knows: an error of the protocol, an answer that he did not wait for.
// After Close or Discard it returns net.ErrClosed.
func (h Conn) Discard() error {
	if !h.end() {
		return h.errClosed("close")
	}
	err := h.c.close()
	h.c.t.leave(h.c, caller)
	return err
}

// Hijack takes the connection out of the pool for good and returns the one
// below, which the caller has to close. The pool may dial another one in its
// place. A call in progress goes on. To the tracker it is not Expect.Pooled any
// more.
func (h Conn) Hijack() (net.Conn, error) {
	if !h.end() {
		return nil, h.errClosed("hijack")
	}
	h.c.watch.OnPeerClosed(nil)
	h.c.t.leave(h.c, hijacked)
	h.c.watch.Hijacked()
	return h.c.Conn, nil
}

// NetConn returns the connection below, a *tcpstate.Conn for TCP. It must not
// be used after the loan has ended, nor closed. It is nil after the loan.
func (h Conn) NetConn() net.Conn {
	if !h.enter() {
		return nil
	}
	defer h.leave()
	h.c.mark(markEscaped)
	return h.c.Conn
}

// Watch returns what the tracker knows of the connection, nil if it is not
// tracked or the loan has ended.
func (h Conn) Watch() *tcpstate.Watch {
	if !h.enter() {
		return nil
	}
	defer h.leave()
	return h.c.watch
}

// Read implements net.Conn.
func (h Conn) Read(b []byte) (int, error) {
	if !h.enterIO() {
		return 0, h.errClosed("read")
	}
	n, err := h.c.Conn.Read(b)
	h.leaveIO(err)
	return n, err
}

// Write implements net.Conn.
func (h Conn) Write(b []byte) (int, error) {
	if !h.enterIO() {
		return 0, h.errClosed("write")
	}
	n, err := h.c.Conn.Write(b)
	h.leaveIO(err)
	return n, err
}

// LocalAddr implements net.Conn. It answers after the loan, too.
func (h Conn) LocalAddr() net.Addr {
	if h.c == nil {
		return nil
	}
	return h.c.Conn.LocalAddr()
}

// RemoteAddr implements net.Conn. It answers after the loan, too.
func (h Conn) RemoteAddr() net.Addr {
	if h.c == nil {
		return nil
	}
	return h.c.Conn.RemoteAddr()
}

// SetDeadline implements net.Conn. Close takes the deadline back.
func (h Conn) SetDeadline(t time.Time) error {
	return h.do(markDeadline, func() error { return h.c.Conn.SetDeadline(t) })
}

// SetReadDeadline implements net.Conn. Close takes the deadline back.
func (h Conn) SetReadDeadline(t time.Time) error {
	return h.do(markDeadline, func() error { return h.c.Conn.SetReadDeadline(t) })
}

// SetWriteDeadline implements net.Conn. Close takes the deadline back.
func (h Conn) SetWriteDeadline(t time.Time) error {
	return h.do(markDeadline, func() error { return h.c.Conn.SetWriteDeadline(t) })
}

// do marks the connection and calls f during the loan.
func (h Conn) do(m uint32, f func() error) error {
	if !h.enter() {
		return h.errClosed("set")
	}
	defer h.leave()
	h.c.mark(m)
	return f()
}

// CloseRead shuts down the reading side.
func (h Conn) CloseRead() error {
	return option(h, markHalf, "close", func(c interface{ CloseRead() error }) error { return c.CloseRead() })
}

// CloseWrite shuts down the writing side. Of a *tls.Conn, it sends the notice.
func (h Conn) CloseWrite() error {
	return option(h, markHalf, "close", func(c interface{ CloseWrite() error }) error { return c.CloseWrite() })
}

// SetLinger sets what the end of the connection does with data not yet sent.
func (h Conn) SetLinger(sec int) error {
	return option(h, 0, "set", func(c interface{ SetLinger(int) error }) error { return c.SetLinger(sec) })
}

// SetNoDelay sets TCP_NODELAY.
func (h Conn) SetNoDelay(noDelay bool) error {
	return option(h, 0, "set", func(c interface{ SetNoDelay(bool) error }) error { return c.SetNoDelay(noDelay) })
}

// SetReadBuffer sets SO_RCVBUF.
func (h Conn) SetReadBuffer(bytes int) error {
	return option(h, 0, "set", func(c interface{ SetReadBuffer(int) error }) error { return c.SetReadBuffer(bytes) })
}

// SetWriteBuffer sets SO_SNDBUF.
func (h Conn) SetWriteBuffer(bytes int) error {
	return option(h, 0, "set", func(c interface{ SetWriteBuffer(int) error }) error { return c.SetWriteBuffer(bytes) })
}

// SetKeepAlive sets SO_KEEPALIVE.
func (h Conn) SetKeepAlive(keepalive bool) error {
	return option(h, 0, "set", func(c interface{ SetKeepAlive(bool) error }) error { return c.SetKeepAlive(keepalive) })
}

// SetKeepAlivePeriod sets the time between keepalive probes.
func (h Conn) SetKeepAlivePeriod(d time.Duration) error {
	return option(h, 0, "set", func(c interface{ SetKeepAlivePeriod(time.Duration) error }) error {
		return c.SetKeepAlivePeriod(d)
	})
}

// SetKeepAliveConfig configures keepalive.
func (h Conn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	return option(h, 0, "set", func(c interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}) error {
		return c.SetKeepAliveConfig(config)
	})
}

// MultipathTCP reports whether the connection uses Multipath TCP.
func (h Conn) MultipathTCP() (on bool, err error) {
	err = option(h, 0, "get", func(c interface{ MultipathTCP() (bool, error) }) error {
		on, err = c.MultipathTCP()
		return err
	})
	return on, err
}

// File returns a duplicate of the descriptor.
func (h Conn) File() (f *os.File, err error) {
	err = option(h, markFile, "file", func(c interface{ File() (*os.File, error) }) error {
		f, err = c.File()
		return err
	})
	return f, err
}

// SyscallConn implements syscall.Conn with the RawConn of the connection below.
// It must not be used after the loan has ended.
func (h Conn) SyscallConn() (raw syscall.RawConn, err error) {
	err = option(h, markEscaped, "raw-control", func(c syscall.Conn) error {
		raw, err = c.SyscallConn()
		return err
	})
	return raw, err
}

// option calls f with the connection below, which may lack the method.
func option[T any](h Conn, m uint32, op string, f func(T) error) error {
	if !h.enter() {
		return h.errClosed(op)
	}
	defer h.leave()
	c, ok := h.c.Conn.(T)
	if !ok {
		return &net.OpError{Op: op, Source: h.LocalAddr(), Addr: h.RemoteAddr(), Err: errors.ErrUnsupported}
	}
	h.c.mark(m)
	return f(c)
}
