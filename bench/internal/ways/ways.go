package ways

import (
	"context"
	"fmt"
	"net"

	"github.com/mwitkow/go-conntrack"
	"storj.io/common/netutil"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
)

// A Way is how a program comes to its connections: plainly, with ours, or with
// what else there is.
type Way struct {
	Column string
	Ours   *Ours // nil for others
	Dial   dialer.DialFunc
	Wrap   func(net.Listener) net.Listener
	Ctx    context.Context // what it dials with
}

// Each returns all ways, plain first.
func Each(ctx context.Context) (all []*Way, closeAll func() error, err error) {
	ours, closeAll, err := All(ctx)
	if err != nil {
		return nil, nil, err
	}
	all = append(all, Plain(ctx))
	for _, o := range ours {
		all = append(all, o.Way())
	}
	return append(all, others(ctx)...), closeAll, nil
}

// netDialer dials without Multipath TCP, which is of no use here.
func netDialer() *net.Dialer {
	d := new(net.Dialer)
	d.SetMultipathTCP(false)
	return d
}

// Plain is package net.
func Plain(ctx context.Context) *Way {
	return &Way{
		Column: row.Plain, Ctx: ctx,
		Dial: netDialer().DialContext,
		Wrap: func(l net.Listener) net.Listener { return l },
	}
}

// Way returns how a program uses o: by the packages dialer and listener.
func (o *Ours) Way() *Way {
	d := dialer.Dialer{NetDialer: netDialer(), Tracker: o.Tracker, Name: Name}
	cfg := listener.Config{Tracker: o.Tracker, Name: Name}
	return &Way{
		Column: o.Column, Ours: o, Ctx: o.Context,
		Dial: d.DialContext,
		Wrap: func(l net.Listener) net.Listener { return cfg.Wrap(l) },
	}
}

// others are libraries that count connections: go-conntrack for Prometheus, and
// the leak detector of storj.
func others(ctx context.Context) []*Way {
	d := netDialer()
	return []*Way{
		{
			Column: "conntrack", Ctx: ctx,
			Dial: conntrack.NewDialContextFunc(conntrack.DialWithName(Name), conntrack.DialWithDialer(d)),
			Wrap: func(l net.Listener) net.Listener { return conntrack.NewListener(l, conntrack.TrackWithName(Name)) },
		},
		{
			Column: "storj", Ctx: ctx,
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := d.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return netutil.TrackClose(c), nil
			},
			Wrap: func(l net.Listener) net.Listener { return closeTracker{l} },
		},
	}
}

type closeTracker struct{ net.Listener }

func (l closeTracker) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return netutil.TrackClose(c), nil
}

// Listen listens plainly on loopback, without Multipath TCP.
func Listen(ctx context.Context) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// Accepted returns a connection accepted in this way and its plain client.
func (w *Way) Accepted(ctx context.Context) (conn net.Conn, client *net.TCPConn, err error) {
	l, err := Listen(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	c, err := netDialer().DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	if conn, err = w.Wrap(l).Accept(); err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("accept: %w", err)
	}
	return conn, c.(*net.TCPConn), nil
}

// Reset closes a connection without a trace in the kernel: neither end of
// thousands of them is left in TIME-WAIT.
func Reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // one that is closed already needs none
	_ = c.Close()
}

// Named returns the way of one column.
func Named(ctx context.Context, column string) (*Way, func() error, error) {
	none := func() error { return nil }
	if column == row.Plain {
		return Plain(ctx), none, nil
	}
	for _, w := range others(ctx) {
		if w.Column == column {
			return w, none, nil
		}
	}
	o, err := New(ctx, column)
	if err != nil {
		return nil, nil, err
	}
	return o.Way(), o.Close, nil
}
