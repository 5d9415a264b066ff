// Package listener listens like net.ListenConfig and tracks what it accepts, so
// that a connection that leaks or gets stuck is reported while it is open.
package listener

import (
	"context"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Config listens as NetConfig does and accepts tracked connections. The zero
// value listens like net.Listen and tracks with tcpstate.Default. The methods
// may be called concurrently; the fields must not change meanwhile.
type Config struct {
	// NetConfig does the listening. Nil means the zero net.ListenConfig.
	NetConfig *net.ListenConfig

	// Tracker watches the connections. Nil means tcpstate.Default().
	Tracker *tcpstate.Tracker

	// Name is the name of the accepted connections in reports and metrics:
	// "api", "admin".
	Name string

	// Expect declares what is normal for these connections.
	Expect tcpstate.Expect

	// NoWrap accepts plain *net.TCPConn, for servers that assert the type.
	// Reads of the application are then not seen: a finding cannot say who
	// read the end of the stream.
	NoWrap bool

	// DetectWithin is the time in which the kernel finds out that a client or
	// the path to it is dead, and ends the connection with ETIMEDOUT, whether it
	// is idle or writing. Zero and less leave the sockets as they are. Less than
	// 2s is 2s, more than a day is a day. Below 5s it may take a little longer,
	// and below 4s one or two lost packets end the connection.
	//
	// It sets keepalive and, on Linux, TCP_USER_TIMEOUT (tcp(7)) on each
	// accepted connection. A client that lives but does not read is given up as
	// well, once its window has been closed for that long. A keepalive
	// configured in NetConfig stays as it is; TCP_USER_TIMEOUT is then longer
	// where a single lost probe would be fatal. Multipath TCP and systems beyond
	// Linux have keepalive only, which ends idle connections. What the system
	// refuses is left out, and no error.
	DetectWithin time.Duration

	// DrainGrace is how long after Close of the Listener, which is the first
	// thing that http.Server.Shutdown does, or after Drain, its connections may
	// lie idle, unread and unclosed without being reported. 0 means 30 s, as
	// long as Kubernetes waits for a pod to end; negative means not at all.
	DrainGrace time.Duration
}

const defaultGrace = 30 * time.Second

// Listen announces on address, as net.ListenConfig.Listen does. On networks
// that are not TCP the Listener accepts what the one below accepts.
func (c *Config) Listen(ctx context.Context, network, address string) (*Listener, error) {
	lc := c.NetConfig
	if lc == nil {
		lc = new(net.ListenConfig)
	}
	ln, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := c.Wrap(ln)
	l.watch.Serving()
	return l, nil
}

// Wrap returns a Listener that tracks what ln accepts. It belongs directly
// above the TCP listener, below TLS and protocol listeners. That nobody accepts
// is reported once somebody has: ln may have been inherited and not be served
// yet. Wrapping a Listener again returns it as it is. A nil ln gives a Listener
// that accepts nothing.
func (c *Config) Wrap(ln net.Listener) *Listener {
	if l, ok := ln.(*Listener); ok {
		return l
	}
	l := &Listener{inner: ln, config: *c}
	if l.config.Tracker == nil {
		l.config.Tracker = tcpstate.Default()
	}
	l.origin = tcpstate.Origin{Role: tcpstate.Server, Name: c.Name, Expect: c.Expect}
	if ln != nil {
		l.origin.Target = ln.Addr().String()
	}
	l.watch = l.config.Tracker.AddListener(ln, l.origin)
	return l
}

// Listen announces on address and tracks the accepted connections with the
// default tracker.
func Listen(network, address string) (*Listener, error) {
	return new(Config).Listen(context.Background(), network, address)
}

// Listener is a net.Listener whose connections are tracked.
type Listener struct {
	inner  net.Listener
	config Config
	origin tcpstate.Origin
	watch  *tcpstate.Listening
}

// Accept waits for the next connection and returns it as a *tcpstate.Conn, or
// with NoWrap as the *net.TCPConn it is. Errors are those of the listener
// below.
func (l *Listener) Accept() (net.Conn, error) {
	if l.inner == nil {
		return nil, syscall.EINVAL
	}
	l.watch.Accepting()
	c, err := l.inner.Accept()
	if err == nil {
		l.detect(c)
	}
	return l.watch.Accepted(c, err, !l.config.NoWrap), err
}

// Drain says that the listener takes its leave, before Close: it may stay open
// without Accept, and its connections may end as they like. Neither the queue
// nor silent, idle or unread connections, nor those that are closing, are
// reported from now on. Connections that their clients have closed, and that
// this program still holds after DrainGrace, are.
func (l *Listener) Drain() { l.watch.Drain(l.config.grace()) }

func (c *Config) grace() time.Duration {
	if c.DrainGrace == 0 {
		return defaultGrace
	}
	return max(c.DrainGrace, 0)
}

// Close closes the listener below. Accepted connections stay open; for
// Config.DrainGrace they count as in drain.
func (l *Listener) Close() error {
	if l.inner == nil {
		return syscall.EINVAL
	}
	l.watch.Remove(l.config.grace())
	return l.inner.Close()
}

// Addr returns the address of the listener below, and nil if there is none.
func (l *Listener) Addr() net.Addr {
	if l.inner == nil {
		return nil
	}
	return l.inner.Addr()
}

// NetListener returns the listener below.
func (l *Listener) NetListener() net.Listener { return l.inner }

// SetDeadline sets the deadline of Accept, where the listener below has one.
func (l *Listener) SetDeadline(t time.Time) error {
	if l.inner == nil {
		return syscall.EINVAL
	}
	if d, ok := l.inner.(interface{ SetDeadline(time.Time) error }); ok {
		return d.SetDeadline(t)
	}
	return os.ErrNoDeadline
}

// File returns a duplicate of the descriptor, where the listener below has one.
func (l *Listener) File() (*os.File, error) {
	if f, ok := l.inner.(interface{ File() (*os.File, error) }); ok {
		return f.File()
	}
	return nil, syscall.EINVAL
}

// SyscallConn returns the RawConn of the listener below, where it has one.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	if s, ok := l.inner.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.EINVAL
}
