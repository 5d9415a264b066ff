package dialer_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// tlsListen echoes over TLS until the test ends. The returned configuration
// trusts its certificate and names no server.
func tlsListen(t *testing.T) (address string, client *tls.Config) {
	t.Helper()
	server, client := tcptest.TLSConfigs(t)
	client.ServerName = ""
	ln := tcptest.Listen(t)
	done := make(chan struct{})
	conns := make(chan struct{}, 100)
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- struct{}{}
			go func() {
				defer func() { <-conns }()
				defer c.Close()
				tc := tls.Server(c, server)
				io.Copy(tc, tc)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		tcptest.WaitUntil(t, "the server's connections to end", func() bool { return len(conns) == 0 })
	})
	return ln.Addr().String(), client
}

func TestDialTLSMakesAVerifiedConnectionThatIsTracked(t *testing.T) {
	addr, config := tlsListen(t)
	_, port, _ := net.SplitHostPort(addr)
	for _, host := range []string{"127.0.0.1", "localhost"} {
		address := net.JoinHostPort(host, port)
		want, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", address)
		require.NoError(t, err)
		defer want.Close()

		d := dialer.Dialer{Tracker: leaktest.Tracker(t), Name: "secure"}
		conn, err := d.DialTLS(t.Context(), "tcp", address, config)
		require.NoError(t, err)
		defer conn.Close()
		state := conn.ConnectionState()
		require.True(t, state.HandshakeComplete)
		require.Equal(t, want.(*tls.Conn).ConnectionState().ServerName, state.ServerName)
		require.Empty(t, config.ServerName, "the configuration is the caller's")
		require.IsType(t, (*tcpstate.Conn)(nil), conn.NetConn())
		require.Equal(t, "secure", d.Tracker.Of(conn).Snapshot().Name)
		require.Equal(t, address, d.Tracker.Of(conn).Snapshot().Target)

		_, err = io.WriteString(conn, "ping")
		require.NoError(t, err)
		got := make([]byte, 4)
		_, err = io.ReadFull(conn, got)
		require.NoError(t, err)
		require.Equal(t, "ping", string(got))
	}
}

func TestDialTLSAsksForTheServerThatTLSDialerAsksFor(t *testing.T) {
	// The answer is always a failure, so it shows what was asked for.
	asked := make(chan string, 1)
	refuse := errors.New("seen enough")
	config := func() *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
			asked <- s.ServerName
			return refuse
		}}
	}
	addr, _ := tlsListen(t)
	_, port, _ := net.SplitHostPort(addr)
	for _, host := range []string{"127.0.0.1", "localhost", "::ffff:127.0.0.1"} {
		address := net.JoinHostPort(host, port)
		_, want := (&tls.Dialer{Config: config()}).DialContext(t.Context(), "tcp", address)
		require.ErrorIs(t, want, refuse)
		name := <-asked
		d := dialer.Dialer{Tracker: leaktest.Tracker(t)}
		_, got := d.DialTLS(t.Context(), "tcp", address, config())
		require.Equal(t, chain(want), chain(got))
		require.Equal(t, name, <-asked)
	}
}

func TestDialTLSFailsAsTLSDialerDoesAndClosesTheConnection(t *testing.T) {
	addr, trusted := tlsListen(t)
	mute := listen(t, "tcp", "127.0.0.1:0").String()
	wrongName := trusted.Clone()
	wrongName.ServerName = "example.com"
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name   string
		nd     *net.Dialer
		ctx    func() (context.Context, context.CancelFunc)
		addr   string
		config *tls.Config
	}{
		{"unknown authority", nil, nil, addr, nil},
		{"wrong name", nil, nil, addr, wrongName},
		{"version", nil, nil, addr, &tls.Config{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}},
		{"no answer before Timeout", &net.Dialer{Timeout: time.Second}, nil, mute, nil},
		{"no answer before Deadline", &net.Dialer{Deadline: time.Now().Add(50 * time.Millisecond)}, nil, mute, nil},
		{"no answer before the deadline of the context", nil, func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), time.Second) // the dial comes first
		}, mute, nil},
		{"cancelled", nil, func() (context.Context, context.CancelFunc) { return cancelled, func() {} }, addr, trusted},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := func() (context.Context, context.CancelFunc) { return t.Context(), func() {} }
			if c.ctx != nil {
				ctx = c.ctx
			}
			wantCtx, cancel := ctx()
			defer cancel()
			_, want := (&tls.Dialer{NetDialer: c.nd, Config: c.config}).DialContext(wantCtx, "tcp", c.addr)
			require.Error(t, want)

			d := dialer.Dialer{Tracker: leaktest.Tracker(t), NetDialer: c.nd}
			gotCtx, cancel := ctx()
			defer cancel()
			conn, got := d.DialTLS(gotCtx, "tcp", c.addr, c.config)
			require.Nil(t, conn)
			require.Equal(t, chain(want), chain(got))
			// crypto/tls may close it on a goroutine of its own.
			tcptest.WaitUntil(t, "the connection to be closed", func() bool { return d.Tracker.Stats().Open == 0 })
			require.LessOrEqual(t, d.Tracker.Stats().Opened, uint64(1))
		})
	}
}

func TestDialTLSWithNoWrapHasThePlainConnectionBelow(t *testing.T) {
	addr, config := tlsListen(t)
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), NoWrap: true}
	conn, err := d.DialTLS(t.Context(), "tcp", addr, config)
	require.NoError(t, err)
	defer conn.Close()
	require.IsType(t, (*net.TCPConn)(nil), conn.NetConn())
	require.NotNil(t, d.Tracker.Of(conn))
}
