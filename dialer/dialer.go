// Package dialer dials like net.Dialer and tracks what it dialed, so that a
// connection that leaks or gets stuck is reported with the line that dialed it.
package dialer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Dialer dials as NetDialer does and returns tracked connections. The zero
// value dials like the zero net.Dialer and tracks with tcpstate.Default.
//
// Errors are those of the dialer below, unchanged. Connections that are not
// TCP come back untouched. The methods may be called concurrently; the fields
// must not change meanwhile.
type Dialer struct {
	// NetDialer does the dialing. Nil means the zero net.Dialer. Its Control
	// hooks are called as before.
	NetDialer *net.Dialer

	// Tracker watches the connections. Nil means tcpstate.Default().
	Tracker *tcpstate.Tracker

	// Name is the name of these connections in reports and metrics:
	// "payments", "cache". It should say what is at the other end.
	Name string

	// Expect declares what is normal for these connections.
	Expect tcpstate.Expect

	// NoWrap returns the plain *net.TCPConn, for clients that assert the type
	// (gRPC, MySQL). Reads of the application are then not seen: a finding
	// cannot say who read the end of the stream.
	NoWrap bool

	// DetectWithin is the time in which the kernel finds out that the peer or
	// the path to it is dead, and ends the connection with ETIMEDOUT, whether it
	// is idle or writing. Zero and less leave the sockets as they are. Less than
	// 2s is 2s, more than a day is a day. Below 5s it may take a little longer,
	// and below 4s one or two lost packets end the connection.
	//
	// It sets keepalive and, on Linux, TCP_USER_TIMEOUT (tcp(7)) after the dial,
	// which keeps its own time limit. A peer that lives but does not read is
	// given up as well, once its window has been closed for that long. A
	// keepalive configured in NetDialer stays as it is; TCP_USER_TIMEOUT is then
	// longer where a single lost probe would be fatal. Multipath TCP and systems
	// beyond Linux have keepalive only, which ends idle connections. What the
	// system refuses is left out, and no error.
	DetectWithin time.Duration
}

// Dial connects to address, as net.Dialer.Dial does.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to address, as net.Dialer.DialContext does. A TCP
// connection is returned as a *tcpstate.Conn, or with NoWrap as the
// *net.TCPConn it is.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dialing := d.begin(ctx, network, address)
	hooks, to := dialing.Hooks(), destinationOf(address)
	ctx = dialing.Context(ctx)
	if hooks.Trace && to == destinationName {
		ctx = traced(ctx, dialing)
	}
	var nd net.Dialer
	if d.NetDialer != nil {
		nd = *d.NetDialer
	}
	if hooks.Control {
		hook(&nd)
	}
	if !nd.MultipathTCP() {
		dialing.SinglePath()
	}
	if to == destinationAddress {
		nd.FallbackDelay = -1 // there is no other family to fall back to: net need not sort
	}
	conn, err := nd.DialContext(ctx, network, address)
	if err == nil {
		d.detect(conn)
	}
	return dialing.Done(conn, err, !d.NoWrap), err
}

// DialTLS connects to address and makes a TLS handshake, as tls.Dialer does: a
// config without ServerName gets it from address, and a connection whose
// handshake fails is closed.
func (d *Dialer) DialTLS(ctx context.Context, network, address string, config *tls.Config) (*tls.Conn, error) {
	if nd := d.NetDialer; nd != nil && nd.Timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, nd.Timeout)
		defer cancel()
	}
	if nd := d.NetDialer; nd != nil && !nd.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, nd.Deadline)
		defer cancel()
	}
	raw, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = address
		if port := strings.LastIndexByte(address, ':'); port >= 0 {
			config.ServerName = address[:port]
		}
	}
	conn := tls.Client(raw, config)
	done := d.watch(raw).Handshaking(tcpstate.ProtocolTLS)
	err = conn.HandshakeContext(ctx)
	done(err)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

func (d *Dialer) watch(c net.Conn) *tcpstate.Watch {
	if tc, ok := c.(*tcpstate.Conn); ok {
		return tc.Watch()
	}
	return d.tracker().Of(c)
}

func (d *Dialer) tracker() *tcpstate.Tracker {
	if d.Tracker != nil {
		return d.Tracker
	}
	return tcpstate.Default()
}

// DialFunc is the form in which most clients take a dialer.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// Wrap returns a dial function that dials with dial and tracks the result, for
// a client that has its own idea of how to dial: its timeouts, proxies and TLS
// stay. Where dial returns a wrapper of a TCP connection that tells so by a
// NetConn method, like *tls.Conn, the connection below is watched and the
// result is returned as it is.
//
// A dial in progress is then known only by what package net tells through the
// context: names and addresses. How often a SYN was sent is not, so that a dial
// without an answer is reported a second later.
func (d *Dialer) Wrap(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		dialing := d.begin(ctx, network, address)
		ctx = dialing.KeptContext(ctx)
		if dialing.Hooks().Trace {
			ctx = traced(ctx, dialing)
		}
		returned := false
		defer endUnless(&returned, dialing)
		conn, err := dial(ctx, network, address)
		returned = true
		if err == nil {
			d.detect(conn)
		}
		return dialing.Done(conn, err, !d.NoWrap), err
	}
}

// endUnless ends a dial that has not returned: it has panicked, or ended its
// goroutine.
func endUnless(returned *bool, dialing *tcpstate.Dialing) {
	if !*returned {
		dialing.Done(nil, errNotReturned, false)
	}
}

var errNotReturned = errors.New("the dial did not return")

func (d *Dialer) begin(ctx context.Context, network, address string) *tcpstate.Dialing {
	return d.tracker().BeginDial(ctx, network, tcpstate.Origin{Name: d.Name, Target: address, Expect: d.Expect})
}
