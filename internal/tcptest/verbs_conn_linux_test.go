package tcptest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Verbs that make and end connections.

// Options of what makes tracked connections.
const originOpts = " name= nowrap pooled halfclose longlived silence= heartbeat= ignore="

func connVerbs() map[string]*verb {
	return map[string]*verb{
		"server": {"OURS PEER: a tracked accepted connection, and the client at its other end", 2, 2, "small mptcp" + originOpts, "", (*run).server},
		"client": {"OURS PEER: a tracked dialed connection, and the server at its other end", 2, 2, "small" + originOpts, "", (*run).client},
		"listen": {"L: a tracked listener, or an untracked one (plain); accepting: reads and closes what comes; wrapped: Accept reads a first byte; defer: TCP_DEFER_ACCEPT", 1, 1, "plain small mptcp backlog= accepting wrapped defer" + originOpts, "", (*run).listen},
		"accept": {"C L: takes the next connection", 2, 2, "", "", (*run).accept},
		"connect": {"C L: an untracked client, not yet accepted; bg: in the background; deaf: too, and it never gets an answer", 2, 2, "small deaf bg", "",
			(*run).connect},
		"dial":       {"C L: a tracked dial; bg: in the background; deaf: it never gets an answer; ports: may use only the local port of that connection; timeout: in the kernel's time", 2, 2, "small bg deaf timeout= ports=" + originOpts, "", (*run).dial},
		"crowd":      {"L N: N clients of L that have said something and were answered", 2, 2, "", "", (*run).crowd},
		"enddial":    {"C: cancels a dial in the background", 1, 1, "", "", (*run).endDial},
		"awaitdial":  {"C: waits for the connection of a dial in the background", 1, 1, "", "", (*run).awaitDial},
		"forget":     {"C: drops the result of a dial in the background: nobody closes it, something refers to it", 1, 1, "", "", (*run).forget},
		"dead":       {"L: an address that loses every SYN", 1, 1, "", "", (*run).dead},
		"refused":    {"L: an address where nobody listens", 1, 1, "", "", (*run).refused},
		"ports":      {"N: dials may use only N local ports from now on, and the tracker takes them for all there are", 1, 1, "", "", (*run).limitPorts},
		"close":      {"X: closes a connection or listener, and waits until its peer in this script knows; quick: does not wait", 1, 1, "quick", "", (*run).closeIt},
		"closewrite": {"C: sends a FIN, and waits until the peer knows; quick: does not wait", 1, 1, "quick", "", (*run).closeWrite},
		"closeread":  {"C", 1, 1, "", "", (*run).closeRead},
		"reset":      {"C: closes with an RST, and waits until the peer is dead", 1, 1, "", "", (*run).reset},
		"linger":     {"C SECONDS: SO_LINGER", 2, 2, "", "", (*run).linger},
		"drop":       {"C: forgets the only reference", 1, 1, "", "", (*run).drop},
		"gc":         {"collects garbage until a dropped connection was noticed", 0, 0, "", "", (*run).gc},
		"dup":        {"C: makes a duplicate of the descriptor (File) and closes it", 1, 1, "", "", (*run).dup},
	}
}

// origin returns the name, with def where the options give none, and what is
// declared.
func (r *run) origin(st *statement, def string) (name string, x tcpstate.Expect, nowrap bool, err error) {
	name = st.opts["name"]
	if name == "" {
		name = def
	}
	x, err = r.expectOf(st)
	return name, x, st.opts["nowrap"] != "", err
}

func kitOptions(st *statement) []tcptest.Option {
	opts := []tcptest.Option{tcptest.MPTCP(st.opts["mptcp"] != "")}
	if st.opts["small"] != "" {
		opts = append(opts, tcptest.SmallBuffers())
	}
	return opts
}

func (r *run) server(st *statement) error {
	ours, peer := st.args[0], st.args[1]
	ln, err := r.listenerFor(st)
	if err != nil {
		return err
	}
	defer ln.Close()
	c := tcptest.Connect(r, ln, kitOptions(st)...)
	s, err := ln.Accept()
	if err != nil {
		return err
	}
	r.keep(ours, s)
	r.keep(peer, c)
	return r.settle()
}

// settle lets the tracker meet a new connection.
func (r *run) settle() error {
	return r.pass(time.Second + time.Duration(r.rng.IntN(1500))*time.Millisecond)
}

func (r *run) listenerFor(st *statement) (*listener.Listener, error) {
	name, x, nowrap, err := r.origin(st, "api")
	if err != nil {
		return nil, err
	}
	config := listener.Config{Tracker: r.tr, Name: name, Expect: x, NoWrap: nowrap}
	return config.Wrap(tcptest.Listen(r, kitOptions(st)...)), nil
}

func (r *run) dialerFor(st *statement) (*dialer.Dialer, error) {
	name, x, nowrap, err := r.origin(st, "db")
	if err != nil {
		return nil, err
	}
	nd := &net.Dialer{Timeout: patience}
	nd.SetMultipathTCP(false)
	if r.ports[1] > 0 {
		nd.Control = tcptest.PortRangeControl(r.ports[0], r.ports[1])
	}
	return &dialer.Dialer{NetDialer: nd, Tracker: r.tr, Name: name, Expect: x, NoWrap: nowrap}, nil
}

func (r *run) client(st *statement) error {
	ours, peer := st.args[0], st.args[1]
	ln := tcptest.Listen(r, kitOptions(st)...)
	defer ln.Close()
	d, err := r.dialerFor(st)
	if err != nil {
		return err
	}
	if st.opts["small"] != "" {
		d.NetDialer.Control = tcptest.SmallBufferControl
	}
	c, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	s, err := ln.Accept()
	if err != nil {
		return err
	}
	r.keep(ours, c)
	r.keep(peer, s)
	return r.settle()
}

func (r *run) listen(st *statement) error {
	name := st.args[0]
	var ln net.Listener
	if st.opts["plain"] != "" {
		ln = tcptest.Listen(r, kitOptions(st)...)
	} else {
		l, err := r.listenerFor(st)
		if err != nil {
			return err
		}
		ln = l
	}
	if text := st.opts["backlog"]; text != "" {
		n, err := r.number(text)
		if err != nil {
			return err
		}
		tcptest.SetBacklog(r, ln.(syscall.Conn), n)
	}
	r.listeners[name], r.targets[name] = ln, ln.Addr().String()
	if st.opts["defer"] != "" {
		tcptest.DeferAccept(r, ln.(syscall.Conn), time.Minute)
	}
	switch {
	case st.opts["accepting"] != "":
		r.acceptAll(name, ln)
	case st.opts["wrapped"] != "":
		r.acceptWrapped(name, ln)
	}
	return nil
}

// acceptAll accepts and reads what comes until the listener is closed; each
// connection is closed at its end.
func (r *run) acceptAll(name string, ln net.Listener) {
	r.background(name, func() error {
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			r.wg.Go(func() {
				defer c.Close()
				b := make([]byte, 4096)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
				}
			})
		}
	})
}

// header is a listener that reads the first byte of a connection inside its
// Accept, as for a PROXY header.
type header struct{ net.Listener }

func (h header) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		c.Close()
	}
	return c, nil
}

// acceptWrapped accepts from ln with a header.
func (r *run) acceptWrapped(name string, ln net.Listener) {
	ln = header{ln}
	var conns []net.Conn
	r.background(name, func() error {
		defer func() {
			for _, c := range conns {
				c.Close()
			}
		}()
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
	})
}

// crowd leaves connections that have nothing wrong.
func (r *run) crowd(st *statement) error {
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	ln, err := r.listenerNamed(st.args[0])
	if err != nil {
		return err
	}
	for range n {
		c := tcptest.Connect(r, ln)
		s, err := ln.Accept()
		if err != nil {
			return err
		}
		r.others = append(r.others, s)
		if err := errors.Join(writeAll(c, 10), readExactly(s, 10), writeAll(s, 10), readExactly(c, 10)); err != nil {
			return err
		}
	}
	return r.settle()
}

func (r *run) listenerNamed(name string) (net.Listener, error) {
	if ln := r.listeners[name]; ln != nil {
		return ln, nil
	}
	return nil, fmt.Errorf("there is no listener %q", name)
}

func (r *run) accept(st *statement) error {
	ln, err := r.listenerNamed(st.args[1])
	if err != nil {
		return err
	}
	if d, ok := ln.(interface{ SetDeadline(time.Time) error }); ok {
		if err := d.SetDeadline(deadline()); err != nil {
			return err
		}
		defer d.SetDeadline(time.Time{})
	}
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	r.keep(st.args[0], c)
	return r.settle()
}

func (r *run) connect(st *statement) error {
	target := r.targets[st.args[1]]
	d := net.Dialer{Timeout: patience}
	d.SetMultipathTCP(false)
	if st.opts["small"] != "" {
		d.Control = tcptest.SmallBufferControl
	}
	if st.opts["deaf"] != "" {
		d.Control = tcptest.DeafControl
	}
	if st.opts["deaf"] != "" || st.opts["bg"] != "" {
		return r.dialLater(st.args[0], target, func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", target) }, &d)
	}
	c, err := d.Dial("tcp", target)
	if err != nil {
		return err
	}
	r.keep(st.args[0], c)
	return nil
}

// backgroundDial is a dial in the background.
type backgroundDial struct {
	cancel  context.CancelFunc
	sockets chan syscall.RawConn // of its attempts
	raw     syscall.RawConn
	done    chan struct{}
	conn    net.Conn // once done is closed
	err     error
}

// socket returns that of the first attempt.
func (d *backgroundDial) socket() (syscall.Conn, error) {
	if d.raw == nil {
		select {
		case d.raw = <-d.sockets:
		case <-time.After(tcptest.Deadline):
			return nil, errors.New("the dial has no socket")
		}
	}
	return tcptest.Raw(d.raw), nil
}

// dialLater runs dial, which uses nd, in the background.
func (r *run) dialLater(name, target string, dial func(context.Context) (net.Conn, error), nd *net.Dialer) error {
	ctx, cancel := context.WithCancel(context.Background())
	d := &backgroundDial{cancel: cancel, sockets: make(chan syscall.RawConn, 1), done: make(chan struct{})}
	before := nd.Control
	nd.Control = func(network, address string, c syscall.RawConn) error {
		if before != nil {
			if err := before(network, address, c); err != nil {
				return err
			}
		}
		select {
		case d.sockets <- c:
		default:
		}
		return nil
	}
	r.dials[name] = d
	r.wg.Go(func() {
		d.conn, d.err = dial(ctx)
		close(d.done)
	})
	r.Cleanup(func() {
		cancel()
		<-d.done
		if d.conn != nil {
			d.conn.Close()
		}
	})
	return nil
}

func (r *run) limitPorts(st *statement) error {
	n, err := r.number(st.args[0])
	if err != nil {
		return err
	}
	lo := 33000 + r.rng.IntN(25000) // the kernel accepts a part of the range of the machine (ip(7))
	r.ports = [2]uint16{uint16(lo), uint16(lo + n - 1)}
	r.clk.LimitPorts(lo, lo+n-1)
	return nil
}

func (r *run) dial(st *statement) error {
	name, target := st.args[0], r.targets[st.args[1]]
	d, err := r.dialerFor(st)
	if err != nil {
		return err
	}
	if st.opts["small"] != "" {
		d.NetDialer.Control = tcptest.SmallBufferControl
	}
	if st.opts["deaf"] != "" {
		d.NetDialer.Control = tcptest.DeafControl
	}
	if text := st.opts["ports"]; text != "" {
		other, err := r.tcp(text)
		if err != nil {
			return err
		}
		port := uint16(other.LocalAddr().(*net.TCPAddr).Port)
		d.NetDialer.Control = tcptest.PortRangeControl(port, port)
	}
	if text := st.opts["timeout"]; text != "" {
		if d.NetDialer.Timeout, err = time.ParseDuration(text); err != nil { // of the kernel's time
			return err
		}
	}
	if st.opts["bg"] != "" {
		dial := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", target) }
		if err := r.dialLater(name, target, dial, d.NetDialer); err != nil {
			return err
		}
		begun := r.dials[name].sockets
		return r.until("the dial", func() (bool, error) { return len(begun) > 0, nil }) // or the clock runs ahead
	}
	c, err := d.Dial("tcp", target)
	if err != nil {
		var ne net.Error
		timeout := st.opts["timeout"] != "" && errors.As(err, &ne) && ne.Timeout()
		noPort := (st.opts["ports"] != "" || r.ports[1] > 0) && errors.Is(err, unix.EADDRNOTAVAIL)
		if timeout || noPort || errors.Is(err, unix.ECONNREFUSED) {
			return nil // that is the scenario
		}
		return err
	}
	if st.opts["ports"] != "" {
		c.Close()
		return errors.New("the dial found a port")
	}
	r.keep(name, c)
	return r.settle()
}

func (r *run) dialNamed(name string) (*backgroundDial, error) {
	if d := r.dials[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("there is no dial %q", name)
}

func (r *run) endDial(st *statement) error {
	d, err := r.dialNamed(st.args[0])
	if err != nil {
		return err
	}
	d.cancel()
	<-d.done
	return nil
}

func (r *run) awaitDial(st *statement) error {
	d, err := r.dialNamed(st.args[0])
	if err != nil {
		return err
	}
	select {
	case <-d.done:
	case <-time.After(patience):
		return errors.New("the dial does not end")
	}
	if d.err != nil {
		return d.err
	}
	r.keep(st.args[0], d.conn)
	return nil
}

func (r *run) forget(st *statement) error {
	d, err := r.dialNamed(st.args[0])
	if err != nil {
		return err
	}
	<-d.done
	d.cancel() // whoever asked for it is gone
	return d.err
}

func (r *run) dead(st *statement) error {
	r.targets[st.args[0]] = tcptest.DeadListener(r)
	return nil
}

func (r *run) refused(st *statement) error {
	ln := tcptest.Listen(r)
	r.targets[st.args[0]] = ln.Addr().String()
	return ln.Close()
}

// other returns the end of this script that is the peer of name.
func (r *run) other(name string) *net.TCPConn {
	mine := r.addrs[name]
	for n, c := range r.conns {
		if a := r.addrs[n]; n != name && mine[0] != nil && a[0].String() == mine[1].String() && a[1].String() == mine[0].String() {
			return tcpOf(c)
		}
	}
	return nil
}

// noticed waits until the peer's kernel knows that name has sent a FIN or RST.
func (r *run) noticed(st *statement, name string) error {
	peer := r.other(name)
	if peer == nil || st.opts["quick"] != "" {
		return nil
	}
	if on, _ := peer.MultipathTCP(); on {
		return r.until("the FIN", func() (bool, error) {
			r.clk.Settle()
			w := r.tr.Of(peer)
			return w == nil || !w.Snapshot().PeerClosed.IsZero(), nil
		})
	}
	return r.until("the peer to know of the close", func() (bool, error) {
		i, err := tcpstate.ReadInfo(peer)
		if errors.Is(err, net.ErrClosed) {
			return true, nil
		}
		switch i.State {
		case tcpstate.Established, tcpstate.FinWait1, tcpstate.FinWait2:
			return false, err
		}
		return true, err
	})
}

func (r *run) closeIt(st *statement) error {
	name := st.args[0]
	if ln := r.listeners[name]; ln != nil {
		delete(r.listeners, name)
		return ln.Close()
	}
	c, err := r.conn(name)
	if err != nil {
		return err
	}
	dead := false
	if tc := tcpOf(c); tc != nil {
		i, err := tcpstate.ReadInfo(tc)
		dead = err == nil && i.State == tcpstate.Closed // it sends no FIN
	}
	if err := c.Close(); err != nil {
		return err
	}
	delete(r.conns, name)
	if dead {
		return nil
	}
	return r.noticed(st, name)
}

func (r *run) closeWrite(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	return r.noticed(st, st.args[0])
}

func (r *run) closeRead(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	return c.(interface{ CloseRead() error }).CloseRead()
}

func (r *run) reset(st *statement) error {
	tc, err := r.tcp(st.args[0])
	if err != nil {
		return err
	}
	peer := r.other(st.args[0])
	tcptest.Reset(r, tc)
	delete(r.conns, st.args[0])
	if peer != nil {
		tcptest.WaitState(r, peer, tcptest.Closed)
	}
	return nil
}

func (r *run) linger(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	return c.(interface{ SetLinger(int) error }).SetLinger(n)
}

func (r *run) drop(st *statement) error {
	if _, err := r.conn(st.args[0]); err != nil {
		return err
	}
	delete(r.conns, st.args[0])
	// The garbage collector comes when it likes.
	r.allowed = append(r.allowed, tcpstate.KindLeakCollected)
	return nil
}

func (r *run) gc(*statement) error {
	return r.until("the garbage collector", func() (bool, error) {
		runtime.GC()
		r.clk.Settle()
		return countKind(r.tr.Findings(), tcpstate.KindLeakCollected) > 0, nil
	})
}

func (r *run) dup(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	f, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return err
	}
	return f.Close()
}
