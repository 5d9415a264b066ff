package httpserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

// fixture is a server whose tracker has a clock of its own.
type fixture struct {
	tracker *tcpstate.Tracker
	clock   *testclock.Clock
	server  *http.Server
	config  listener.Config
	addr    string
}

func newFixture(t *testing.T, h http.Handler) *fixture {
	t.Helper()
	f := &fixture{tracker: new(tcpstate.Tracker)}
	f.clock = testclock.Install(f.tracker)
	f.server = &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	f.config = listener.Config{Tracker: f.tracker, Name: "api"}
	t.Cleanup(func() {
		f.tracker.Close()
		testclock.Remove(f.tracker)
	})
	leaktest.Check(t, f.tracker, leaktest.IgnoreFindings()) // tests look at them
	return f
}

// start instruments the server and serves until the test ends.
func (f *fixture) start(t *testing.T, opts ...httpserver.Option) *fixture {
	t.Helper()
	httpserver.Instrument(f.server, opts...)
	ln, err := f.config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.serve(t, ln)
	return f
}

func (f *fixture) serve(t *testing.T, ln net.Listener) {
	t.Helper()
	f.addr = ln.Addr().String()
	done := make(chan error)
	secure := f.server.TLSConfig != nil // net/http sets it, too
	go func() {
		if secure {
			done <- f.server.ServeTLS(ln, "", "")
		} else {
			done <- f.server.Serve(ln)
		}
	}()
	t.Cleanup(func() {
		f.server.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
}

// send opens a connection and sends what a client would. Its cleanup runs
// before that of the server.
func (f *fixture) send(t *testing.T, text string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	return c.(*net.TCPConn)
}

// get makes a request over c and returns the status and body.
func get(t *testing.T, c net.Conn, path string) (int, string) {
	t.Helper()
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
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

// waitIdle waits until no handler runs: the client has its answer before the
// handler has returned.
func (f *fixture) waitIdle(t *testing.T) {
	t.Helper()
	tcptest.WaitUntil(t, "the handlers to return", func() bool { return f.conn(t).InUse == 0 })
}

// finding returns the one finding there is, and fails the test otherwise.
func (f *fixture) finding(t *testing.T) tcpstate.Finding {
	t.Helper()
	found := f.tracker.Findings()
	require.Len(t, found, 1)
	return found[0]
}

// reports returns a function that returns the kinds reported so far. It may be
// called once.
func (f *fixture) reports(t *testing.T) func() []tcpstate.Kind {
	t.Helper()
	var kinds []tcpstate.Kind // written by the observer, read after stop
	stop := f.tracker.Observe(&tcpstate.Observer{
		Opened:  func(g tcpstate.Finding) { kinds = append(kinds, g.Kind) },
		Changed: func(g tcpstate.Finding) { kinds = append(kinds, g.Kind) },
	})
	t.Cleanup(stop)
	return func() []tcpstate.Kind {
		stop()
		return kinds
	}
}

// reportsAPI is a service of which some handlers wait until they are released.
type reportsAPI struct {
	entered chan context.Context // of the request
	release chan struct{}
	held    chan net.Conn
}

func newAPI(t *testing.T) *reportsAPI {
	a := &reportsAPI{entered: make(chan context.Context, 100), release: make(chan struct{}), held: make(chan net.Conn, 1)}
	t.Cleanup(func() { // runs before the cleanup of the server
		select {
		case <-a.release:
		default:
			close(a.release)
		}
	})
	return a
}

func (a *reportsAPI) create(w http.ResponseWriter, r *http.Request) {
	a.entered <- r.Context()
	<-a.release
}

func (a *reportsAPI) hijack(w http.ResponseWriter, r *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	a.held <- c
	a.entered <- r.Context()
}

func (a *reportsAPI) mux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/reports/{id}", a.create)
	mux.HandleFunc("GET /v1/reports/{id}", a.create)
	mux.HandleFunc("/ws/", a.hijack)
	mux.HandleFunc("GET /hello/{name}", hello)
	return mux
}

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }

const pkg = "github.com/tcpstate/tcpstate-go/listener/httpserver_test."

// requireSite checks that s shows a function of this package, which is declared
// in main_test.go by the line that begins with decl.
func requireSite(t *testing.T, s tcpstate.Site, role, function, decl string) {
	t.Helper()
	require.Equal(t, role, s.Role)
	requireFrame(t, s.Frames[0], function, decl)
}

func requireFrame(t *testing.T, f tcpstate.Frame, function, decl string) {
	t.Helper()
	require.Equal(t, pkg+function, f.Function)
	require.Equal(t, "listener/httpserver/main_test.go", f.File)
	require.Equal(t, lineOf(t, decl), f.Line)
}

// lineOf returns the number of the one line of main_test.go that begins with
// decl.
func lineOf(t *testing.T, decl string) int {
	t.Helper()
	source, err := os.ReadFile("main_test.go")
	require.NoError(t, err)
	line, n := 0, 0
	for text := range strings.Lines(string(source)) {
		n++
		if strings.HasPrefix(text, decl) {
			require.Zero(t, line, "%q begins two lines", decl)
			line = n
		}
	}
	require.NotZero(t, line, "%q not found", decl)
	return line
}
