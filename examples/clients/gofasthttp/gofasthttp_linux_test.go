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
	client *fasthttp.Client // not watched yet
	url    string
	wait   chan struct{} // of the handler of /wait
	conns  chan net.Conn // as the handler of /type sees them
}

// both runs f over plain TCP and over TLS.
func both(t *testing.T, f func(t *testing.T, s *setup)) {
	certs := harness.NewCerts(t)
	for name, c := range map[string]*harness.Certs{"plain": nil, "TLS": certs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &setup{
				t: t, rig: harness.New(t), served: harness.New(t), url: "http://",
				wait: make(chan struct{}), conns: make(chan net.Conn, 1),
				client: &fasthttp.Client{MaxIdleConnDuration: time.Minute},
			}
			require.NoError(t, s.rig.Tracker.Set(func(c *tcpstate.Config) { c.HideFrames = append(c.HideFrames, Hide) }))
			s.srv = harness.NewProgram(t, func(ln net.Listener) func() {
				var mu sync.Mutex
				var conns []net.Conn
				srv := &fasthttp.Server{Handler: s.handle, ConnState: func(c net.Conn, state fasthttp.ConnState) {
					if state == fasthttp.StateNew {
						mu.Lock()
						defer mu.Unlock()
						conns = append(conns, c)
					}
				}}
				if c != nil {
					srv.TLSConfig = c.Server.Clone()
				}
				ended := make(chan error, 1)
				go func() { ended <- Serve(srv, &listener.Config{Tracker: s.served.Tracker, Name: "api"}, ln) }()
				return func() { // Shutdown would wait for clients to end idle connections
					ln.Close()
					<-ended
					mu.Lock()
					defer mu.Unlock()
					for _, c := range conns {
						c.Close()
					}
				}
			})
			s.path = harness.NewPath(t, s.srv.Addr())
			if c != nil {
				s.url, s.client.TLSConfig = "https://", c.Client.Clone()
			}
			s.url += s.path.Addr()
			t.Cleanup(s.client.CloseIdleConnections)
			f(t, s)
		})
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
		s.rig.WaitState(t, "web", tcpstate.CloseWait, 1)
		s.rig.Advance(time.Minute)
		found := s.rig.Tracker.Findings()
		require.Len(t, found, 1)
		require.Equal(t, tcpstate.KindCloseWaitIdleInPool, found[0].Kind)

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
		err := s.client.DoTimeout(request(s.url+"/wait"), new(fasthttp.Response), 50*time.Millisecond)
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
		var conn net.Conn
		own := &net.Dialer{KeepAlive: 47 * time.Second, Control: harness.UserTimeout(12 * time.Second)}
		s.client.Dial = func(addr string) (c net.Conn, err error) {
			conn, err = own.Dial("tcp", addr)
			return conn, err
		}
		Watch(s.rig.Dialer("web"), s.client)
		s.get("/")
		got := harness.Options(t, conn)
		require.Equal(t, 12_000, got.UserTimeout)
		require.Equal(t, 47, got.Idle)
		require.Len(t, s.rig.Conns("web"), 1)
	})
}

func TestTheClientsOwnTimeoutsHold(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		s.client.ReadTimeout = 50 * time.Millisecond
		s.client.WriteTimeout = 50 * time.Millisecond // of the handshake, too
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

// The server reads a close_notify before the FIN, as without tcpstate.
func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	certs := harness.NewCerts(t)
	var ends *harness.Ends
	srv := harness.NewProgram(t, func(ln net.Listener) func() {
		ends = harness.NewEnds(ln, certs.Server)
		srv := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.WriteString("hello") }}
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(ends) }()
		return func() {
			ln.Close()
			<-ended
		}
	})
	rig := harness.New(t)
	client := &fasthttp.Client{TLSConfig: certs.Client}
	Watch(rig.Dialer("web"), client)
	_, _, err := client.Get(nil, "https://"+srv.Addr())
	require.NoError(t, err)
	client.CloseIdleConnections()
	ends.Announced(t, 1)
	rig.Silent(t)
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
