package httppool_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

// fixture is a client whose tracker has a clock of its own.
type fixture struct {
	tracker *tcpstate.Tracker
	clock   *testclock.Clock
	pool    *httppool.Transport
	client  *http.Client
}

// newFixture makes a client with a clone of base for its pool.
func newFixture(t *testing.T, base *http.Transport) *fixture {
	t.Helper()
	f := &fixture{tracker: new(tcpstate.Tracker)}
	f.clock = testclock.Install(f.tracker)
	f.pool = &httppool.Transport{Base: base, Dialer: dialer.Dialer{Tracker: f.tracker, Name: "payments"}}
	f.client = &http.Client{Transport: f.pool}
	t.Cleanup(func() {
		f.tracker.Close()
		testclock.Remove(f.tracker)
	})
	// Tests look at findings. An HTTP/2 connection is not closed as idle when its
	// answer has just been read.
	leaktest.Check(t, f.tracker, leaktest.IgnoreFindings(), leaktest.IdleHTTP())
	t.Cleanup(f.client.CloseIdleConnections)
	return f
}

// conn returns the one connection there is, and fails the test otherwise.
func (f *fixture) conn(t *testing.T) tcpstate.Snapshot {
	t.Helper()
	conns := slices.Collect(f.tracker.Conns())
	require.Len(t, conns, 1)
	return conns[0]
}

// waitState waits until the one connection there is has the state want.
func (f *fixture) waitState(t *testing.T, want tcpstate.State) {
	t.Helper()
	tcptest.WaitUntil(t, "state "+want.String(), func() bool { return f.conn(t).State == want })
}

// waitGone waits until no connection is left.
func (f *fixture) waitGone(t *testing.T) {
	t.Helper()
	tcptest.WaitUntil(t, "the connections to be closed", func() bool { return f.tracker.Stats().Open == 0 })
}

// serve starts a server and closes it when the test ends.
func serve(t *testing.T, h http.HandlerFunc, configure ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	for _, c := range configure {
		c(srv)
	}
	if srv.URL == "" {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// withTLS serves HTTPS, and HTTP/2 if the client wants it.
func withTLS(srv *httptest.Server) {
	srv.EnableHTTP2 = true
	srv.StartTLS()
}

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }

// middleware is a RoundTripper of the application.
type middleware struct{ next http.RoundTripper }

func (m *middleware) RoundTrip(req *http.Request) (*http.Response, error) {
	return m.next.RoundTrip(req)
}

// readAll reads the response to its end, and nothing else.
func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

// place is the name, file and line of the calling function.
type place struct {
	function string
	line     int
}

func here() place {
	pc, _, line, _ := runtime.Caller(1)
	return place{runtime.FuncForPC(pc).Name(), line}
}
