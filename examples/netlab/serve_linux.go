package netlab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"reflect"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// Scale is how much shorter the thresholds of an agent's tracker are than the
// defaults. The kernel's timers cannot be scaled.
const Scale = 10

// config returns what the tracker of an agent is told: every default threshold,
// scaled.
func config() tcpstate.Config {
	c := tcpstate.Config{SweepInterval: 10 * time.Second / Scale, Thresholds: tcpstate.DefaultThresholds()}
	v := reflect.ValueOf(&c.Thresholds).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(v.Field(i).Int() / Scale)
	}
	return c
}

const agentEnv = "TCPSTATE_NETLAB_AGENT"

// Serve turns the process into an agent if it was started as one, and then does
// not return. TestMain calls it first.
func Serve() {
	device, isAgent := os.LookupEnv(agentEnv)
	if !isAgent {
		return
	}
	if device != "" {
		if err := plainSegments(device); err != nil {
			fmt.Fprintln(os.Stderr, "netlab:", err)
			os.Exit(1)
		}
	}
	a := &server{
		tracker: tcpstate.Tracker{Config: config()},
		conns:   make(map[int]*serverConn), listeners: make(map[int]net.Listener),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	leaktest.Check(&a.left, &a.tracker, leaktest.IgnoreFindings()) // they are what is tested
	a.tracker.Observe(a.observer())
	if err := rpc.RegisterName("Agent", a); err != nil {
		panic(err)
	}
	jsonrpc.ServeConn(struct {
		io.Reader
		io.WriteCloser
	}{untilEOF{os.Stdin}, os.Stdout})
	os.Exit(0)
}

// untilEOF ends the process at the end of its input, whatever calls are still
// blocked.
type untilEOF struct{ io.Reader }

func (r untilEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		os.Exit(0)
	}
	return n, err
}

// server is the agent's end of an Agent. Its methods have the form that package
// rpc asks for, and run concurrently.
type server struct {
	tracker tcpstate.Tracker
	ctx     context.Context // of all dials
	cancel  func()
	left    leftovers

	mu        sync.Mutex // guards following fields
	conns     map[int]*serverConn
	listeners map[int]net.Listener
	told      []Told
	dials     []tcpstate.DialInfo
}

// serverConn is a connection, or a dial that has not ended.
type serverConn struct {
	net.Conn
	raw syscall.RawConn
}

func (c *serverConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Told is a finding, as an observer was told of it or as it is open now.
type Told struct {
	Event    string // opened, changed or open
	Kind     tcpstate.Kind
	Cause    string
	Severity string
	State    string
	Subject  string // "local-remote"
	Summary  string
}

func tell(event string, f tcpstate.Finding) Told {
	return Told{
		Event: event, Kind: f.Kind, Cause: f.Cause, Severity: f.Severity.String(), State: f.State.String(),
		Subject: f.Subject.Local + "-" + f.Subject.Remote, Summary: f.Title + ": " + f.Summary,
	}
}

func (t Told) String() string {
	return fmt.Sprintf("%s %s %s/%s [%s, %s]: %s", t.Event, t.Severity, t.Kind, t.Cause, t.Subject, t.State, t.Summary)
}

func (a *server) observer() *tcpstate.Observer {
	note := func(event string) func(tcpstate.Finding) {
		return func(f tcpstate.Finding) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.told = append(a.told, tell(event, f))
		}
	}
	return &tcpstate.Observer{
		Opened: note("opened"), Changed: note("changed"),
		DialDone: func(d tcpstate.DialInfo) any {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.dials = append(a.dials, d)
			return nil
		},
	}
}

// Findings are all findings so far: those of which the observer was told, and
// those that are open, which include later members of a group.
type Findings struct {
	Told []Told
	Open []Told
}

// Findings returns what was found so far.
func (a *server) Findings(_ struct{}, out *Findings) error {
	for _, f := range a.tracker.Findings() {
		out.Open = append(out.Open, tell("open", f))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out.Told = append(out.Told, a.told...)
	return nil
}

// DialDone is what an observer is told of a dial.
type DialDone struct {
	Took        time.Duration
	Retransmits uint32
	Failed      bool
}

// DialsDone returns the dials that have ended.
func (a *server) DialsDone(_ struct{}, out *[]DialDone) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.dials {
		*out = append(*out, DialDone{Took: d.End.Sub(d.Start), Retransmits: d.Retransmits, Failed: d.Err != nil})
	}
	return nil
}

// Dial says what an agent dials. The zero value of a field is Go's default.
type Dial struct {
	ID        int // given by the caller
	Addr      string
	Local     string // IP address to dial from
	Timeout   time.Duration
	KeepAlive time.Duration // idle time and interval; negative is off
}

// Dialed is the result of a dial. Errors of the network are results.
type Dialed struct {
	Local, Remote string
	Err           string
	Took          time.Duration
}

// Dial dials, with the dialer of package dialer.
func (a *server) Dial(d Dial, out *Dialed) error {
	c := &serverConn{}
	nd := &net.Dialer{
		Timeout:   d.Timeout,
		KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			c.raw = raw
			a.conns[d.ID] = c
			return nil
		},
	}
	if d.KeepAlive >= 0 {
		nd.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: d.KeepAlive, Interval: d.KeepAlive}
	}
	if d.Local != "" {
		nd.LocalAddr = &net.TCPAddr{IP: net.ParseIP(d.Local)}
	}
	start := time.Now()
	conn, err := (&dialer.Dialer{NetDialer: nd, Tracker: &a.tracker, Name: "peer"}).DialContext(a.ctx, "tcp4", d.Addr)
	out.Took = time.Since(start)
	if err != nil {
		out.Err = err.Error()
		return nil
	}
	return a.add(d.ID, conn, out)
}

func (a *server) add(id int, conn net.Conn, out *Dialed) error {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	out.Local, out.Remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[id] = &serverConn{Conn: conn, raw: raw}
	return nil
}

// Listen says what an agent listens on.
type Listen struct {
	ID    int
	Addr  string
	Defer time.Duration // TCP_DEFER_ACCEPT
}

// Listen listens, with the listener of package listener. Multipath TCP is off:
// it has no TCP_DEFER_ACCEPT.
func (a *server) Listen(l Listen, addr *string) error {
	lc := &net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		if l.Defer == 0 {
			return nil
		}
		var err error
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, int(l.Defer/time.Second))
		})
		if cerr != nil {
			return cerr
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	ln, err := (&listener.Config{NetConfig: lc, Tracker: &a.tracker, Name: "lab"}).Listen(context.Background(), "tcp4", l.Addr)
	if err != nil {
		return err
	}
	*addr = ln.Addr().String()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners[l.ID] = ln
	return nil
}

// Accept names a listener, and the connection that it will accept.
type Accept struct{ Listener, ID int }

// Accept accepts one connection.
func (a *server) Accept(arg Accept, out *Dialed) error {
	a.mu.Lock()
	ln := a.listeners[arg.Listener]
	a.mu.Unlock()
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	return a.add(arg.ID, conn, out)
}

// Left closes what the test has left open, which is the test's affair, and
// reports what is open all the same.
func (a *server) Left(_ struct{}, report *string) error {
	a.cancel()
	a.mu.Lock()
	for _, ln := range a.listeners {
		_ = ln.Close()
	}
	for _, c := range a.conns {
		if c.Conn != nil {
			_ = c.Close()
		}
	}
	a.mu.Unlock()
	a.left.check()
	*report = a.left.report
	return nil
}

// leftovers is the test that leaktest reports to.
type leftovers struct {
	check  func()
	report string
}

func (l *leftovers) Helper()           {}
func (l *leftovers) Cleanup(f func())  { l.check = f }
func (l *leftovers) Error(args ...any) { l.report = fmt.Sprint(args...) }

func (a *server) conn(id int) *serverConn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conns[id]
}

// Transfer is so many bytes on a connection.
type Transfer struct{ ID, Bytes int }

// Transferred is the result of a Transfer: how many bytes it were, and what the
// application was told.
type Transferred struct {
	Moved int
	Err   string
}

// Write writes zeros.
func (a *server) Write(arg Transfer, out *Transferred) error {
	n, err := a.conn(arg.ID).Write(make([]byte, arg.Bytes))
	return out.set(n, err)
}

// Read reads exactly so many bytes.
func (a *server) Read(arg Transfer, out *Transferred) error {
	n, err := io.ReadFull(a.conn(arg.ID), make([]byte, arg.Bytes))
	return out.set(n, err)
}

func (r *Transferred) set(n int, err error) error {
	r.Moved = n
	if err != nil {
		r.Err = err.Error()
	}
	return nil
}

// End says how a connection is closed.
type End struct {
	ID   int
	Half bool // only our direction
}

// End closes.
func (a *server) End(arg End, _ *struct{}) error {
	c := a.conn(arg.ID).Conn
	if arg.Half {
		return c.(interface{ CloseWrite() error }).CloseWrite()
	}
	return c.Close()
}

// Info returns TCP_INFO, of a dial in progress as well.
func (a *server) Info(id int, out *json.RawMessage) error {
	c := a.conn(id)
	if c == nil { // the dial has no socket yet
		*out = json.RawMessage("{}")
		return nil
	}
	info, err := tcpstate.ReadInfo(c)
	if err != nil {
		return err
	}
	*out, err = json.Marshal(info)
	return err
}
