package gofasthttp

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setup is a server of fasthttp and a client's way to it, both watched.
type setup struct {
	t      *testing.T
	rig    *harness.Rig // the client's; its connections are called "web"
	served *harness.Rig // the server's; its connections are called "api"
	path   *harness.Path
	srv    *harness.Program
	certs  *harness.Certs   // nil: plain
	client *fasthttp.Client // not watched yet
	url    string
	wait   chan struct{} // of the handler of /wait
	conns  chan net.Conn // as the handler of /type sees them
}

func both(t *testing.T, f func(t *testing.T, s *setup)) {
	harness.Both(t, func(t *testing.T, c *harness.Certs) { f(t, newSetup(t, c)) })
}

func newSetup(t *testing.T, certs *harness.Certs) *setup {
	s := &setup{
		t: t, rig: harness.New(t), served: harness.New(t), certs: certs, url: "http://",
		wait: make(chan struct{}), conns: make(chan net.Conn, 1),
		client: &fasthttp.Client{MaxIdleConnDuration: time.Minute},
	}
	s.rig.Hide(t, Hide)
	s.srv = harness.NewProgram(t, s.serve)
	s.path = harness.NewPath(t, s.srv.Addr())
	if certs != nil {
		s.url, s.client.TLSConfig = "https://", certs.Client.Clone()
	}
	s.url += s.path.Addr()
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// serve serves ln. Shutdown would wait for clients to end idle connections.
func (s *setup) serve(ln net.Listener) func() {
	var mu sync.Mutex
	var conns []net.Conn
	srv := &fasthttp.Server{Handler: s.handle, ConnState: func(c net.Conn, state fasthttp.ConnState) {
		if state == fasthttp.StateNew {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, c)
		}
	}}
	if s.certs != nil {
		srv.TLSConfig = s.certs.Server.Clone()
	}
	cfg := &listener.Config{Tracker: s.served.Tracker, Name: "api"}
	stop := harness.Serving(func() error { return Serve(srv, cfg, ln) }, func() { ln.Close() })
	return func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	}
}

func (s *setup) handle(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/wait":
		<-s.wait
	case "/type":
		s.conns <- ctx.Conn()
	case "/large":
		ctx.WriteString(strings.Repeat("x", 8<<20))
	default:
		ctx.WriteString("hello")
	}
}

// get asks once, and wants an answer.
func (s *setup) get(path string) {
	s.t.Helper()
	code, _, err := s.client.Get(nil, s.url+path)
	require.NoError(s.t, err)
	require.Equal(s.t, fasthttp.StatusOK, code)
}

// silent fails the test if either end has ever reported anything.
func (s *setup) silent() {
	s.t.Helper()
	s.rig.Silent(s.t)
	s.served.Silent(s.t)
}

// The client has no check of idle connections: it asks again where one was
// dead, if the request is idempotent.
func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		Watch(s.rig.Dialer("web"), s.client)
		s.get("/")
		s.get("/")
		require.Len(t, s.rig.Conns("web"), 1)
		require.Len(t, s.served.Conns("api"), 1)
		s.rig.Rest(t, time.Minute)
		s.srv.Restart(t)
		s.rig.WaitInventory(t, "web", 1)
		s.get("/")
		require.Equal(t, 2, s.path.Made())
		require.Len(t, s.rig.Conns("web"), 1)
		s.silent()
		s.client.CloseIdleConnections()
		s.rig.WaitGone(t, "web")
		s.served.WaitGone(t, "api")
		s.silent()
		harness.Kept(t)
	})
}

// The library closes idle connections in time, through us.
func TestIdleConnectionsAreClosedByTheClient(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.client.MaxIdleConnDuration = 20 * time.Millisecond
		Watch(s.rig.Dialer("web"), s.client)
		s.get("/")
		s.rig.WaitGone(t, "web")
		s.silent()
	})
}

// A streamed body keeps its connection out of the pool until it is closed.
func TestAStreamedBodyThatNobodyClosesIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.client.StreamResponseBody = true
		Watch(s.rig.Dialer("web"), s.client)
		req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		req.SetRequestURI(s.url + "/large")
		err := s.client.Do(req, resp) // leak: stream
		require.NoError(t, err)
		defer resp.CloseBodyStream()
		_, err = resp.BodyStream().Read(make([]byte, 10))
		require.NoError(t, err)
		got := s.rig.Finds(t, tcpstate.KindLocalNotReading, "web", "dial", "stream")
		require.Contains(t, got.Sites[0].Frames[0].Function, "TestAStreamedBody")
	})
}

// Its handlers have no context that would end.
func TestAHandlerThatWaitsIsFoundWhenItsClientLeaves(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		Watch(s.rig.Dialer("web"), s.client)
		defer close(s.wait)
		s.get("/") // the handshake takes its time
		err := s.client.DoTimeout(request(s.url+"/wait"), new(fasthttp.Response), 500*time.Millisecond)
		require.ErrorIs(t, err, fasthttp.ErrTimeout)
		s.rig.WaitGone(t, "web")
		s.served.Finds(t, tcpstate.KindCloseWaitNotReading, "api", "", "")
		s.rig.Silent(t)
	})
}

func request(url string) *fasthttp.Request {
	req := new(fasthttp.Request)
	req.SetRequestURI(url)
	return req
}

func TestTheServerSeesAPlainConnection(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		Watch(s.rig.Dialer("web"), s.client)
		s.get("/type")
		c := <-s.conns
		if below, ok := c.(interface{ NetConn() net.Conn }); ok {
			c = below.NetConn()
		}
		require.IsType(t, (*net.TCPConn)(nil), c)
		require.Len(t, s.served.Conns("api"), 1)
	})
}

func TestTheClientsOwnDialAndItsOptionsAreKept(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		own, want := harness.NetDialer()
		s.client.Dial = func(addr string) (net.Conn, error) { return own.Dial("tcp", addr) }
		Watch(s.rig.Dialer("web"), s.client)
		s.get("/")
		require.Equal(t, want, s.path.Links()[0].Options(t))
		require.Len(t, s.rig.Conns("web"), 1)
	})
}

func TestTheClientsOwnTimeoutsHold(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.client.ReadTimeout = 200 * time.Millisecond
		s.client.WriteTimeout = 200 * time.Millisecond // of the handshake, too
		Watch(s.rig.Dialer("web"), s.client)
		s.path.Stall()
		var want error = fasthttp.ErrTimeout
		if s.client.TLSConfig != nil {
			want = fasthttp.ErrTLSHandshakeTimeout
		}
		require.ErrorIs(t, s.client.Do(request(s.url), new(fasthttp.Response)), want)
		s.path.Flow()
		s.rig.WaitGone(t, "web")

		lost := &fasthttp.Client{}
		Watch(s.rig.Dialer("web"), lost)
		err := lost.DoTimeout(request("http://"+tcptest.DeadListener(t)), new(fasthttp.Response), 50*time.Millisecond)
		var timeout net.Error
		require.True(t, errors.Is(err, fasthttp.ErrDialTimeout) || errors.As(err, &timeout) && timeout.Timeout(), err)
		s.silent()
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	s := newSetup(t, harness.NewCerts(t).TLS12())
	Watch(s.rig.Dialer("web"), s.client)
	s.get("/")
	s.client.CloseIdleConnections()
	s.path.Announced(t)
	s.silent()
}

func TestAConnectionCanBeClosedOneWay(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		Watch(s.rig.Dialer("web"), s.client)
		harness.ClosesOneWay(t, s.certs, func(addr string) (net.Conn, error) { return s.client.DialTimeout(addr, time.Minute) })
	})
}

// A client that has said all it has to say may close its direction and gets
// its answer.
func TestAServerAnswersAClientThatHasClosedItsDirection(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		if s.client.TLSConfig != nil {
			return // closed with close_notify, which the server reads as its end
		}
		c, err := net.Dial("tcp", s.path.Addr())
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		resp := new(fasthttp.Response)
		require.NoError(t, resp.Read(bufio.NewReader(c)))
		require.Equal(t, "hello", string(resp.Body()))
		s.served.WaitGone(t, "api")
		s.silent()
	})
}
