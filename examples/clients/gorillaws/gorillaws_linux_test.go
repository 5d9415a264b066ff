package gorillaws

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
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
	srv    *server
	certs  *harness.Certs // nil: plain
	url    string
	base   websocket.Dialer
}

// server lets handle have each websocket, and can be restarted.
type server struct {
	*harness.Program
	mu    sync.Mutex // guards following field
	conns []*websocket.Conn
}

func newServer(t *testing.T, certs *harness.Certs, tracker *tcpstate.Tracker, handle func(c *websocket.Conn)) *server {
	s := new(server)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /feed", func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return // the client has been told
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		go func() { // the handler returns, as that of a hub does
			defer conn.Close()
			handle(conn)
		}()
	})
	s.Program = harness.NewProgram(t, func(ln net.Listener) func() {
		srv := &http.Server{Handler: mux}
		if certs != nil {
			srv.TLSConfig = certs.Server.Clone()
		}
		cfg := &listener.Config{Tracker: tracker, Name: "sockets"}
		stop := harness.Serving(func() error { return Serve(srv, cfg, ln) }, func() { srv.Close() })
		return func() {
			stop()
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, c := range s.conns { // hijacked: the server no longer knows them
				c.Close()
			}
			s.conns = nil
		}
	})
	return s
}

// both runs f with a server that lets handle have each websocket.
func both(t *testing.T, handle func(c *websocket.Conn), f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c, handle)) })
}

func newSetup(t *testing.T, certs *harness.Certs, handle func(c *websocket.Conn)) *setup {
	s := &setup{t: t, rig: harness.New(t), served: harness.New(t), certs: certs, base: *websocket.DefaultDialer, url: "ws://"}
	s.srv = newServer(t, certs, s.served.Tracker, handle)
	s.path = harness.NewPath(t, s.srv.Addr())
	if certs != nil {
		s.url, s.base.TLSClientConfig = "wss://", certs.Client.Clone()
	}
	s.url += s.path.Addr() + "/feed"
	return s
}

// dial opens a websocket that is closed when the test ends.
func (s *setup) dial() *websocket.Conn {
	s.t.Helper()
	c, _, err := NewDialer(s.rig.Dialer("feed"), &s.base).Dial(s.url, nil)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// silent fails the test if either end has ever reported anything.
func (s *setup) silent() {
	s.t.Helper()
	s.rig.Silent(s.t)
	s.served.Silent(s.t)
}

// echo answers until the websocket ends, as a reader should.
func echo(c *websocket.Conn) {
	for {
		kind, b, err := c.ReadMessage()
		if err != nil {
			return
		}
		if err := c.WriteMessage(kind, b); err != nil {
			return
		}
	}
}

// talk says something and hears it again.
func talk(t *testing.T, c *websocket.Conn) {
	t.Helper()
	require.NoError(t, c.WriteMessage(websocket.TextMessage, []byte("hello")))
	_, b, err := c.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
}

func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		c := s.dial()
		talk(t, c)
		require.Len(t, s.rig.Conns("feed"), 1)
		require.Len(t, s.served.Conns("sockets"), 1)
		s.silent() // a quiet websocket is a healthy one
		talk(t, c)
		s.srv.Restart(t)
		_, _, err := c.ReadMessage()
		require.Error(t, err)
		require.NoError(t, c.Close())

		c = s.dial()
		talk(t, c)
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye")
		require.NoError(t, c.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Minute)))
		_, _, err = c.ReadMessage()
		require.True(t, websocket.IsCloseError(err, websocket.CloseNormalClosure), err)
		require.NoError(t, c.Close())
		s.rig.WaitGone(t, "feed")
		s.served.WaitGone(t, "sockets")
		s.silent()
	})
}

func TestAReadLoopThatEndsWithoutCloseIsFound(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		c := s.dial()
		talk(t, c)
		s.path.FIN()
		for {
			if _, _, err := c.ReadMessage(); err != nil { // leak: read loop
				break
			}
		}
		s.rig.Finds(t, tcpstate.KindCloseWaitEOFSeen, "feed", "eof", "read loop")
	})
}

// flood says more than anybody has asked for.
func flood(c *websocket.Conn) {
	go echo(c)
	for c.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", 10_000))) == nil {
	}
}

func TestAWebsocketThatNobodyReadsAnyMoreIsFound(t *testing.T) {
	both(t, flood, func(t *testing.T, s *setup) {
		c, _, err := NewDialer(s.rig.Dialer("feed"), &s.base).Dial(s.url, nil) // leak: reader gone
		require.NoError(t, err)
		defer c.Close()
		_, _, err = c.ReadMessage()
		require.NoError(t, err)
		s.rig.Finds(t, tcpstate.KindLocalNotReading, "feed", "dial", "reader gone")
	})
}

// A hub that only writes when there is something to say does not notice that
// its client has left.
func TestAHubThatNeverReadsIsFoundWhenItsClientLeaves(t *testing.T) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	both(t, func(*websocket.Conn) { <-over }, func(t *testing.T, s *setup) {
		require.NoError(t, s.dial().Close())
		got := s.served.Finds(t, tcpstate.KindCloseWaitNotReading, "sockets", "", "")
		require.Equal(t, "GET /feed", got.Subject.Use)
		require.True(t, got.Evidence.Hijacked)
	})
}

// The library has no ping of its own accord. Its documentation shows one with
// a deadline that each pong moves.
func TestAPingWithADeadlineFindsASilentServer(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		const wait = 100 * time.Millisecond
		c := s.dial()
		var pongs atomic.Int32
		c.SetPongHandler(func(string) error {
			pongs.Add(1)
			return c.SetReadDeadline(time.Now().Add(time.Minute))
		})
		read := make(chan error, 1)
		go func() {
			_, _, err := c.ReadMessage()
			read <- err
		}()
		require.NoError(t, c.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Minute)))
		harness.WaitUntil(t, "a pong", func() bool { return pongs.Load() == 1 })
		s.path.Stall()
		require.NoError(t, c.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Minute)))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
		var timeout net.Error
		require.ErrorAs(t, <-read, &timeout)
		require.True(t, timeout.Timeout())
		require.NoError(t, c.Close())
		s.path.Flow()
		s.rig.WaitGone(t, "feed")
		s.served.WaitGone(t, "sockets")
		s.silent()
		harness.Kept(t)
	})
}

func TestTheSocketHasTheOptionsOfTheClientsOwnDialer(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		own, want := harness.NetDialer()
		s.base.NetDialContext = own.DialContext
		s.dial()
		require.Len(t, s.rig.Conns("feed"), 1)
		require.Equal(t, want, s.path.Links()[0].Options(t))
		s.silent()
	})
}

func TestTheClientsHandshakeTimeoutHolds(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		s.base.HandshakeTimeout = 50 * time.Millisecond
		s.path.Stall()
		_, _, err := NewDialer(s.rig.Dialer("feed"), &s.base).Dial(s.url, nil)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		s.path.Flow()
		s.rig.WaitGone(t, "feed")
		s.rig.Silent(t)
	})
}

func TestTheClientsProxyIsUsed(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		var asked atomic.Int32
		proxy := harness.NewProgram(t, func(ln net.Listener) func() {
			return harness.Serving(func() error {
				return harness.Accept(ln, func(c net.Conn) {
					asked.Add(1)
					connect(c)
				})
			}, func() { ln.Close() })
		})
		s.base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy.Addr()})
		c := s.dial()
		talk(t, c)
		require.EqualValues(t, 1, asked.Load())
		require.Equal(t, proxy.Addr(), s.rig.Conns("feed")[0].Remote.String())
		require.NoError(t, c.Close())
		s.rig.WaitGone(t, "feed")
		s.silent()
	})
}

// connect is an HTTP proxy for one CONNECT request.
func connect(client net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(client))
	if err != nil || req.Method != http.MethodConnect {
		return
	}
	server, err := net.Dial("tcp", req.Host)
	if err != nil {
		return
	}
	defer server.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12(), echo)
	c := s.dial()
	talk(t, c)
	require.NoError(t, c.Close())
	s.path.Announced(t)
	s.silent()
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, echo, func(t *testing.T, s *setup) {
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) {
			return NewDialer(s.rig.Dialer("feed"), &s.base).NetDialContext(t.Context(), "tcp", addr)
		})
	})
}
