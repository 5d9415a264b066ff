package tcpstate

import (
	"io"
	"net"
	"os"
	"reflect"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Conn is a tracked TCP connection. It embeds the connection it tracks, so
// everything that works with a *net.TCPConn works here: splice, sendfile and
// writev, half-close, socket options, deadlines.
//
// The methods that are overridden do what the embedded ones do, return what
// they return, and remember what happened. Write is not among them: bytes,
// ages and queues come from the kernel.
//
// Code that needs the concrete type gets it from NetConn; closing that one is
// noticed, too.
//
// One copy costs more than with a *net.TCPConn: io.CopyN from a Conn into a
// plain *net.TCPConn goes through user space, because net decides by the type
// of the reader in the io.LimitedReader. With a Conn at both ends it is
// spliced, and so is io.Copy in any case.
type Conn struct {
	*net.TCPConn
	e   *entry                          // nil: not tracked
	raw atomic.Pointer[syscall.RawConn] // what SyscallConn returns; nil before
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
} = (*Conn)(nil)

// NetConn returns the *net.TCPConn below.
func (c *Conn) NetConn() net.Conn { return c.TCPConn }

// Watch returns what the tracker knows of the connection. It is nil, which
// every method of Watch accepts, when the connection is not tracked.
func (c *Conn) Watch() *Watch {
	if c.e == nil {
		return nil
	}
	return &Watch{e: c.e}
}

// Read reads as *net.TCPConn does. It remembers when, and the line of code
// that got io.EOF or an error.
func (c *Conn) Read(b []byte) (int, error) {
	if c.e == nil {
		return c.TCPConn.Read(b)
	}
	if c.e.entered() {
		return c.readLent(b)
	}
	n, err := c.TCPConn.Read(b)
	if err != nil {
		c.e.readEnded(err)
	}
	return n, err
}

// readLent is Read on a connection of a pool that does not tell who has it: the
// last line to read from it is the best answer there is.
func (c *Conn) readLent(b []byte) (int, error) {
	l := c.e.lent.Load()
	l.line.Store(uint32(sites.Capture(2)))
	l.read.Store(c.e.t.epoch.Load())
	l.reading.Add(1)
	n, err := c.TCPConn.Read(b)
	l.reading.Add(-1)
	if err != nil {
		c.e.readEnded(err)
	}
	return n, err
}

// WriteTo implements io.WriterTo, as *net.TCPConn does.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	c.e.copyBegins()
	defer c.e.copyReturns()
	n, err := c.TCPConn.WriteTo(w)
	c.e.copyEnded(err, false)
	return n, err
}

// ReadFrom implements io.ReaderFrom, as *net.TCPConn does. A source that is a
// Conn, bare or in an io.LimitedReader, is handed on as the *net.TCPConn that
// splice(2) asks for.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	switch src := r.(type) {
	case *Conn:
		if !src.spliceable() {
			break
		}
		src.e.copyBegins()
		defer src.e.copyReturns()
		n, err := c.TCPConn.ReadFrom(src.TCPConn)
		src.e.copyEnded(err, false)
		return n, err
	case *io.LimitedReader:
		inner, ok := src.R.(*Conn)
		if !ok || !inner.spliceable() || src.N <= 0 {
			break
		}
		lr := &io.LimitedReader{R: inner.TCPConn, N: src.N}
		inner.e.copyBegins()
		defer inner.e.copyReturns()
		n, err := c.TCPConn.ReadFrom(lr)
		src.N = lr.N
		inner.e.copyEnded(err, lr.N <= 0)
		return n, err
	}
	return c.TCPConn.ReadFrom(r)
}

// spliceable reports whether there is a socket below: of a net.TCPConn without
// one, which Track(nil) makes, net would follow a nil pointer.
func (c *Conn) spliceable() bool {
	return c != nil && c.TCPConn != nil && c.LocalAddr() != nil
}

// copyBegins marks the connection as being read from, for as long as a copy
// runs: with splice, Read is never called.
func (e *entry) copyBegins() {
	if e == nil {
		return
	}
	e.copying.Add(1)
	e.entered()
}

// copyReturns takes the mark back, even if the destination panicked.
func (e *entry) copyReturns() {
	if e != nil {
		e.copying.Add(-1)
	}
}

// copyEnded notes how a copy ended. One that ended without error, and not at
// its limit, has read the end of the stream.
func (e *entry) copyEnded(err error, limited bool) {
	if e == nil {
		return
	}
	e.entered()
	switch r := classifyRead(err); {
	case err == nil && !limited:
		e.note(readEOF)
	case r > readDeadline:
		// It may as well be the destination that failed.
		e.flags.Or(flagCopyFailed)
		e.note(readCopy)
	case r == readDeadline:
		e.note(r)
	}
}

// Close closes the connection. The second and every later Close returns what
// *net.TCPConn returns and counts nothing.
func (c *Conn) Close() error {
	if c.e == nil || !c.e.closing() {
		return c.TCPConn.Close()
	}
	err := c.TCPConn.Close()
	c.e.t.ended(c.e)
	return err
}

// CloseRead shuts down the reading side.
func (c *Conn) CloseRead() error { return c.shutdown(flagCloseRead, c.TCPConn.CloseRead) }

// CloseWrite shuts down the writing side.
func (c *Conn) CloseWrite() error { return c.shutdown(flagCloseWrite, c.TCPConn.CloseWrite) }

// shutdown sets flag before the call: the peer's answer to our FIN may be
// noticed before the call returns.
func (c *Conn) shutdown(flag uint32, f func() error) error {
	if c.e == nil {
		return f()
	}
	before := c.e.flags.Or(flag)
	err := f()
	if err != nil && before&flag == 0 {
		c.e.flags.And(^flag)
	}
	return err
}

// SetKeepAlive sets SO_KEEPALIVE.
func (c *Conn) SetKeepAlive(keepalive bool) error {
	return c.setKeepAlive(func() error { return c.TCPConn.SetKeepAlive(keepalive) })
}

// SetKeepAlivePeriod sets the time between keepalive probes.
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error {
	return c.setKeepAlive(func() error { return c.TCPConn.SetKeepAlivePeriod(d) })
}

// SetKeepAliveConfig configures keepalive.
func (c *Conn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	return c.setKeepAlive(func() error { return c.TCPConn.SetKeepAliveConfig(config) })
}

// SetLinger sets what Close does with data not yet sent.
func (c *Conn) SetLinger(sec int) error {
	c.remember(flagLinger)
	err := c.TCPConn.SetLinger(sec)
	switch {
	case c.e == nil || err != nil:
	case sec == 0:
		c.e.flags.Or(flagLingerZero)
	default:
		c.e.flags.And(^flagLingerZero)
	}
	return err
}

// File returns a duplicate of the descriptor. Closing the connection does not
// close the duplicate, and the tracker does not watch it.
func (c *Conn) File() (*os.File, error) {
	if _, err := c.TCPConn.SyscallConn(); err != nil {
		return nil, err // of Track(nil): net would panic
	}
	c.remember(flagFile)
	return c.TCPConn.File()
}

func (c *Conn) remember(flag uint32) {
	if c.e != nil {
		c.e.flags.Or(flag)
	}
}

// SyscallConn returns the RawConn of the connection below, always the same one.
// While it is referenced, the connection does not count as dropped.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if c.e == nil {
		return c.TCPConn.SyscallConn()
	}
	if raw := c.raw.Load(); raw != nil {
		return *raw, nil
	}
	c.remember(flagRawConn)
	raw, err := c.TCPConn.SyscallConn()
	if err != nil {
		return nil, err
	}
	keepWith(raw, c.TCPConn)
	if !c.raw.CompareAndSwap(nil, &raw) {
		return *c.raw.Load(), nil
	}
	return raw, nil
}

// keepWith keeps conn alive as long as raw, which holds only the descriptor of
// conn. A struct that embeds raw and holds conn would do the same, but os and
// net look for methods on raw's own type and copy in user space without them.
// Instead, a cleanup that does nothing takes conn for its argument: the runtime
// holds the argument until raw is unreachable.
func keepWith(raw syscall.RawConn, conn *net.TCPConn) {
	v := reflect.ValueOf(raw)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return
	}
	runtime.AddCleanup((*byte)(v.UnsafePointer()), func(*net.TCPConn) {}, conn)
}
