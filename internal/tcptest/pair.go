package tcptest

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"
)

// Deadline is how long a helper waits for a fact before it fails the test.
const Deadline = 5 * time.Second

// An Option changes the sockets made by [Pair], [Listen], [DeadListener] and
// [FullBacklogListener].
type Option func(*config)

type config struct {
	mptcp        bool
	ipv6         bool
	smallBuffers bool
}

// MPTCP chooses Multipath TCP. The default is off, although Go's listeners
// have it on, because an MPTCP socket cannot be made deaf or filtered.
// [Pair] skips the test when the kernel does not give MPTCP to both ends.
func MPTCP(on bool) Option { return func(c *config) { c.mptcp = on } }

// IPv6 uses ::1 in place of 127.0.0.1, or skips the test where that does not
// exist.
func IPv6() Option { return func(c *config) { c.ipv6 = true } }

// SmallBuffers gives the sockets the smallest buffers the kernel allows, set
// before the handshake so that the window scale is small too. A few kilobytes
// then close the window.
func SmallBuffers() Option { return func(c *config) { c.smallBuffers = true } }

// Pair returns the two ends of a loopback connection. The cleanup resets
// whatever is still open, so that a finished test leaves nothing in TIME-WAIT.
func Pair(t testing.TB, opts ...Option) (client, server *net.TCPConn) {
	t.Helper()
	ln := Listen(t, opts...)
	defer ln.Close()
	client = Connect(t, ln, opts...)
	server = accept(t, ln, client.LocalAddr())
	if !configOf(opts).mptcp {
		return client, server
	}
	for _, c := range []*net.TCPConn{client, server} {
		if on, err := c.MultipathTCP(); !on {
			t.Skipf("tcptest: no MPTCP here (err %v)", err)
		}
	}
	return client, server
}

// Listen returns a loopback listener on a free port.
func Listen(t testing.TB, opts ...Option) *net.TCPListener {
	t.Helper()
	cfg := configOf(opts)
	lc := net.ListenConfig{Control: cfg.control()}
	lc.SetMultipathTCP(cfg.mptcp)
	address := "127.0.0.1:0"
	if cfg.ipv6 {
		address = "[::1]:0"
	}
	ln, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil && cfg.ipv6 {
		t.Skipf("tcptest: no IPv6 loopback: %v", err)
	}
	if err != nil {
		t.Fatalf("tcptest: listen: %v", err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// Connect dials ln and leaves it to the caller to accept, or not to.
func Connect(t testing.TB, ln net.Listener, opts ...Option) *net.TCPConn {
	t.Helper()
	cfg := configOf(opts)
	d := net.Dialer{Timeout: Deadline, Control: cfg.control()}
	d.SetMultipathTCP(cfg.mptcp)
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatalf("tcptest: dial: %v", err)
	}
	return closeLater(t, c)
}

// Reset closes c so that its peer receives an RST.
func Reset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := reset(c); err != nil {
		t.Fatalf("tcptest: reset: %v", err)
	}
}

func reset(c *net.TCPConn) error {
	return errors.Join(c.SetLinger(0), c.Close())
}

func configOf(opts []Option) config {
	var c config
	for _, o := range opts {
		o(&c)
	}
	return c
}

// control returns the Control hook, or nil when none is needed: the fake
// network of js/wasm refuses any.
func (c config) control() func(network, address string, raw syscall.RawConn) error {
	if !c.smallBuffers {
		return nil
	}
	return func(_, _ string, raw syscall.RawConn) error { return shrinkBuffers(raw) }
}

// accept waits for the connection that comes from client: a port scanner or
// another test may be faster on a loopback port.
func accept(t testing.TB, ln *net.TCPListener, client net.Addr) *net.TCPConn {
	t.Helper()
	if err := ln.SetDeadline(time.Now().Add(Deadline)); err != nil {
		t.Fatalf("tcptest: accept: %v", err)
	}
	for {
		c, err := ln.AcceptTCP()
		if err != nil {
			t.Fatalf("tcptest: accept: %v", err)
		}
		if c.RemoteAddr().String() == client.String() {
			return closeLater(t, c)
		}
		c.Close()
	}
}

func closeLater(t testing.TB, c net.Conn) *net.TCPConn {
	tc := c.(*net.TCPConn)
	// SetLinger on a conn that the test has closed is an error and does nothing.
	t.Cleanup(func() { _ = reset(tc) })
	return tc
}
