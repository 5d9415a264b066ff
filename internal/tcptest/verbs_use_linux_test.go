package tcptest_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Verbs that tell the tracker something, and those of TLS.

func useVerbs() map[string]*verb {
	return map[string]*verb{
		"use":       {"U C: begins a use of C", 2, 2, "method= name= deadline= pooled halfclose longlived silence= heartbeat= ignore=", "", (*run).use},
		"unuse":     {"U: ends it", 1, 1, "", "", (*run).unuse},
		"declare":   {"C: declares what is normal from now on", 1, 1, "pooled halfclose longlived silence= heartbeat= ignore=", "", (*run).declare},
		"undeclare": {"C: takes the declaration back", 1, 1, "", "", (*run).undeclare},
		"probe":     {"C: asks the peer for a sign of life; dead: there must be none", 1, 1, "dead", "", (*run).probe},
		"alive":     {"C: tells that the peer was proved alive", 1, 1, "", "", (*run).alive},
		"drain":     {"L: declares that the listener pauses on purpose", 1, 1, "", "", (*run).drain},
		"tunnel":    {"T A B: tells that A and B are the two legs of one tunnel", 3, 3, "", "", (*run).tunnel},
		"pair":      {"UP DOWN: tells that UP is used for DOWN", 2, 2, "", "", (*run).pairUp},

		"dbpool": {"B L: a pool of tracked connections to L, at most max", 2, 2, "max=" + originOpts, "", (*run).dbPool},
		"borrow": {"C B: takes a connection from B; bg: waits for one", 2, 2, "bg longlived silence=", "", (*run).borrow},
		"return": {"C: gives it back", 1, 1, "", "", (*run).giveBack},

		"dialtls":   {"C L: a tracked dial with a TLS handshake, in the background", 2, 2, "timeout=" + originOpts, "", (*run).dialTLS},
		"tlsaccept": {"S L: accepts and makes the handshake in the background; drip: sends only what drip lets through", 2, 2, "drip", "", (*run).tlsAccept},
		"drip":      {"S N: lets N bytes of the handshake through", 2, 2, "", "", (*run).drip},
		"flow":      {"S: lets everything through", 1, 1, "", "", (*run).flow},
	}
}

func (r *run) use(st *statement) error {
	w, err := r.watch(st.args[1])
	if err != nil {
		return err
	}
	x, err := r.expectOf(st)
	if err != nil {
		return err
	}
	ctx, err := r.context(st)
	if err != nil {
		return err
	}
	r.uses[st.args[0]] = w.Use(ctx, tcpstate.Use{Method: st.opts["method"], Name: st.opts["name"], Expect: x})
	return nil
}

func (r *run) unuse(st *statement) error {
	done := r.uses[st.args[0]]
	if done == nil {
		return fmt.Errorf("there is no use %q", st.args[0])
	}
	done()
	return nil
}

func (r *run) declare(st *statement) error {
	w, err := r.watch(st.args[0])
	if err != nil {
		return err
	}
	x, err := r.expectOf(st)
	if err != nil {
		return err
	}
	r.restores[st.args[0]] = w.Expect(x)
	return nil
}

func (r *run) undeclare(st *statement) error {
	restore := r.restores[st.args[0]]
	if restore == nil {
		return fmt.Errorf("nothing is declared of %q", st.args[0])
	}
	restore()
	return nil
}

func (r *run) probe(st *statement) error {
	w, err := r.watch(st.args[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	got := w.Probe(ctx)
	if dead, alive := st.opts["dead"] != "", got.Outcome == tcpstate.ProbeAlive; dead == alive {
		return fmt.Errorf("probed: %+v", got)
	}
	return nil
}

func (r *run) alive(st *statement) error {
	w, err := r.watch(st.args[0])
	if err != nil {
		return err
	}
	w.Alive()
	return nil
}

func (r *run) drain(st *statement) error {
	ln, err := r.listenerNamed(st.args[0])
	if err != nil {
		return err
	}
	l, ok := ln.(*listener.Listener)
	if !ok {
		return fmt.Errorf("%T is no listener of ours", ln)
	}
	l.Drain()
	return nil
}

func (r *run) tunnel(st *statement) error { return r.pairing(st.args[0], st.args[1], st.args[2]) }

func (r *run) pairUp(st *statement) error { return r.pairing(st.args[0], st.args[1], st.args[0]) }

func (r *run) pairing(name, a, b string) error {
	first, err := r.conn(a)
	if err != nil {
		return err
	}
	second, err := r.conn(b)
	if err != nil {
		return err
	}
	tcpstate.Pair(first, second)
	return nil
}

func (r *run) dbPool(st *statement) error {
	name, x, _, err := r.origin(st, "db")
	if err != nil {
		return err
	}
	limit, err := r.number(st.opts["max"])
	if err != nil {
		return err
	}
	r.pools[st.args[0]] = newDBPool(r, r.targets[st.args[1]], name, limit, x)
	return nil
}

func (r *run) borrow(st *statement) error {
	p := r.pools[st.args[1]]
	if p == nil {
		return fmt.Errorf("there is no pool %q", st.args[1])
	}
	ctx := r.Context()
	if x, err := r.expectOf(st); err != nil {
		return err
	} else {
		ctx = tcpstate.WithUse(ctx, tcpstate.Use{Name: "query", Expect: x})
	}
	if st.opts["bg"] != "" {
		r.background(st.args[0], func() error {
			c, err := p.get(ctx)
			if err == nil {
				c.Close()
			}
			return nil
		})
		return nil
	}
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	r.keep(st.args[0], c)
	return nil
}

func (r *run) giveBack(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	delete(r.conns, st.args[0])
	return c.Close()
}

func (r *run) dialTLS(st *statement) error {
	d, err := r.dialerFor(st)
	if err != nil {
		return err
	}
	d.NetDialer.Timeout = 0
	_, config := r.tlsConfigs()
	target := r.targets[st.args[1]]
	return r.dialLater(st.args[0], target, func(ctx context.Context) (net.Conn, error) {
		c, err := d.DialTLS(ctx, "tcp", target, config)
		if c == nil {
			return nil, err // not a nil *tls.Conn
		}
		return c, err
	}, d.NetDialer)
}

// tlsConfigs returns those of the run.
func (r *run) tlsConfigs() (server, client *tls.Config) {
	if r.tlsServer == nil {
		r.tlsServer, r.tlsClient = tcptest.TLSConfigs(r)
	}
	return r.tlsServer, r.tlsClient
}

// dripConn writes only as much as it was told to.
type dripConn struct {
	net.Conn
	mu   sync.Mutex // guards left and cond
	cond *sync.Cond
	left int
	all  bool
}

func newDripConn(c net.Conn) *dripConn {
	d := &dripConn{Conn: c}
	d.cond = sync.NewCond(&d.mu)
	return d
}

// NetConn returns the connection below.
func (d *dripConn) NetConn() net.Conn { return d.Conn }

func (d *dripConn) Write(b []byte) (n int, err error) {
	for n < len(b) {
		d.mu.Lock()
		for d.left == 0 && !d.all {
			d.cond.Wait()
		}
		k := len(b) - n
		if !d.all {
			k = min(k, d.left)
			d.left -= k
		}
		d.mu.Unlock()
		m, err := d.Conn.Write(b[n : n+k])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (d *dripConn) drip(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left += n
	d.cond.Broadcast()
}

func (d *dripConn) flow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = true
	d.cond.Broadcast()
}

func (r *run) tlsAccept(st *statement) error {
	name := st.args[0]
	ln, err := r.listenerNamed(st.args[1])
	if err != nil {
		return err
	}
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	below := c
	if st.opts["drip"] != "" {
		d := newDripConn(c)
		r.drips[name] = d
		below = d
	}
	config, _ := r.tlsConfigs()
	conn := tls.Server(below, config)
	r.keep(name, conn)
	ctx := r.Context()
	r.background(name, func() error { return conn.HandshakeContext(ctx) })
	return nil
}

func (r *run) drip(st *statement) error {
	d := r.drips[st.args[0]]
	if d == nil {
		return fmt.Errorf("%q does not drip", st.args[0])
	}
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	d.drip(n)
	return nil
}

func (r *run) flow(st *statement) error {
	d := r.drips[st.args[0]]
	if d == nil {
		return fmt.Errorf("%q does not drip", st.args[0])
	}
	d.flow()
	return nil
}
