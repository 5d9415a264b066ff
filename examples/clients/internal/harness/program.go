package harness

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Program is a server written in Go that runs in the process of the test. It
// is stopped when the test ends.
type Program struct {
	addr  string
	serve func(net.Listener) (stop func())
	stop  func() // nil: stopped
}

// NewProgram starts a server on a loopback port of its own. serve begins to
// serve a listener and returns; stop ends that and closes all connections.
func NewProgram(t testing.TB, serve func(net.Listener) (stop func())) *Program {
	t.Helper()
	p := &Program{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t))), serve: serve}
	p.Start(t)
	t.Cleanup(func() {
		if p.stop != nil {
			p.stop()
		}
	})
	return p
}

// Addr returns the address of the server, which stays when it is restarted.
func (p *Program) Addr() string { return p.addr }

// Start starts the server.
func (p *Program) Start(t testing.TB) {
	t.Helper()
	require.Nil(t, p.stop, "the server runs already")
	ln, err := net.Listen("tcp", p.addr)
	require.NoError(t, err)
	p.stop = p.serve(ln)
}

// Stop ends the server and its connections.
func (p *Program) Stop(t testing.TB) {
	t.Helper()
	require.NotNil(t, p.stop, "the server does not run")
	p.stop()
	p.stop = nil
}

// Restart is Stop and Start.
func (p *Program) Restart(t testing.TB) {
	t.Helper()
	p.Stop(t)
	p.Start(t)
}

// Ends is a listener that speaks TLS and remembers how the streams of its
// connections end: by io.EOF if the client has announced it, as it should, and
// by io.ErrUnexpectedEOF if it has not.
type Ends struct {
	net.Listener // speaks TLS

	mu   sync.Mutex // guards following fields
	ends []error
}

// NewEnds returns such a listener above ln.
func NewEnds(ln net.Listener, config *tls.Config) *Ends {
	return &Ends{Listener: tls.NewListener(ln, config)}
}

// Accept implements net.Listener.
func (e *Ends) Accept() (net.Conn, error) {
	c, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &ending{Conn: c, at: e}, nil
}

// Announced waits until n connections have ended, and fails the test unless
// each was announced.
func (e *Ends) Announced(t testing.TB, n int) {
	t.Helper()
	WaitUntil(t, "the ends of the connections", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.ends) == n
	})
	for _, err := range e.ends {
		require.Equal(t, io.EOF, err)
	}
}

type ending struct {
	net.Conn
	at   *Ends
	once sync.Once
}

// Read implements net.Conn.
func (c *ending) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	var timeout net.Error
	if err != nil && !errors.Is(err, net.ErrClosed) && !(errors.As(err, &timeout) && timeout.Timeout()) {
		c.once.Do(func() {
			c.at.mu.Lock()
			defer c.at.mu.Unlock()
			c.at.ends = append(c.at.ends, err)
		})
	}
	return n, err
}
