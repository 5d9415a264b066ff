package httppool_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// BenchmarkWarmRequest measures a request over a connection that is there
// already. Most of it is the kernel and the server.
func BenchmarkWarmRequest(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(hello))
	defer srv.Close()
	run := func(name string, p pool) {
		b.Run(name, func(b *testing.B) {
			defer p.CloseIdleConnections()
			bench(b, p, srv.URL)
		})
	}
	tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
	d := dialer.Dialer{Tracker: tr}
	run("plain", &http.Transport{})
	run("tracked without attribution", &http.Transport{DialContext: d.DialContext})
	run("httppool", &httppool.Transport{Base: &http.Transport{}, Dialer: d})
}

// BenchmarkOverhead measures what a request costs on top of net/http: the
// transport below answers at once.
func BenchmarkOverhead(b *testing.B) {
	tr := leaktest.Tracker(b, leaktest.IgnoreFindings())
	client, _ := tcptest.Pair(b)
	stub := &stub{conn: tr.Track(client, tcpstate.Origin{})}
	plain := &http.Transport{}
	plain.RegisterProtocol("stub", stub)
	b.Run("plain", func(b *testing.B) { bench(b, plain, "stub://payments/") })
	tracked := &httppool.Transport{Base: &http.Transport{}, Dialer: dialer.Dialer{Tracker: tr}}
	tracked.Inner().RegisterProtocol("stub", stub)
	b.Run("httppool", func(b *testing.B) { bench(b, tracked, "stub://payments/") })
	off := new(tcpstate.Tracker)
	off.Config.Off = true
	defer off.Close()
	killed := &httppool.Transport{Base: &http.Transport{}, Dialer: dialer.Dialer{Tracker: off}}
	killed.Inner().RegisterProtocol("stub", stub)
	b.Run("off", func(b *testing.B) { bench(b, killed, "stub://payments/") })
}

func TestAWarmRequestAllocatesFourTimesMoreThanOnThePlainTransport(t *testing.T) {
	tr := leaktest.Tracker(t, leaktest.IgnoreFindings())
	client, _ := tcptest.Pair(t)
	stub := &stub{conn: tr.Track(client, tcpstate.Origin{})}
	plain := &http.Transport{}
	plain.RegisterProtocol("stub", stub)
	tracked := &httppool.Transport{Base: &http.Transport{}, Dialer: dialer.Dialer{Tracker: tr}}
	tracked.Inner().RegisterProtocol("stub", stub)
	allocs := func(rt http.RoundTripper) float64 {
		req := request(t, "stub://payments/")
		return testing.AllocsPerRun(1000, func() { roundTrip(t, rt, req) })
	}
	require.LessOrEqual(t, allocs(tracked)-allocs(plain), 4.5)
}

type pool interface {
	http.RoundTripper
	CloseIdleConnections()
}

func bench(b *testing.B, rt http.RoundTripper, url string) {
	req := request(b, url)
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, rt, req)
	}
}

func request(t testing.TB, url string) *http.Request {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	return req
}

func roundTrip(t testing.TB, rt http.RoundTripper, req *http.Request) {
	client := http.Client{Transport: rt}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// stub is a connection that answers without I/O, the way net/http would.
type stub struct{ conn *tcpstate.Conn }

func (s *stub) RoundTrip(req *http.Request) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: s.conn, Reused: true, WasIdle: true})
	}
	return &http.Response{ProtoMajor: 1, StatusCode: 200, Request: req, ContentLength: 5, Body: io.NopCloser(strings.NewReader("hello"))}, nil
}
