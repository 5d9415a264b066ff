package netlab

import (
	"bytes"
	"encoding/json"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Agent is a process on a host that opens connections and tracks them.
type Agent struct {
	Host *Host
	t    testing.TB
	rpc  *rpc.Client
	cmd  *exec.Cmd
	errs *bytes.Buffer
	ids  atomic.Int64
	dead bool
}

// Start starts an agent, which ends with the test.
func (h *Host) Start() *Agent {
	h.t.Helper()
	exe, err := os.Executable()
	must(h.t, err)
	a := &Agent{Host: h, t: h.t, errs: new(bytes.Buffer)}
	a.cmd = h.command(exe)
	a.cmd.Env = append(a.cmd.Environ(), agentEnv+"="+h.device)
	a.cmd.Stderr = a.errs
	stdin, err := a.cmd.StdinPipe()
	must(h.t, err)
	stdout, err := a.cmd.StdoutPipe()
	must(h.t, err)
	must(h.t, a.cmd.Start())
	a.rpc = jsonrpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{stdout, stdin})
	h.t.Cleanup(a.stop)
	return a
}

// stop ends the process in order: it must not have lost a connection, nor found
// a data race.
func (a *Agent) stop() {
	if a.dead {
		return
	}
	a.dead = true
	var left string
	select {
	case c := <-a.rpc.Go("Agent.Left", struct{}{}, &left, nil).Done:
		if c.Error != nil {
			left = c.Error.Error()
		}
	case <-time.After(Deadline):
		left = "no answer"
	}
	if left != "" {
		a.t.Errorf("netlab: the agent on %s has lost: %s", a.Host.name, left)
	}
	a.rpc.Close()
	overdue := time.AfterFunc(Deadline, func() { a.cmd.Process.Kill() })
	defer overdue.Stop()
	if err := a.cmd.Wait(); err != nil {
		a.t.Errorf("netlab: agent on %s: %v\n%s", a.Host.name, err, a.errs)
	}
}

// Kill ends the process at once, as a crash does: the kernel closes its
// connections.
func (a *Agent) Kill() {
	a.dead = true
	a.cmd.Process.Kill()
	a.rpc.Close()
	a.cmd.Wait()
}

// call asks the agent for something that it can do at once.
func (a *Agent) call(method string, arg, reply any) {
	a.t.Helper()
	a.await(a.rpc.Go("Agent."+method, arg, reply, nil))
}

func (a *Agent) await(c *rpc.Call) {
	a.t.Helper()
	select {
	case <-c.Done:
		if c.Error != nil {
			a.t.Fatalf("netlab: agent on %s: %s: %v\n%s", a.Host.name, c.ServiceMethod, c.Error, a.errs)
		}
	case <-time.After(Deadline):
		a.t.Fatalf("netlab: waited %v for %s of the agent on %s", Deadline, c.ServiceMethod, a.Host.name)
	}
}

// Findings returns what the agent's tracker has reported so far, and what is
// open now.
func (a *Agent) Findings() Findings {
	a.t.Helper()
	var f Findings
	a.call("Findings", struct{}{}, &f)
	return f
}

// DialsDone returns what the agent's observer was told of dials.
func (a *Agent) DialsDone() (done []DialDone) {
	a.t.Helper()
	a.call("DialsDone", struct{}{}, &done)
	return done
}

// Conn is a connection of an agent, or a dial in progress.
type Conn struct {
	*Agent
	id            int
	Local, Remote string
	Result        Dialed
	dial          *rpc.Call
}

// DialBegin begins a dial.
func (a *Agent) DialBegin(d Dial) *Conn {
	c := &Conn{Agent: a, id: int(a.ids.Add(1))}
	d.ID = c.id
	c.dial = a.rpc.Go("Agent.Dial", d, &c.Result, nil)
	return c
}

// Wait waits for the end of the dial and returns the error of the network.
func (c *Conn) Wait() string {
	c.t.Helper()
	c.await(c.dial)
	c.Local, c.Remote = c.Result.Local, c.Result.Remote
	return c.Result.Err
}

// Dial dials, and fails the test when that fails.
func (a *Agent) Dial(d Dial) *Conn {
	a.t.Helper()
	c := a.DialBegin(d)
	if err := c.Wait(); err != "" {
		a.t.Fatalf("netlab: dial %s: %s", d.Addr, err)
	}
	return c
}

// Listener is a listener of an agent.
type Listener struct {
	*Agent
	id   int
	Addr string
}

// Listen listens.
func (a *Agent) Listen(l Listen) *Listener {
	a.t.Helper()
	ln := &Listener{Agent: a, id: int(a.ids.Add(1))}
	l.ID = ln.id
	a.call("Listen", l, &ln.Addr)
	return ln
}

// Accept accepts one connection.
func (l *Listener) Accept() *Conn {
	l.t.Helper()
	c := &Conn{Agent: l.Agent, id: int(l.ids.Add(1))}
	l.Agent.call("Accept", Accept{Listener: l.id, ID: c.id}, &c.Result)
	c.Local, c.Remote = c.Result.Local, c.Result.Remote
	return c
}

// Write writes n bytes and returns what the application was told.
func (c *Conn) Write(n int) string { c.t.Helper(); return c.move("Write", n) }

// Read reads n bytes.
func (c *Conn) Read(n int) string { c.t.Helper(); return c.move("Read", n) }

func (c *Conn) move(method string, n int) string {
	c.t.Helper()
	var r Transferred
	c.Agent.call(method, Transfer{ID: c.id, Bytes: n}, &r)
	return r.Err
}

// WriteBegin begins a Write that may block.
func (c *Conn) WriteBegin(n int) {
	c.rpc.Go("Agent.Write", Transfer{ID: c.id, Bytes: n}, new(Transferred), nil)
}

// Close closes.
func (c *Conn) Close() { c.t.Helper(); c.Agent.call("End", End{ID: c.id}, new(struct{})) }

// CloseWrite closes our direction.
func (c *Conn) CloseWrite() {
	c.t.Helper()
	c.Agent.call("End", End{ID: c.id, Half: true}, new(struct{}))
}

// Exchange sends n bytes to the peer and back.
func (c *Conn) Exchange(peer *Conn, n int) {
	c.t.Helper()
	for _, err := range []string{c.Write(n), peer.Read(n), peer.Write(n), c.Read(n)} {
		if err != "" {
			c.t.Fatalf("netlab: exchange: %s", err)
		}
	}
}

// Info returns TCP_INFO of the connection.
func (c *Conn) Info() Info {
	c.t.Helper()
	var raw json.RawMessage
	c.Agent.call("Info", c.id, &raw)
	var i Info
	must(c.t, json.Unmarshal(raw, &i))
	return i
}

// SS returns the line of ss(8) about the connection, which also exists for
// those that were closed; empty when there is none.
func (c *Conn) SS() string {
	c.t.Helper()
	return strings.Join(c.Host.SS("src", c.Local, "dst", c.Remote), " | ")
}

// Pair returns a connection from client to server, which listens on port 80.
func (l *Lab) Pair(client, server *Agent) (c, s *Conn) {
	l.t.Helper()
	ln := server.Listen(Listen{Addr: AddrB + ":80"})
	c = client.Dial(Dial{Addr: ln.Addr, KeepAlive: -1})
	return c, ln.Accept()
}
