package httppool_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// A client of HTTP/2 gives up one of two requests: its upstream connection goes,
// the other one stays, and the client's connection serves both.
func TestAProxyFromHTTP2ToHTTP1IsNotReported(t *testing.T) {
	backend, asked := mute(t)
	f := newFixture(t, &http.Transport{})
	t.Cleanup(f.tracker.Observe(new(tcpstate.Observer)))
	server, config := tcptest.TLSConfigs(t)
	srv := &http.Server{Handler: proxyTo(t, backend)(f), TLSConfig: server}
	httpserver.Instrument(srv)
	ln, err := (&listener.Config{Tracker: f.tracker, Name: "api"}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { srv.Close(); <-done })

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	t.Cleanup(client.CloseIdleConnections)
	get := func() (cancel func(), over chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		over = make(chan error, 1)
		go func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+ln.Addr().String(), nil)
			if err == nil {
				_, err = client.Do(req)
			}
			over <- err
		}()
		<-asked
		return cancel, over
	}
	first, gone := get()
	second, still := get()
	defer second()
	upstream := func() (n int) {
		for c := range f.tracker.Conns() {
			if c.Role == tcpstate.Client {
				n++
			}
		}
		return n
	}
	require.Equal(t, 2, upstream())
	first()
	require.ErrorIs(t, <-gone, context.Canceled)
	tcptest.WaitUntil(t, "the upstream connection to be closed", func() bool { return upstream() == 1 })
	f.clock.Advance(2 * time.Minute)
	require.Empty(t, f.tracker.Findings())
	require.Zero(t, f.tracker.Stats().Found)
	second()
	require.ErrorIs(t, <-still, context.Canceled)
	tcptest.WaitUntil(t, "the upstream connection to be closed", func() bool { return upstream() == 0 })
}

func TestAnUpstreamResetIsCountedAndNoFaultOfTheProxy(t *testing.T) {
	for name, begin := range map[string]string{
		"before an answer":           "",
		"in the middle of an answer": "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\nbegin",
	} {
		t.Run(name, func(t *testing.T) {
			ln := tcptest.Listen(t, tcptest.MPTCP(false))
			g := newGateway(t, &http.Transport{}, proxyTo(t, &httptest.Server{URL: "http://" + ln.Addr().String()}))
			client := g.send(t, fetch)
			c, err := ln.AcceptTCP()
			require.NoError(t, err)
			_, err = http.ReadRequest(bufio.NewReader(c))
			require.NoError(t, err)
			r := bufio.NewReader(client)
			if begin != "" {
				_, err = io.WriteString(c, begin)
				require.NoError(t, err)
				resp, err := http.ReadResponse(r, nil)
				require.NoError(t, err)
				_, err = io.ReadFull(resp.Body, make([]byte, len("begin")))
				require.NoError(t, err)
			}
			tcptest.Reset(t, c)
			if begin == "" {
				resp, err := http.ReadResponse(r, nil)
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, resp.StatusCode)
			} else {
				_, _ = io.Copy(io.Discard, r)
			}
			tcptest.WaitUntil(t, "the upstream connection to go", func() bool { return g.tracker.Stats().Open <= 1 })
			require.NoError(t, client.Close())
			g.waitGone(t)
			g.clock.Advance(time.Minute)
			require.Empty(t, g.tracker.Findings())
			counted := g.tracker.Counted()
			require.Len(t, counted, 1)
			require.Equal(t, tcpstate.KindResetUnexplained, counted[0].Kind)
			require.Equal(t, ln.Addr().String(), counted[0].Subject.Target)
		})
	}
}

func TestAClientThatAbortsIsNotReported(t *testing.T) {
	backend, asked := mute(t)
	g := newGateway(t, &http.Transport{}, proxyTo(t, backend))
	client := g.send(t, fetch)
	<-asked
	tcptest.Reset(t, client)
	g.waitGone(t)
	g.clock.Advance(time.Minute)
	require.Empty(t, g.tracker.Findings())
}

// A request that is made again is the tunnel of its second connection.
func TestARetriedRequestOnBehalfOfAClientThatLeftIsReportedOnce(t *testing.T) {
	ln := tcptest.Listen(t)
	g := newGateway(t, &http.Transport{}, proxyTo(t, &httptest.Server{URL: "http://" + ln.Addr().String()}))
	accepted := make(chan *net.TCPConn)
	go func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	first := g.send(t, fetch)
	c := <-accepted
	answers(t, c)
	resp, err := http.ReadResponse(bufio.NewReader(first), nil)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp))
	require.NoError(t, first.Close())
	tcptest.WaitUntil(t, "the first client to be gone", func() bool { return g.tracker.Stats().Open == 1 })

	client := g.send(t, fetch)
	_, err = http.ReadRequest(bufio.NewReader(c)) // the warm connection
	require.NoError(t, err)
	c.Close()
	c = <-accepted
	_, err = http.ReadRequest(bufio.NewReader(c))
	require.NoError(t, err)
	g.leavesUnnoticed(t, client)
	g.clock.Advance(35 * time.Second)
	found := g.tracker.Findings()
	require.Len(t, found, 1)
	require.Equal(t, tcpstate.KindTunnelUpstreamOrphan, found[0].Kind)
	require.Equal(t, c.LocalAddr().String(), found[0].Subject.Remote)
	require.EqualValues(t, 1, g.pool.Stats().Stale)
	c.Close()
}

func TestAnUpgradedConnectionThatBothEndsCloseIsNotReported(t *testing.T) {
	backend := serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(conn, rw)
	})
	g := newGateway(t, &http.Transport{}, proxyTo(t, backend))
	client := g.send(t, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(client)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	for range 3 {
		_, err = io.WriteString(client, "there and back")
		require.NoError(t, err)
		echo := make([]byte, len("there and back"))
		_, err = io.ReadFull(r, echo)
		require.NoError(t, err)
		require.Equal(t, "there and back", string(echo))
		g.clock.Advance(time.Minute)
		require.Empty(t, g.tracker.Findings())
	}
	require.NoError(t, client.CloseWrite())
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, strings.TrimSpace(string(rest)))
	g.waitGone(t)
	g.clock.Advance(time.Minute)
	require.Zero(t, g.tracker.Stats().Found)
}
