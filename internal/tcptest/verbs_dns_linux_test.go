package tcptest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

// Verbs of names and of hosts with two families.

func dnsVerbs() map[string]*verb {
	return map[string]*verb{
		"host":     {"N: a name with an IPv6 and an IPv4 address, at both of which somebody accepts; dead6: the IPv6 address loses every SYN; hold: the name server waits for names", 1, 1, "dead6 hold", "", (*run).host},
		"names":    {"N: the name server answers", 1, 1, "", "", (*run).names},
		"dialhost": {"C N: a tracked dial of a host", 2, 2, "bg timeout=" + originOpts, "", (*run).dialHost},
	}
}

// host is a name and who answers for it.
type host struct {
	resolver *net.Resolver
	port     string
	hold     chan struct{} // closed when the name server may answer
	asked    atomic.Bool   // the name server was
}

func (r *run) host(st *statement) error {
	six, four, port, err := r.bothFamilies()
	if err != nil {
		return err
	}
	name := st.args[0]
	r.listeners[name+" 6"], r.listeners[name+" 4"] = six, four
	if st.opts["dead6"] != "" {
		tcptest.Deafen(r, six)
	}
	for _, ln := range []net.Listener{six, four} {
		r.acceptAll(name+" "+ln.Addr().String(), ln)
	}
	h := &host{port: port, hold: make(chan struct{})}
	if st.opts["hold"] == "" {
		close(h.hold)
	}
	h.resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		r.wg.Go(func() { h.serve(theirs, r.Context().Done()) })
		return ours, nil
	}}
	r.hosts[name] = h
	return nil
}

// bothFamilies listens on one port of both loopback addresses.
func (r *run) bothFamilies() (six *net.TCPListener, four net.Listener, port string, err error) {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	for range 20 { // what is free in one family may be taken in the other
		six = tcptest.Listen(r, tcptest.IPv6())
		if _, port, err = net.SplitHostPort(six.Addr().String()); err != nil {
			return nil, nil, "", err
		}
		if four, err = lc.Listen(r.Context(), "tcp4", "127.0.0.1:"+port); err == nil {
			return six, four, port, nil
		}
		six.Close()
	}
	return nil, nil, "", err
}

// serve answers queries over c, in the form that TCP has: every name has both
// loopback addresses.
func (h *host) serve(c net.Conn, done <-chan struct{}) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var length [2]byte
	for {
		if _, err := c.Read(length[:]); err != nil {
			return
		}
		b := make([]byte, int(length[0])<<8|int(length[1]))
		if _, err := c.Read(b); err != nil {
			return
		}
		h.asked.Store(true)
		select {
		case <-h.hold:
		case <-done:
			return
		}
		answer, err := answerTo(b)
		if err != nil {
			return
		}
		if _, err := c.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)); err != nil {
			return
		}
	}
}

func answerTo(query []byte) ([]byte, error) {
	var q dnsmessage.Message
	if err := q.Unpack(query); err != nil || len(q.Questions) == 0 {
		return nil, errors.Join(err, errors.New("no question"))
	}
	question := q.Questions[0]
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true},
		Questions: q.Questions,
	}
	head := dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class, TTL: 60}
	switch question.Type {
	case dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: netip.MustParseAddr("127.0.0.1").As4()}}}
	case dnsmessage.TypeAAAA:
		m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AAAAResource{AAAA: netip.IPv6Loopback().As16()}}}
	}
	return m.Pack()
}

func (r *run) names(st *statement) error {
	h := r.hosts[st.args[0]]
	if h == nil {
		return fmt.Errorf("there is no host %q", st.args[0])
	}
	close(h.hold)
	return nil
}

func (r *run) dialHost(st *statement) error {
	name, h := st.args[0], r.hosts[st.args[1]]
	if h == nil {
		return fmt.Errorf("there is no host %q", st.args[1])
	}
	d, err := r.dialerFor(st)
	if err != nil {
		return err
	}
	d.NetDialer.Resolver = h.resolver
	if text := st.opts["timeout"]; text != "" {
		if d.NetDialer.Timeout, err = time.ParseDuration(text); err != nil {
			return err
		}
	}
	target := net.JoinHostPort(st.args[1]+".test", h.port)
	dial := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", target) }
	if st.opts["bg"] != "" {
		if err := r.dialLater(name, target, dial, d.NetDialer); err != nil {
			return err
		}
		return r.until("the question", func() (bool, error) { return h.asked.Load(), nil }) // or the clock runs ahead
	}
	c, err := dial(r.Context())
	if err != nil {
		if st.opts["timeout"] != "" {
			return nil // that is the scenario
		}
		return err
	}
	r.keep(name, c)
	return r.settle()
}
