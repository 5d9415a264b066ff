package httppool_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// join copies between a client and whatever listens at address.
func join(t *testing.T, client net.Conn, address string) {
	upstream, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer upstream.Close()
	go func() {
		io.Copy(upstream, client)
		upstream.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(client, upstream)
}

// forwarding is a proxy for HTTP, and by CONNECT for anything else.
func forwarding(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			r.RequestURI = ""
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			w.WriteHeader(resp.StatusCode)
			io.Copy(w, resp.Body)
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		join(t, c, r.Host)
	}
}

// socks5 is a SOCKS proxy (RFC 1928) without authentication, for IPv4.
func socks5(t *testing.T) (address string) {
	ln := tcptest.Listen(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.ReadFull(c, make([]byte, 3))
				c.Write([]byte{5, 0})
				var request [10]byte
				io.ReadFull(c, request[:])
				c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				to := net.TCPAddr{IP: net.IP(request[4:8]), Port: int(request[8])<<8 | int(request[9])}
				join(t, c, to.String())
			}()
		}
	}()
	return ln.Addr().String()
}

func TestRequestsThroughProxiesAreAttributed(t *testing.T) {
	plain, secure := serve(t, hello), serve(t, hello, withTLS)
	config := secure.Client().Transport.(*http.Transport).TLSClientConfig
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	proxy := serve(t, forwarding(t))
	socks := socks5(t)
	for _, tt := range []struct {
		name, proxy, url string
		target           string
		handshakes       int
	}{
		{"HTTP", proxy.URL, plain.URL, proxy.Listener.Addr().String(), 0},
		{"CONNECT", proxy.URL, secure.URL, proxy.Listener.Addr().String(), 1},
		{"SOCKS5", "socks5://" + socks, plain.URL, socks, 0},
		{"SOCKS5 and TLS", "socks5://" + socks, secure.URL, socks, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at, err := url.Parse(tt.proxy)
			require.NoError(t, err)
			f := newFixture(t, &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true, Proxy: http.ProxyURL(at)})
			var shakes []tcpstate.HandshakeInfo // written by the observer, read after stop
			stop := f.tracker.Observe(&tcpstate.Observer{HandshakeDone: func(h tcpstate.HandshakeInfo) { shakes = append(shakes, h) }})
			for range 2 {
				resp, err := f.client.Get(tt.url)
				require.NoError(t, err)
				require.Equal(t, "hello", readAll(t, resp))
				resp.Body.Close()
			}
			conn := f.conn(t)
			require.Equal(t, tt.target, conn.Target)
			require.Equal(t, "GET "+strings.SplitAfter(tt.url, "://")[1], conn.Use)
			require.EqualValues(t, 2, conn.Uses)
			f.clock.Advance(2 * time.Second)
			stop()
			require.Len(t, shakes, tt.handshakes)
			require.EqualValues(t, 1, f.pool.Stats().Reused)
		})
	}
}

func TestAUnixSocketOfTheBaseIsUsed(t *testing.T) {
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	serve(t, hello, func(srv *httptest.Server) {
		srv.Listener.Close()
		srv.Listener = ln
	})
	f := newFixture(t, &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}})
	for range 2 {
		resp, err := f.client.Get("http://daemon/")
		require.NoError(t, err)
		require.Equal(t, "hello", readAll(t, resp))
	}
	stats := f.pool.Stats()
	require.EqualValues(t, 2, stats.Requests)
	require.EqualValues(t, 1, stats.Reused)
	require.Zero(t, stats.Used+stats.Idle, "no connection of TCP")
	require.Zero(t, f.tracker.Stats().Opened)
}

func TestTheBaseIsTakenAsItIsAtTheFirstRequest(t *testing.T) {
	srv := serve(t, hello)
	base := &http.Transport{}
	f := newFixture(t, base)
	base.MaxIdleConnsPerHost = 7
	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	readAll(t, resp)
	base.MaxIdleConnsPerHost = 8
	resp, err = f.client.Get(srv.URL)
	require.NoError(t, err)
	readAll(t, resp)
	require.Equal(t, 7, f.pool.Inner().MaxIdleConnsPerHost)
}

func TestEveryHopOfARedirectIsAUse(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/there", http.StatusFound)
			return
		}
		hello(w, r)
	})
	f := newFixture(t, nil)
	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp))
	require.EqualValues(t, 2, f.conn(t).Uses)
	require.Zero(t, f.conn(t).InUse)
}

func TestARequestThatAsksBeforeItSendsItsBodyIsOneUse(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	f := newFixture(t, &http.Transport{ExpectContinueTimeout: time.Minute})
	continued := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, strings.NewReader("there and back"))
	require.NoError(t, err)
	req.Header.Set("Expect", "100-continue")
	resp, err := f.client.Do(req)
	require.NoError(t, err)
	require.Equal(t, "there and back", readAll(t, resp))
	require.True(t, continued)
	require.EqualValues(t, 1, f.conn(t).Uses)
	require.Zero(t, f.conn(t).InUse)
}

func TestARequestThatIsCutOffInItsBodyLeavesNothingInFlight(t *testing.T) {
	for name, cut := range map[string]func(f *fixture, cancel func()){
		"cancelled":      func(_ *fixture, cancel func()) { cancel() },
		"timeout":        func(f *fixture, _ func()) {},
		"connection":     func(f *fixture, _ func()) { closeAll(f) },
		"body is closed": nil,
	} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "begin")
				http.NewResponseController(w).Flush()
				select {
				case <-stop:
				case <-r.Context().Done():
				}
			})
			t.Cleanup(func() { close(stop) })
			f := newFixture(t, &http.Transport{})
			if name == "timeout" {
				f.client.Timeout = 50 * time.Millisecond
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			require.NoError(t, err)
			resp, err := f.client.Do(req)
			if name == "timeout" && err != nil {
				f.waitGone(t) // the machine was slow
				require.Zero(t, f.pool.Stats().InFlight)
				return
			}
			require.NoError(t, err)
			if cut == nil {
				resp.Body.Close()
				require.EqualValues(t, 1, f.pool.Stats().Unread)
			} else {
				cut(f, cancel)
				_, err = io.ReadAll(resp.Body)
				require.Error(t, err)
			}
			f.waitGone(t)
			require.Zero(t, f.pool.Stats().InFlight, "although nobody may close the body any more")
			require.Zero(t, f.pool.Stats().Stale)
		})
	}
}

func closeAll(f *fixture) {
	for c := range f.tracker.Conns() {
		f.tracker.Lookup(c.Local, c.Remote).CloseConn()
	}
}

func TestWaitsAreCounted(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, &http.Transport{})
	dial := f.pool.Inner().DialContext
	f.pool.Inner().DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		f.clock.Advance(3 * time.Second)
		return dial(ctx, network, address)
	}
	for range 3 {
		resp, err := f.client.Get(srv.URL)
		require.NoError(t, err)
		readAll(t, resp)
	}
	stats := f.pool.Stats()
	require.EqualValues(t, 3, stats.Requests)
	require.EqualValues(t, 2, stats.Reused)
	require.EqualValues(t, 1, stats.Waits, "a connection that lies idle is there at once")
	require.GreaterOrEqual(t, stats.WaitTime, 3*time.Second)
	require.Less(t, stats.WaitTime, 4*time.Second)
	require.Equal(t, 1, stats.Idle)
	f.client.CloseIdleConnections()
	f.waitGone(t)
	require.Zero(t, f.pool.Stats().Idle)
	require.EqualValues(t, 3, f.pool.Stats().Requests)
}

func TestWaitsOfHTTP2AreThoseForTheConnection(t *testing.T) {
	stop := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-stop
	}, withTLS)
	release := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(release) // before the server's
	f := newFixture(t, srv.Client().Transport.(*http.Transport))
	var open []*http.Response
	for range 3 {
		resp, err := f.client.Get(srv.URL)
		require.NoError(t, err)
		open = append(open, resp)
	}
	stats := f.pool.Stats()
	require.Equal(t, 3, stats.InFlight)
	require.Equal(t, 1, stats.Used)
	require.EqualValues(t, 1, stats.Waits)
	require.EqualValues(t, 2, stats.Reused)
	release()
	for _, resp := range open {
		readAll(t, resp)
	}
	stats = f.pool.Stats()
	require.Zero(t, stats.InFlight+stats.Used)
	require.Equal(t, 1, stats.Idle)
	require.Zero(t, stats.Unread)
}

func TestStatsAreEmptyBeforeTheFirstRequestAndWhileOff(t *testing.T) {
	f := newFixture(t, nil)
	require.Zero(t, f.pool.Stats())
	off := newFixture(t, nil)
	require.NoError(t, off.tracker.Set(func(c *tcpstate.Config) { c.Off = true }))
	resp, err := off.client.Get(serve(t, hello).URL)
	require.NoError(t, err)
	readAll(t, resp)
	require.Zero(t, off.pool.Stats())
}

func TestHostsBeyondTheBoundAreCountedTogether(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, &http.Transport{DisableKeepAlives: true, Proxy: nil, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}})
	const hosts = 300
	for i := range hosts {
		resp, err := f.client.Get("http://host" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + ".test/")
		require.NoError(t, err)
		readAll(t, resp)
	}
	require.EqualValues(t, hosts, f.pool.Stats().Requests)
}
