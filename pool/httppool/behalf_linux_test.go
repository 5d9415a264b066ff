package httppool_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// gateway is a server of ours that asks a backend on behalf of its clients.
type gateway struct {
	*fixture
	addr string
}

// newGateway serves with h, which makes its requests with the client of the
// fixture.
func newGateway(t *testing.T, base *http.Transport, handler func(f *fixture) http.Handler) *gateway {
	t.Helper()
	g := &gateway{fixture: newFixture(t, base)}
	t.Cleanup(g.tracker.Observe(new(tcpstate.Observer)))
	inner, err := (&listener.Config{Tracker: g.tracker, Name: "api"}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: handler(g.fixture)}
	httpserver.Instrument(srv)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(inner) }()
	t.Cleanup(func() { srv.Close(); <-done })
	g.addr = inner.Addr().String()
	return g
}

// send connects a client that sends text.
func (g *gateway) send(t *testing.T, text string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	return c.(*net.TCPConn)
}

// leaves closes c and waits until its connection at the server shows it.
func (g *gateway) leaves(t *testing.T, c *net.TCPConn) {
	t.Helper()
	require.NoError(t, c.Close())
	g.clock.Advance(2 * time.Second)
	tcptest.WaitUntil(t, "the client's FIN", func() bool {
		for s := range g.tracker.Conns() {
			if s.Role == tcpstate.Server && s.State == tcpstate.CloseWait {
				return true
			}
		}
		return false
	})
}

// mute is a backend that never answers. It tells of each request.
func mute(t *testing.T, configure ...func(*httptest.Server)) (srv *httptest.Server, asked <-chan *http.Request) {
	c, stop := make(chan *http.Request, 10), make(chan struct{})
	srv = serve(t, func(_ http.ResponseWriter, r *http.Request) {
		c <- r
		<-stop
	}, configure...)
	t.Cleanup(func() { close(stop) })
	return srv, c
}

func proxyTo(t *testing.T, backend *httptest.Server) func(f *fixture) http.Handler {
	target, err := url.Parse(backend.URL)
	require.NoError(t, err)
	return func(f *fixture) http.Handler {
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.Transport = f.pool
		t.Cleanup(backend.CloseClientConnections) // before the check for connections left open
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { proxy.ServeHTTP(w, r) })
	}
}

const fetch = "GET /feed?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n"

// leavesUnnoticed has c leave after one byte of a next request, which keeps
// net/http from noticing.
func (g *gateway) leavesUnnoticed(t *testing.T, c *net.TCPConn) {
	t.Helper()
	_, err := io.WriteString(c, "G")
	require.NoError(t, err)
	tcptest.WaitUntil(t, "the byte to be read", func() bool {
		for s := range g.tracker.Conns() {
			if s.Role == tcpstate.Server && s.Remote.String() == c.LocalAddr().String() {
				return s.Info.BytesReceived == uint64(len(fetch))+1 && s.RecvQueue == 0
			}
		}
		return false
	})
	g.leaves(t, c)
}

func TestARequestOnBehalfOfAClientThatLeftIsReported(t *testing.T) {
	backend, asked := mute(t)
	g := newGateway(t, &http.Transport{}, proxyTo(t, backend))
	client := g.send(t, fetch)
	<-asked
	g.leavesUnnoticed(t, client)
	g.clock.Advance(25 * time.Second)
	require.Empty(t, g.tracker.Findings())
	g.clock.Advance(10 * time.Second)

	fs := g.tracker.Findings()
	require.Len(t, fs, 1, "one fault, although two connections wait")
	f := fs[0]
	require.Equal(t, tcpstate.KindTunnelUpstreamOrphan, f.Kind)
	require.Equal(t, "payments", f.Subject.Name)
	require.Equal(t, "GET "+strings.TrimPrefix(backend.URL, "http://"), f.Subject.Use)
	require.Equal(t, "request", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "httppool_test.proxyTo")
	require.Contains(t, f.Summary, "context of the client's request is NOT cancelled")
	require.NotContains(t, f.String(), "s3cret")
	if addr := client.LocalAddr().String(); addr != f.Subject.Local { // the same port by chance
		require.NotContains(t, f.String(), addr)
	}
}

func TestARequestThatMayGoOnIsNotReported(t *testing.T) {
	t.Run("cancelled with its client", func(t *testing.T) {
		backend, asked := mute(t)
		g := newGateway(t, &http.Transport{}, proxyTo(t, backend))
		client := g.send(t, fetch)
		<-asked
		require.NoError(t, client.Close())
		g.waitGone(t)
		g.clock.Advance(time.Minute)
		require.Zero(t, g.tracker.Stats().Found)
	})
	t.Run("a job of a handler that has returned", func(t *testing.T) {
		backend, asked := mute(t)
		g := newGateway(t, &http.Transport{}, func(f *fixture) http.Handler {
			return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				req, _ := http.NewRequestWithContext(context.WithoutCancel(r.Context()), "GET", backend.URL, nil)
				go f.client.Do(req)
				<-asked
			})
		})
		t.Cleanup(backend.CloseClientConnections)
		client := g.send(t, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		_, err := io.ReadAll(client)
		require.NoError(t, err)
		client.Close()
		g.clock.Advance(2 * time.Minute)
		require.Zero(t, g.tracker.Stats().Found)
	})
	t.Run("declared", func(t *testing.T) {
		backend, asked := mute(t)
		g := newGateway(t, &http.Transport{}, func(f *fixture) http.Handler {
			proxy := proxyTo(t, backend)(f)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tcpstate.FromContext(r.Context()).Expect(tcpstate.Expect{HalfClose: true})
				proxy.ServeHTTP(w, r)
			})
		})
		client := g.send(t, fetch)
		<-asked
		g.leavesUnnoticed(t, client)
		g.clock.Advance(2 * time.Minute)
		require.Zero(t, g.tracker.Stats().Found)
	})
	t.Run("declared for the request", func(t *testing.T) {
		backend, asked := mute(t)
		g := newGateway(t, &http.Transport{}, func(f *fixture) http.Handler {
			proxy := proxyTo(t, backend)(f)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				use := tcpstate.Use{Expect: tcpstate.Expect{Ignore: []tcpstate.Kind{"tunnel"}}}
				proxy.ServeHTTP(w, r.WithContext(tcpstate.WithUse(r.Context(), use)))
			})
		})
		client := g.send(t, fetch)
		<-asked
		g.leavesUnnoticed(t, client)
		g.clock.Advance(2 * time.Minute)
		for _, f := range g.tracker.Findings() {
			require.Equal(t, tcpstate.KindCloseWaitNotReading, f.Kind, "what is declared is about the upstream")
		}
	})
	t.Run("answered", func(t *testing.T) {
		stop := make(chan struct{})
		asked := make(chan struct{}, 1)
		backend := serve(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(20 * time.Millisecond) // so that the kernel's clock shows who spoke last
			io.WriteString(w, "begin")
			http.NewResponseController(w).Flush()
			asked <- struct{}{}
			<-stop
		})
		defer close(stop)
		g := newGateway(t, &http.Transport{}, proxyTo(t, backend))
		client := g.send(t, fetch)
		<-asked
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		require.NoError(t, err)
		_, err = io.ReadFull(resp.Body, make([]byte, len("begin"))) // what is unread would make of its FIN an RST
		require.NoError(t, err)
		g.leavesUnnoticed(t, client)
		g.clock.Advance(2 * time.Minute)
		for _, f := range g.tracker.Findings() {
			require.NotEqual(t, tcpstate.SubjectTunnel, f.Subject.Type)
		}
	})
}

// The connections of HTTP/2 serve many, and a silence on one is nobody's.
func TestARequestThatSharesItsConnectionIsNotReported(t *testing.T) {
	backend, asked := mute(t, withTLS)
	transport := backend.Client().Transport.(*http.Transport)
	g := newGateway(t, transport, proxyTo(t, backend))
	client := g.send(t, fetch)
	require.Equal(t, 2, (<-asked).ProtoMajor)
	g.leavesUnnoticed(t, client)
	g.clock.Advance(2 * time.Minute)
	fs := g.tracker.Findings()
	require.Len(t, fs, 1)
	require.Equal(t, tcpstate.KindCloseWaitNotReading, fs[0].Kind, "the client's own connection tells")
}

// An upgraded connection is a tunnel, although nobody has said so.
func TestAnUpgradedConnectionThatStaysHalfClosedIsReported(t *testing.T) {
	stop := make(chan struct{})
	backend := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		<-stop // does not read, and so does not see the end
	})
	defer close(stop)
	g := newGateway(t, &http.Transport{}, proxyTo(t, backend))
	client := g.send(t, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(client), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.NoError(t, client.CloseWrite())
	tcptest.WaitUntil(t, "the end to be passed on", func() bool {
		for s := range g.tracker.Conns() {
			if s.Role == tcpstate.Client && s.State == tcpstate.FinWait2 {
				return true
			}
		}
		return false
	})
	g.clock.Advance(2 * time.Second)
	g.clock.Advance(75 * time.Second)
	fs := g.tracker.Findings()
	require.Len(t, fs, 1)
	require.Equal(t, tcpstate.KindTunnelHalfClosedIdle, fs[0].Kind)
	require.Equal(t, "client_done", fs[0].Cause)
	require.Contains(t, fs[0].Summary, "the server keeps its own direction open")
}
