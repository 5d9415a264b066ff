package leaktest_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// clients are the ways to have the connections of an http.Transport tracked.
var clients = map[string]func(tr *tcpstate.Tracker) *http.Client{
	"httppool": func(tr *tcpstate.Tracker) *http.Client {
		return &http.Client{Transport: &httppool.Transport{Base: &http.Transport{ForceAttemptHTTP2: true}, Dialer: dialer.Dialer{Tracker: tr, Name: "payments"}}}
	},
	"plain": func(tr *tcpstate.Tracker) *http.Client {
		d := &dialer.Dialer{Tracker: tr, Name: "payments"}
		return &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
	},
	"plain with HTTP/2": func(tr *tcpstate.Tracker) *http.Client {
		d := &dialer.Dialer{Tracker: tr, Name: "payments"}
		return &http.Client{Transport: &http.Transport{DialContext: d.DialContext, ForceAttemptHTTP2: true}}
	},
}

// serve answers until t is over.
func serve(t *testing.T, h http.HandlerFunc, tls bool) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = tls
	if tls {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// trust lets c speak to srv.
func trust(c *http.Client, srv *httptest.Server) {
	base, ok := c.Transport.(*http.Transport)
	if !ok {
		base = c.Transport.(*httppool.Transport).Base
	}
	if tr, ok := srv.Client().Transport.(*http.Transport); ok && srv.TLS != nil {
		base.TLSClientConfig = tr.TLSClientConfig.Clone()
		base.TLSClientConfig.NextProtos = nil
	}
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func TestIdleHTTPConnsAreExcusedOnRequest(t *testing.T) {
	t.Parallel()
	for name, client := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, hello, name != "plain")
			test := func(opts ...leaktest.Option) string {
				var c *http.Client
				defer func() { c.CloseIdleConnections() }()
				return run(func(ft *fakeT) {
					c = client(leaktest.Tracker(ft, opts...))
					trust(c, srv)
					for range 3 {
						resp, err := c.Get(srv.URL)
						require.NoError(t, err)
						require.Equal(t, name != "plain", resp.ProtoMajor == 2)
						_, err = io.Copy(io.Discard, resp.Body)
						require.NoError(t, err)
						require.NoError(t, resp.Body.Close())
					}
				})
			}
			out := test()
			require.Contains(t, out, "leaktest: 1 connection left open\n")
			require.Contains(t, out, "or excuse it with leaktest.IdleHTTP()\n")
			require.Empty(t, test(leaktest.IdleHTTP()))
		})
	}
}

func TestABodyThatIsNotClosedIsReportedWithTheLineThatRequested(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]leaktest.Option{nil, {leaktest.IdleHTTP()}} {
		srv := serve(t, hello, false)
		var line int
		out := run(func(ft *fakeT) {
			c := clients["httppool"](leaktest.Tracker(ft, opts...))
			resp, err := c.Get(srv.URL)
			line = here() - 1
			require.NoError(t, err)
			t.Cleanup(func() { resp.Body.Close(); c.CloseIdleConnections() })
		})
		require.Contains(t, out, "leaktest: 1 connection left open\n")
		require.Regexp(t, `request +\S+ +`+place("http_test.go", line), out)
		require.Contains(t, out, "GET 127.0.0.1:")
		require.Contains(t, out, "fix    defer resp.Body.Close() right after the error check\n")
	}
}

func TestARequestInFlightIsNotIdle(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]int{"plain": 0, "httppool": 3} { // requests on the same connection
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entered, release := make(chan struct{}), make(chan struct{})
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(entered)
					<-release
				}
			}, false)
			done := make(chan error)
			var c *http.Client
			out := run(func(ft *fakeT) {
				c = clients[name](leaktest.Tracker(ft, leaktest.IdleHTTP()))
				for range before {
					resp, err := c.Get(srv.URL)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				go func() {
					resp, err := c.Get(srv.URL + "/slow")
					if err == nil {
						resp.Body.Close()
					}
					done <- err
				}()
				<-entered
			})
			close(release)
			require.NoError(t, <-done)
			c.CloseIdleConnections()
			require.Contains(t, out, "leaktest: 1 connection left open\n")
		})
	}
}

// A Transport keeps a connection that came too late for its request.
func TestAConnThatWasNeverUsedIsIdle(t *testing.T) {
	t.Parallel()
	srv := serve(t, hello, false)
	test := func(opts ...leaktest.Option) string {
		var base *http.Transport
		defer func() { base.CloseIdleConnections() }()
		return run(func(ft *fakeT) {
			tr := leaktest.Tracker(ft, opts...)
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan struct{})
			d := &dialer.Dialer{Tracker: tr, NetDialer: &net.Dialer{Control: func(string, string, syscall.RawConn) error {
				cancel()
				<-returned
				return nil
			}}}
			base = &http.Transport{DialContext: d.DialContext}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			require.NoError(t, err)
			_, err = base.RoundTrip(req)
			close(returned)
			require.ErrorIs(t, err, context.Canceled)
			tcptest.WaitUntil(t, "the connection", func() bool { return tr.Stats().Open == 1 })
		})
	}
	require.Contains(t, test(), "or excuse it with leaktest.IdleHTTP()\n")
	require.Empty(t, test(leaktest.IdleHTTP()))
}

func TestAServerThatIsNotClosedIsReportedWithItsHandler(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	var srv *http.Server
	serving := make(chan error)
	t.Cleanup(func() {
		close(release)
		srv.Close()
		require.ErrorIs(t, <-serving, http.ErrServerClosed)
	})
	out := run(func(ft *fakeT) {
		cfg := listener.Config{Tracker: leaktest.Tracker(ft), Name: "api"}
		ln, err := cfg.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		srv = &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(entered)
			<-release
		})}
		httpserver.Instrument(srv)
		go func() { serving <- srv.Serve(ln) }()
		go func() {
			if resp, err := http.Get("http://" + ln.Addr().String()); err == nil {
				resp.Body.Close()
			}
		}()
		<-entered
	})
	require.Contains(t, out, "leaktest: 1 connection left open\n")
	require.Contains(t, out, `listener "api"`)
	require.Regexp(t, `handler +\S+`, out)
	require.Contains(t, out, "let the handler return")
}
