package coderws

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server and its client, both watched.
type setup struct {
	t      *testing.T
	rig    *harness.Rig // the client's; its connections are called "feed"
	served *harness.Rig // the server's; its connections are called "sockets"
	path   *harness.Path
	srv    *harness.Program
	url    string
	base   *http.Transport
	client *http.Client
}

// both runs f with a server that lets handle have each websocket.
func both(t *testing.T, handle func(ctx context.Context, c *websocket.Conn), f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c, handle)) })
}

func newSetup(t *testing.T, certs *harness.Certs, handle func(ctx context.Context, c *websocket.Conn)) *setup {
	s := &setup{t: t, rig: harness.New(t), served: harness.New(t), base: &http.Transport{}, url: "ws://"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /feed", func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client has been told
		}
		defer conn.CloseNow()
		handle(r.Context(), conn)
	})
	s.srv = harness.NewProgram(t, func(ln net.Listener) func() {
		ctx, cancel := context.WithCancel(context.Background())
		srv := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
		if certs != nil {
			srv.TLSConfig = certs.Server.Clone()
		}
		cfg := &listener.Config{Tracker: s.served.Tracker, Name: "sockets"}
		return harness.Serving(func() error { return Serve(srv, cfg, ln) }, func() {
			cancel() // websockets are hijacked: the server no longer knows them
			srv.Close()
		})
	})
	s.path = harness.NewPath(t, s.srv.Addr())
	if certs != nil {
		s.url, s.base.TLSClientConfig = "wss://", certs.Client.Clone()
	}
	s.url += s.path.Addr() + "/feed"
	s.client = NewClient(s.rig.Dialer("feed"), s.base)
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// silent fails the test if either end has ever reported anything.
func (s *setup) silent() {
	s.t.Helper()
	s.rig.Silent(s.t)
	s.served.Silent(s.t)
}

// echo answers until the websocket ends, as a handler should.
func echo(ctx context.Context, c *websocket.Conn) {
	for {
		kind, b, err := c.Read(ctx)
		if err != nil {
			return
		}
		if err := c.Write(ctx, kind, b); err != nil {
			return
		}
	}
}

// talk says something and hears it again.
func talk(t *testing.T, c *websocket.Conn) {
	t.Helper()
	require.NoError(t, c.Write(t.Context(), websocket.MessageText, []byte("hello")))
	_, b, err := c.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		c, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		defer c.CloseNow()
		talk(t, c)
		require.Len(t, s.rig.Conns("feed"), 1)
		require.Len(t, s.served.Conns("sockets"), 1)
		s.silent() // a quiet websocket is a healthy one
		talk(t, c)
		s.srv.Restart(t)
		_, _, err = c.Read(t.Context())
		require.Error(t, err)
		require.NoError(t, c.CloseNow())
		s.rig.WaitGone(t, "feed")
		s.served.WaitGone(t, "sockets")

		again, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		talk(t, again)
		require.NoError(t, again.Close(websocket.StatusNormalClosure, ""))
		s.rig.WaitGone(t, "feed")
		s.served.WaitGone(t, "sockets")
		s.silent()
	})
}

// flood says more than anybody has asked for, until the client leaves or the
// server does.
func flood(ctx context.Context, c *websocket.Conn) {
	ctx = c.CloseRead(ctx)
	for c.Write(ctx, websocket.MessageText, []byte(strings.Repeat("x", 10_000))) == nil {
	}
}

// A read loop has come upon a message that it does not like, and returned.
func TestAWebsocketWhoseReadLoopEndedWithoutCloseIsFound(t *testing.T) {
	both(t, flood, func(t *testing.T, s *setup) {
		c, _, err := websocket.Dial(t.Context(), s.url, &websocket.DialOptions{HTTPClient: s.client}) // leak: read loop
		require.NoError(t, err)
		defer c.CloseNow()
		_, _, err = c.Read(t.Context())
		require.NoError(t, err)
		s.rig.Finds(t, tcpstate.KindLocalNotReading, "feed", "request", "read loop")
	})
}

// The library does not close the connection when it has read its end.
func TestAWebsocketThatNobodyClosesAfterItsEndIsFound(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		c, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		defer c.CloseNow()
		talk(t, c)
		s.path.FIN()
		_, _, err = c.Read(t.Context()) // leak: end
		require.Error(t, err)
		s.rig.Finds(t, tcpstate.KindCloseWaitEOFSeen, "feed", "eof", "end")
	})
}

func TestAWebsocketThatNobodyReadsIsFoundWhenTheServerEndsIt(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		c, _, err := websocket.Dial(t.Context(), s.url, &websocket.DialOptions{HTTPClient: s.client}) // leak: ended
		require.NoError(t, err)
		defer c.CloseNow()
		talk(t, c)
		s.path.FIN()
		s.rig.WaitState(t, "feed", tcpstate.CloseWait, 1)
		s.rig.Finds(t, tcpstate.KindCloseWaitNotReading, "feed", "request", "ended")
	})
}

// A handler that has stopped reading does not notice
// that its client has left. websocket.Conn.CloseRead would have told it.
func TestAHandlerThatNeverReadsIsFoundWhenItsClientLeaves(t *testing.T) {
	once := func(ctx context.Context, c *websocket.Conn) {
		if typ, b, err := c.Read(ctx); err == nil {
			_ = c.Write(ctx, typ, b)
		}
		<-ctx.Done()
	}
	both(t, once, func(t *testing.T, s *setup) {
		c, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		talk(t, c) // what is left unread would make of its FIN an RST
		require.NoError(t, c.CloseNow())
		got := s.served.Finds(t, tcpstate.KindCloseWaitNotReading, "sockets", "", "")
		require.Equal(t, "GET /feed", got.Subject.Use)
	})
}

// The library has no ping of its own accord; that which a program sends every
// so often finds a server that is silent.
func TestAPingFindsASilentServer(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		c, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		defer c.CloseNow()
		ended := c.CloseRead(t.Context())
		require.NoError(t, c.Ping(t.Context()))
		s.path.Stall()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, c.Ping(ctx), context.DeadlineExceeded)
		require.NoError(t, c.CloseNow())
		<-ended.Done()
		s.path.Flow()
		s.rig.WaitGone(t, "feed")
		s.served.WaitGone(t, "sockets")
		s.silent()
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheTransportsOwnDialer(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		own, want := harness.NetDialer()
		s.base.DialContext = own.DialContext
		c, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		defer c.CloseNow()
		require.Len(t, s.rig.Conns("feed"), 1)
		require.Equal(t, want, s.path.Links()[0].Options(t))
	})
}

// Both ends see the close code of the other, and the TCP connection ends after
// that.
func TestTheCloseHandshakeGoesThrough(t *testing.T) {
	heard := make(chan error, 2)
	both(t, func(ctx context.Context, c *websocket.Conn) {
		_, _, err := c.Read(ctx)
		heard <- err
	}, func(t *testing.T, s *setup) {
		c, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		require.NoError(t, c.Close(websocket.StatusGoingAway, "bye"))
		var said websocket.CloseError
		require.True(t, errors.As(<-heard, &said))
		require.Equal(t, websocket.CloseError{Code: websocket.StatusGoingAway, Reason: "bye"}, said)
		s.rig.WaitGone(t, "feed")
		s.served.WaitGone(t, "sockets")
		s.silent()
	})
}

// So does TLS: of whichever way to close.
func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12(), echo)
	for _, end := range []func(c *websocket.Conn) error{
		(*websocket.Conn).CloseNow,
		func(c *websocket.Conn) error { return c.Close(websocket.StatusNormalClosure, "") },
	} {
		c, err := Dial(t.Context(), s.client, s.url)
		require.NoError(t, err)
		talk(t, c)
		require.NoError(t, end(c))
		s.path.Announced(t)
	}
	s.silent()
}
