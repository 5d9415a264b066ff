package tcpstate_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// gotten dials with a context that ends as soon as the dial does, as that of
// callers who write defer cancel().
func (r *rig) gotten(x tcpstate.Expect) (c *tcpstate.Conn, server *net.TCPConn) {
	r.Helper()
	ln := tcptest.Listen(r)
	ctx, cancel := context.WithCancel(r.Context())
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "db", Expect: x}
	conn, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	require.NoError(r, err)
	server, err = ln.AcceptTCP()
	require.NoError(r, err)
	r.Cleanup(func() { conn.Close(); tcptest.Reset(r, server) })
	cancel()
	return conn.(*tcpstate.Conn), server
}

func TestADialedConnectionThatNobodyUsesIsReported(t *testing.T) {
	r := newRig(t)
	c, server := r.gotten(tcpstate.Expect{})
	r.clk.Advance(29 * time.Second)
	r.silent()
	r.clk.Advance(15 * time.Second) // the end of the context is noticed by a sweep
	f := r.one(tcpstate.KindLeakUnusedDial)
	require.Equal(t, "dial", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "rig).gotten")
	require.Contains(t, f.Summary, "never read and never written")

	r.say(c, "hello", server)
	r.clk.Advance(3 * time.Second)
	require.Empty(t, r.tr.Findings(), "somebody uses it after all")
	r.clk.Advance(10 * time.Minute)
	require.Empty(t, r.tr.Findings())
}

func TestAnUnusedConnectionWhosePeerSpeaksFirstIsReported(t *testing.T) {
	r := newRig(t)
	_, server := r.gotten(tcpstate.Expect{Ignore: []tcpstate.Kind{"local"}})
	_, err := io.WriteString(server, "220 mail.example ESMTP\r\n")
	require.NoError(t, err)
	r.clk.Advance(45 * time.Second)
	require.Contains(t, r.one(tcpstate.KindLeakUnusedDial).Summary, "24 bytes wait unread")
}

func TestADialedConnectionThatSomebodyHasIsNotReported(t *testing.T) {
	for name, use := range map[string]func(r *rig, c *tcpstate.Conn, server *net.TCPConn){
		"written": func(r *rig, c *tcpstate.Conn, server *net.TCPConn) { r.say(c, "hello", server) },
		"read":    func(r *rig, c *tcpstate.Conn, server *net.TCPConn) { r.say(server, "hello", c) },
		"read by a goroutine that waits": func(r *rig, c *tcpstate.Conn, _ *net.TCPConn) {
			var wg sync.WaitGroup
			wg.Go(func() { c.Read(make([]byte, 1)) })
			r.Cleanup(func() { c.Close(); wg.Wait() })
			tcptest.WaitUntil(r, "the reader", func() bool { return tcpstate.EverRead(c) })
		},
		"in a use": func(r *rig, c *tcpstate.Conn, _ *net.TCPConn) {
			r.Cleanup(c.Watch().Use(r.Context(), tcpstate.Use{Name: "q"}))
		},
		"used before":   func(r *rig, c *tcpstate.Conn, _ *net.TCPConn) { c.Watch().Use(r.Context(), tcpstate.Use{Name: "q"})() },
		"by its socket": func(_ *rig, c *tcpstate.Conn, _ *net.TCPConn) { c.SyscallConn() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c, server := r.gotten(tcpstate.Expect{Ignore: []tcpstate.Kind{"idle", "keepalive"}})
			use(r, c, server)
			r.clk.Advance(10 * time.Minute)
			r.silent()
		})
	}
	for name, x := range map[string]tcpstate.Expect{
		"pooled": {Pooled: true}, "long-lived": {LongLived: true}, "ignored": {Ignore: []tcpstate.Kind{"leak"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.gotten(x)
			r.clk.Advance(time.Minute)
			r.silent()
		})
	}
	t.Run("a context that goes on", func(t *testing.T) {
		r := newRig(t)
		ln := tcptest.Listen(t)
		c, err := (&dialer.Dialer{NetDialer: plain(), Tracker: r.tr}).Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		c2, err := (&dialer.Dialer{NetDialer: plain(), Tracker: r.tr}).DialContext(ctx, "tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c2.Close()
		r.clk.Advance(time.Minute)
		r.silent()
		cancel()
	})
	t.Run("plain", func(t *testing.T) {
		r := newRig(t)
		ln := tcptest.Listen(t)
		ctx, cancel := context.WithCancel(t.Context())
		c, err := (&dialer.Dialer{NetDialer: plain(), Tracker: r.tr, NoWrap: true}).DialContext(ctx, "tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		cancel()
		r.clk.Advance(time.Minute)
		r.silent() // whoever reads it is not seen
	})
}

func TestATLSHandshakeThatGetsNoAnswerIsReported(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "db"}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var err error
	wg.Go(func() {
		_, err = d.DialTLS(ctx, "tcp", ln.Addr().String(), new(tls.Config))
	})
	defer wg.Wait()
	defer cancel()
	mute, aerr := ln.AcceptTCP()
	require.NoError(t, aerr)
	defer mute.Close()
	tcptest.WaitUntil(t, "the ClientHello to be acknowledged", func() bool {
		for s := range r.tr.Conns() {
			return s.Info.BytesSent > 0 && s.SendQueue == 0
		}
		return false
	})
	r.clk.Advance(10 * time.Second)
	r.silent()
	r.clk.Advance(3 * time.Second)
	f := r.one(tcpstate.KindHandshakeStalled)
	require.Contains(t, f.Summary, "the TLS handshake has lasted for 1")
	require.Contains(t, f.Summary, "the server has not sent a byte")
	cancel()
	wg.Wait()
	require.ErrorIs(t, err, context.Canceled)
	tcptest.WaitUntil(t, "crypto/tls to close the connection", func() bool { return len(r.tr.Findings()) == 0 })
}

func TestAHandshakeThatMovesIsNotReported(t *testing.T) {
	r := newRig(t)
	c, server := r.dialed(tcpstate.Expect{Ignore: []tcpstate.Kind{"local", "idle", "keepalive"}})
	defer c.Close()
	done := c.Watch().Handshaking("ssh")
	for range 20 {
		r.clk.Advance(3 * time.Second)
		r.say(server, "x", c)
	}
	r.silent()
	r.clk.Advance(9 * time.Second)
	f := r.one(tcpstate.KindHandshakeStalled)
	require.Contains(t, f.Summary, "ssh handshake")
	done(nil)
	done(nil)
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings(), "it got on in the end")
	r.clk.Advance(time.Minute)
	require.Empty(t, r.tr.Findings())
}

func TestAHandshakeWithASlowServerIsNotReported(t *testing.T) {
	r := newRig(t)
	c, _ := r.dialed(tcpstate.Expect{Ignore: []tcpstate.Kind{"idle", "keepalive"}})
	defer c.Close()
	for range 3 {
		done := c.Watch().Handshaking(tcpstate.ProtocolTLS)
		r.clk.Advance(2 * time.Second)
		done(nil)
	}
	r.clk.Advance(time.Minute)
	r.silent()
	c.Watch().Handshaking(tcpstate.ProtocolTLS) // nobody says how it ends
	require.NoError(t, c.Close())
	r.clk.Advance(time.Minute)
	r.silent()
	var none *tcpstate.Watch
	none.Handshaking("ssh")(nil)
}

func TestObserversAreToldOfHandshakes(t *testing.T) {
	tr, clk := clockedTracker(t)
	got := make(chan tcpstate.HandshakeInfo, 10)
	stop := tr.Observe(&tcpstate.Observer{HandshakeDone: func(h tcpstate.HandshakeInfo) { got <- h }})
	client, server := tcptest.Pair(t)
	defer client.Close()
	conn := tr.Track(server, tcpstate.Origin{Role: tcpstate.Server, Name: "api", Target: ":443"})
	defer conn.Close()
	done := conn.Watch().Handshaking(tcpstate.ProtocolTLS)
	clk.Advance(3 * time.Second)
	done(io.EOF)
	done(nil)
	stop()
	h := <-got
	require.Empty(t, got)
	require.Equal(t, io.EOF, h.Err)
	require.Equal(t, 3*time.Second, h.End.Sub(h.Start))
	require.Equal(t, conn.Watch().ID(), h.ID)
	require.Equal(t, tcpstate.Server, h.Role)
	require.Equal(t, "api", h.Name)
	require.Equal(t, ":443", h.Target)
	require.Equal(t, tcpstate.ProtocolTLS, h.Protocol)
	require.Equal(t, conn.RemoteAddr(), h.Remote)
}
