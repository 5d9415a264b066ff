package httppool_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestTheZeroValueIsACloneOfTheDefaultTransport(t *testing.T) {
	before := http.DefaultTransport
	settings := *before.(*http.Transport).Clone()
	inner := new(httppool.Transport).Inner()

	require.Same(t, before, http.DefaultTransport)
	require.NotSame(t, before, inner)
	require.Equal(t, pointer(before.(*http.Transport).DialContext), pointer(settings.DialContext))
	require.NotEqual(t, pointer(settings.DialContext), pointer(inner.DialContext))
	require.Equal(t, pointer(settings.Proxy), pointer(inner.Proxy))
	require.True(t, inner.ForceAttemptHTTP2)
	require.Equal(t, settings.MaxIdleConns, inner.MaxIdleConns)
	require.Equal(t, settings.IdleConnTimeout, inner.IdleConnTimeout)
	require.Equal(t, settings.TLSHandshakeTimeout, inner.TLSHandshakeTimeout)
	require.Equal(t, settings.ExpectContinueTimeout, inner.ExpectContinueTimeout)
}

func pointer(f any) uintptr { return reflect.ValueOf(f).Pointer() }

func TestTheZeroValueTracksWithTheDefaultTracker(t *testing.T) {
	srv := serve(t, hello)
	client := &http.Client{Transport: new(httppool.Transport)}
	defer client.CloseIdleConnections()
	resp, err := client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp))
	found := false
	for c := range tcpstate.Default().Conns() {
		found = found || c.Remote.String() == srv.Listener.Addr().String()
	}
	require.True(t, found)
}

func TestAReplacedDefaultTransportIsNoBase(t *testing.T) {
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	http.DefaultTransport = &middleware{before}
	inner := new(httppool.Transport).Inner()

	want := before.(*http.Transport).Clone()
	require.Equal(t, pointer(want.Proxy), pointer(inner.Proxy))
	require.Equal(t, want.ForceAttemptHTTP2, inner.ForceAttemptHTTP2)
	require.Equal(t, want.MaxIdleConns, inner.MaxIdleConns)
	require.Equal(t, want.IdleConnTimeout, inner.IdleConnTimeout)
	require.Equal(t, want.TLSHandshakeTimeout, inner.TLSHandshakeTimeout)
	require.Equal(t, want.ExpectContinueTimeout, inner.ExpectContinueTimeout)
}

func TestTheProtocolIsTheOneThatNetHTTPWouldHaveSpoken(t *testing.T) {
	srv := serve(t, hello, withTLS)
	trusted := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	tlsConfig := func(protos ...string) *tls.Config {
		return &tls.Config{RootCAs: trusted, NextProtos: protos}
	}
	protocols := func(h1, h2 bool) *http.Protocols {
		p := new(http.Protocols)
		p.SetHTTP1(h1)
		p.SetHTTP2(h2)
		return p
	}
	dial := new(net.Dialer).DialContext
	for name, base := range map[string]func() *http.Transport{
		"TLSClientConfig":            func() *http.Transport { return &http.Transport{TLSClientConfig: tlsConfig()} },
		"TLSClientConfig and forced": func() *http.Transport { return &http.Transport{TLSClientConfig: tlsConfig(), ForceAttemptHTTP2: true} },
		"TLSNextProto empty": func() *http.Transport {
			return &http.Transport{TLSClientConfig: tlsConfig(), ForceAttemptHTTP2: true, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
		},
		"Protocols without HTTP/2": func() *http.Transport {
			return &http.Transport{TLSClientConfig: tlsConfig(), ForceAttemptHTTP2: true, Protocols: protocols(true, false)}
		},
		"Protocols with both": func() *http.Transport {
			return &http.Transport{TLSClientConfig: tlsConfig(), Protocols: protocols(true, true)}
		},
		"Protocols with HTTP/2 only": func() *http.Transport {
			return &http.Transport{TLSClientConfig: tlsConfig(), Protocols: protocols(false, true)}
		},
		"DialContext and forced": func() *http.Transport {
			return &http.Transport{TLSClientConfig: tlsConfig(), DialContext: dial, ForceAttemptHTTP2: true}
		},
		"DialTLSContext": func() *http.Transport {
			return &http.Transport{DialTLSContext: (&tls.Dialer{Config: tlsConfig("http/1.1")}).DialContext}
		},
		"DialTLSContext and forced": func() *http.Transport {
			return &http.Transport{DialTLSContext: (&tls.Dialer{Config: tlsConfig("h2", "http/1.1")}).DialContext, ForceAttemptHTTP2: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			plain := base()
			want, wantErr := (&http.Client{Transport: plain}).Get(srv.URL)
			defer plain.CloseIdleConnections()

			f := newFixture(t, base())
			got, err := f.client.Get(srv.URL)
			if wantErr != nil {
				require.Equal(t, wantErr.Error(), err.Error())
				return
			}
			require.NoError(t, err)
			require.Equal(t, want.Proto, got.Proto)
			require.Equal(t, readAll(t, want), readAll(t, got))
			require.EqualValues(t, 1, f.conn(t).Uses)
		})
	}
}

func TestAPlainTransportGoesOnSpeakingHTTP2(t *testing.T) {
	srv := serve(t, hello, withTLS)
	trust := func(to *http.Transport) *x509.CertPool {
		// A plain transport trusts the certificates of the system, and there is
		// no way to add one, but in a configuration that net/http has made.
		require.NotNil(t, to.TLSClientConfig)
		return srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	used := &http.Transport{}
	used.CloseIdleConnections() // makes it decide on its protocols
	used.TLSClientConfig.RootCAs = trust(used)
	resp, err := (&http.Client{Transport: used}).Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", resp.Proto)
	readAll(t, resp)
	used.CloseIdleConnections()

	for name, base := range map[string]*http.Transport{"new": {}, "in use": used} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, base)
			inner := f.pool.Inner()
			inner.TLSClientConfig.RootCAs = trust(inner)
			resp, err := f.client.Get(srv.URL)
			require.NoError(t, err)
			require.Equal(t, "HTTP/2.0", resp.Proto)
			readAll(t, resp)
			require.EqualValues(t, 1, f.conn(t).Uses)
		})
	}
}

func TestUnencryptedHTTP2IsAttributed(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	srv := serve(t, hello, func(srv *httptest.Server) { srv.Config.Protocols = protocols })
	f := newFixture(t, &http.Transport{Protocols: protocols})
	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", resp.Proto)
	require.EqualValues(t, 1, f.conn(t).Uses)
	readAll(t, resp)
	require.Zero(t, f.conn(t).InUse)
}

func TestDialFunctionsOfTheBaseAreKept(t *testing.T) {
	plain, secure := serve(t, hello), serve(t, hello, withTLS)
	config := secure.Client().Transport.(*http.Transport).TLSClientConfig
	var calls atomic.Int32
	dial := func(network, addr string) (net.Conn, error) {
		calls.Add(1)
		return net.Dial(network, addr)
	}
	dialTLS := func(network, addr string) (net.Conn, error) {
		calls.Add(1)
		return tls.Dial(network, addr, &tls.Config{RootCAs: config.RootCAs})
	}
	for _, c := range []struct {
		name string
		base *http.Transport
		url  string
	}{
		{"DialContext", &http.Transport{DialContext: func(_ context.Context, n, a string) (net.Conn, error) { return dial(n, a) }}, plain.URL},
		{"DialContext below TLS", &http.Transport{TLSClientConfig: config, DialContext: func(_ context.Context, n, a string) (net.Conn, error) { return dial(n, a) }}, secure.URL},
		{"Dial", withDial(dial), plain.URL},
		{"DialTLSContext", &http.Transport{DialTLSContext: func(_ context.Context, n, a string) (net.Conn, error) { return dialTLS(n, a) }}, secure.URL},
		{"DialTLS", withDialTLS(dialTLS), secure.URL},
	} {
		t.Run(c.name, func(t *testing.T) {
			calls.Store(0)
			f := newFixture(t, c.base)
			resp, err := f.client.Get(c.url)
			require.NoError(t, err)
			conn := f.conn(t)
			require.EqualValues(t, 1, conn.Uses)
			require.Equal(t, "payments", conn.Name)
			require.Equal(t, strings.SplitAfter(c.url, "://")[1], conn.Target)
			require.Equal(t, "hello", readAll(t, resp))
			require.EqualValues(t, 1, calls.Load())
		})
	}
}

func TestANetDialerReplacesTheDialFunctionOfTheBase(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	f.pool.Dialer.NetDialer = &net.Dialer{ControlContext: func(context.Context, string, string, syscall.RawConn) error {
		return errors.New("refused by the NetDialer")
	}}
	_, err := f.client.Get(srv.URL)
	require.ErrorContains(t, err, "refused by the NetDialer")
}

func TestAttachedConnectionsAreAttributed(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	f.pool.Dialer.NoWrap = true
	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	conn := f.conn(t)
	require.False(t, conn.Wrapped)
	require.EqualValues(t, 1, conn.Uses)
	require.Equal(t, 1, conn.InUse)
	readAll(t, resp)
	require.Zero(t, f.conn(t).InUse)
}

func TestErrorsAreThoseOfThePlainTransport(t *testing.T) {
	closed := tcptest.Listen(t)
	refused := "http://" + closed.Addr().String()
	closed.Close()
	srv := serve(t, hello)
	nothing := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		base *http.Transport
		ctx  context.Context
		url  string
	}{
		{"refused", &http.Transport{}, t.Context(), refused},
		{"cancelled", &http.Transport{}, cancelled, srv.URL},
		{"scheme", &http.Transport{}, t.Context(), "gopher://x/"},
		{"no host", &http.Transport{}, t.Context(), "http:///x"},
		{"DialContext that returns nothing", &http.Transport{DialContext: nothing}, t.Context(), srv.URL},
		{"Dial that returns nothing", withDial(func(string, string) (net.Conn, error) { return nil, nil }), t.Context(), srv.URL},
		{"DialTLSContext that returns nothing", &http.Transport{DialTLSContext: nothing}, t.Context(), "https://127.0.0.1:1/"},
		{"HTTP to HTTPS", &http.Transport{TLSClientConfig: &tls.Config{}}, t.Context(), strings.Replace(srv.URL, "http:", "https:", 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(c.ctx, http.MethodGet, c.url, nil)
			require.NoError(t, err)
			_, want := c.base.RoundTrip(req)
			require.Error(t, want)
			resp, got := newFixture(t, c.base).pool.RoundTrip(req)
			require.Nil(t, resp)
			require.Equal(t, chain(want), chain(got))
		})
	}
	t.Run("no URL", func(t *testing.T) {
		_, want := new(http.Transport).RoundTrip(new(http.Request))
		_, got := newFixture(t, nil).pool.RoundTrip(new(http.Request))
		require.Equal(t, want, got)
	})
}

// chain lists the types and texts of an error and what it wraps.
func chain(err error) (list []string) {
	for ; err != nil; err = errors.Unwrap(err) {
		list = append(list, reflect.TypeOf(err).String()+": "+err.Error())
	}
	return list
}

func TestTheResponseCarriesTheRequestOfTheCaller(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	require.NoError(t, err)
	resp, err := f.pool.RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, req, resp.Request)
	require.Equal(t, t.Context(), req.Context())
	readAll(t, resp)
}

func TestEveryWayToEndARequestEndsItsUse(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/empty" {
			return
		}
		io.WriteString(w, "hello")
		if r.URL.Path == "/endless" {
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}, withTLS) // HTTP/2: the connection stays, whatever becomes of the request
	config := srv.Client().Transport.(*http.Transport).TLSClientConfig
	f := newFixture(t, &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	get := func(method, path string) *http.Response {
		req, err := http.NewRequestWithContext(ctx, method, srv.URL+path, nil)
		require.NoError(t, err)
		resp, err := f.client.Do(req)
		require.NoError(t, err)
		require.Equal(t, "HTTP/2.0", resp.Proto)
		return resp
	}
	inUse := func() int { return f.conn(t).InUse }

	resp := get("GET", "/")
	require.Equal(t, 1, inUse())
	readAll(t, resp)
	require.Zero(t, inUse(), "read to the end")
	resp.Body.Close()
	require.Zero(t, inUse())

	resp = get("GET", "/endless")
	require.Equal(t, 1, inUse())
	resp.Body.Close()
	require.Zero(t, inUse(), "closed")

	resp = get("HEAD", "/")
	require.Zero(t, inUse(), "no body")
	resp.Body.Close()

	resp = get("GET", "/empty")
	require.Zero(t, inUse(), "empty body")
	resp.Body.Close()

	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL, failingReader{})
	require.NoError(t, err)
	_, err = f.client.Do(req)
	require.ErrorContains(t, err, "no more")
	require.Zero(t, inUse(), "failed")

	resp = get("GET", "/endless")
	require.Equal(t, 1, inUse())
	cancel()
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, inUse(), "cancelled")
	require.EqualValues(t, 6, f.conn(t).Uses)
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("no more") }

func TestRequestsOverOneHTTP2ConnectionAreUsesOfTheirOwn(t *testing.T) {
	release := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-release
	}, withTLS)
	config := srv.Client().Transport.(*http.Transport).TLSClientConfig
	f := newFixture(t, &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true})

	var open []*http.Response
	for range 3 {
		resp, err := f.client.Get(srv.URL + "/secret")
		require.NoError(t, err)
		open = append(open, resp)
	}
	conn := f.conn(t)
	require.Equal(t, 3, conn.InUse)
	require.Equal(t, "GET "+strings.TrimPrefix(srv.URL, "https://"), conn.Use)
	close(release)
	for i, resp := range open {
		readAll(t, resp)
		require.Equal(t, 2-i, f.conn(t).InUse)
	}
}

func TestARetriedRequestMovesToTheNextConnection(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	ln := tcptest.Listen(t)
	get := func() chan *http.Response {
		answer := make(chan *http.Response, 1)
		go func() {
			resp, err := f.client.Get("http://" + ln.Addr().String())
			if err != nil {
				t.Error(err)
			}
			answer <- resp
		}()
		return answer
	}
	accept := func() *net.TCPConn {
		c, err := ln.AcceptTCP()
		require.NoError(t, err)
		_, err = http.ReadRequest(bufio.NewReader(c))
		require.NoError(t, err)
		return c
	}
	const response = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

	first := get()
	c := accept()
	io.WriteString(c, response)
	readAll(t, <-first)

	second := get()
	_, err := http.ReadRequest(bufio.NewReader(c)) // the warm connection
	require.NoError(t, err)
	require.Equal(t, 1, f.conn(t).InUse)
	require.EqualValues(t, 2, f.conn(t).Uses)
	c.Close() // without an answer: net/http tries again
	c = accept()
	defer c.Close()
	conn := f.conn(t)
	require.Equal(t, 1, conn.InUse)
	require.EqualValues(t, 1, conn.Uses)
	io.WriteString(c, response)
	readAll(t, <-second)
	require.Zero(t, f.conn(t).InUse)
}

func TestATunnelAfterSwitchingProtocolsCanBeWrittenTo(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.Copy(c, rw)
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := f.client.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)

	tunnel, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	_, err = io.WriteString(tunnel, "there and back")
	require.NoError(t, err)
	got := make([]byte, len("there and back"))
	_, err = io.ReadFull(tunnel, got)
	require.NoError(t, err)
	require.Equal(t, "there and back", string(got))
	half, ok := tunnel.(interface{ CloseWrite() error })
	require.True(t, ok)
	require.NoError(t, half.CloseWrite())
	_, err = tunnel.Read(got)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 1, f.conn(t).InUse, "only Close ends it")
	require.NoError(t, tunnel.Close())
	f.waitGone(t)
}

func TestTheTraceOfTheCallerIsKept(t *testing.T) {
	for name, key := range map[string]any{"bundled": nil, "by httptrace": "no key known"} {
		t.Run(name, func(t *testing.T) {
			if key != nil {
				defer httppool.ForgetTraceKey()()
			}
			srv := serve(t, hello)
			f := newFixture(t, nil)
			var events []string
			var got net.Conn
			note := func(s string) { events = append(events, s) }
			var connected atomic.Int32
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GotConn:      func(httptrace.GotConnInfo) { note("outer conn") },
				WroteRequest: func(httptrace.WroteRequestInfo) {}, // on another goroutine
			})
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				GetConn:     func(string) { note("get") },
				ConnectDone: func(string, string, error) { connected.Add(1) },
				GotConn: func(info httptrace.GotConnInfo) {
					note("inner conn")
					got = info.Conn
					require.Equal(t, 1, f.conn(t).InUse) // ours comes first
				},
			})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			require.NoError(t, err)
			resp, err := f.client.Do(req)
			require.NoError(t, err)
			readAll(t, resp)
			require.Equal(t, []string{"get", "inner conn", "outer conn"}, events)
			require.EqualValues(t, 1, connected.Load())
			require.Same(t, f.tracker, f.pool.Dialer.Tracker)
			require.Equal(t, f.conn(t).ID, f.tracker.Of(got).ID())
			require.Zero(t, f.conn(t).InUse)
		})
	}
}

func TestARequestIsNamedByItsContext(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, c := range []struct {
		use  tcpstate.Use
		want string
	}{
		{tcpstate.Use{}, "POST " + host},
		{tcpstate.Use{Name: "charge"}, "POST charge"},
		{tcpstate.Use{Method: "CHARGE"}, "CHARGE " + host},
		{tcpstate.Use{Method: "CHARGE", Name: "payments"}, "CHARGE payments"},
	} {
		ctx := tcpstate.WithUse(t.Context(), c.use)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/path?query#fragment", nil)
		require.NoError(t, err)
		req.URL.User = url.UserPassword("user", "secret")
		resp, err := f.client.Do(req)
		require.NoError(t, err)
		readAll(t, resp)
		require.Equal(t, c.want, f.conn(t).Use)
	}
}

func TestObserversReceiveTheTraceOfTheRequest(t *testing.T) {
	type traceKey struct{}
	srv := serve(t, hello)
	f := newFixture(t, nil)
	closed := make(chan tcpstate.ClosedInfo, 1)
	stop := f.tracker.Observe(&tcpstate.Observer{
		Token:  func(ctx context.Context) any { return ctx.Value(traceKey{}) },
		Closed: func(c tcpstate.ClosedInfo) { closed <- c },
	})
	defer stop()
	for _, id := range []string{"first", "second"} {
		req, err := http.NewRequestWithContext(context.WithValue(t.Context(), traceKey{}, id), http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		resp, err := f.client.Do(req)
		require.NoError(t, err)
		readAll(t, resp)
	}
	f.client.CloseIdleConnections()
	f.waitGone(t)
	f.clock.Advance(2e9)
	got := <-closed
	require.Equal(t, "first", got.DialToken)
	require.Equal(t, "second", got.UseToken)
	require.EqualValues(t, 2, got.Uses)
}

func TestNothingIsAttributedWhileTheTrackerIsOff(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	require.NoError(t, f.tracker.Set(func(c *tcpstate.Config) { c.Off = true }))
	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp))
	require.Zero(t, f.tracker.Stats().Opened)
}

func TestAConnectionThatIsTrackedAlreadyIsTrackedOnce(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	d := dialer.Dialer{Tracker: f.tracker, Name: "first"}
	f.pool.Base = &http.Transport{DialContext: d.DialContext}
	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp))
	conn := f.conn(t)
	require.Equal(t, "first", conn.Name)
	require.EqualValues(t, 1, conn.Uses)
}

// The fields are deprecated, but still work.

func withDial(dial func(network, addr string) (net.Conn, error)) *http.Transport {
	//lint:ignore SA1019 see above
	return &http.Transport{Dial: dial}
}

func withDialTLS(dial func(network, addr string) (net.Conn, error)) *http.Transport {
	//lint:ignore SA1019 see above
	return &http.Transport{DialTLS: dial}
}
