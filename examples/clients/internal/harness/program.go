package harness

import (
	"net"
	"strconv"
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

// Serving runs serve, such as Serve of an http.Server, and returns a function
// that calls end and waits until serve has returned.
func Serving(serve func() error, end func()) (stop func()) {
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	return func() {
		end()
		<-ended
	}
}

// Accept lets handle have each connection of ln, and closes it afterwards. It
// returns when ln is closed.
func Accept(ln net.Listener, handle func(net.Conn)) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}
