package httpserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// running makes the handler of a fixture report what is seen of it while it
// runs.
func running(f **fixture, seen chan<- tcpstate.Snapshot) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for c := range (*f).tracker.Conns() {
			seen <- c
		}
	}
}

func TestARunningHandlerIsAUseOfItsConnection(t *testing.T) {
	var f *fixture
	seen := make(chan tcpstate.Snapshot, 1)
	mux := http.NewServeMux()
	mux.Handle("GET /v1/reports/{id}", running(&f, seen))
	f = newFixture(t, mux).start(t)
	client := f.send(t, "")
	for i := range 2 {
		code, _ := get(t, client, "/v1/reports/id-4711?token=s3cret")
		require.Equal(t, 200, code)
		got := <-seen
		require.Equal(t, "GET /v1/reports/{id}", got.Use)
		require.Equal(t, 1, got.InUse)
		require.EqualValues(t, i+1, got.Uses)
		f.waitIdle(t)
	}
}

func TestTheContextOfARequestHasTheWatchOfItsConnection(t *testing.T) {
	type key struct{}
	watches := make(chan *tcpstate.Watch, 1)
	f := newFixture(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "the user's", r.Context().Value(key{}))
		watches <- tcpstate.FromContext(r.Context())
	}))
	f.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		require.IsType(t, (*tcpstate.Conn)(nil), c)
		return context.WithValue(ctx, key{}, "the user's")
	}
	f.start(t)
	client := f.send(t, "")
	get(t, client, "/")
	require.Equal(t, client.LocalAddr().String(), (<-watches).RemoteAddr().String())
}

func TestTheUsersConnStateIsCalled(t *testing.T) {
	var mu sync.Mutex
	var states []http.ConnState
	f := newFixture(t, newAPI(t).mux())
	f.server.ConnState = func(_ net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, s)
	}
	f.start(t)
	get(t, f.send(t, ""), "/hello/you")
	tcptest.WaitUntil(t, "the connection to be idle", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(states, []http.ConnState{http.StateNew, http.StateActive, http.StateIdle})
	})
}

func TestANilConnContextIsStillRefusedByNetHTTP(t *testing.T) {
	srv := &http.Server{ConnContext: func(context.Context, net.Conn) context.Context { return nil }}
	httpserver.Instrument(srv)
	require.Nil(t, srv.ConnContext(t.Context(), nil))
}

func TestANilHandlerIsTheDefaultServeMux(t *testing.T) {
	before := http.DefaultServeMux
	defer func() { http.DefaultServeMux = before }()
	http.DefaultServeMux = newAPI(t).mux()
	f := newFixture(t, nil).start(t)
	code, body := get(t, f.send(t, ""), "/hello/you")
	require.Equal(t, 200, code)
	require.Equal(t, "hello", body)
	require.Equal(t, "GET /hello/{name}", f.conn(t).Use)
}

func TestConnectionsThatAreNotTrackedAreServed(t *testing.T) {
	f := newFixture(t, newAPI(t).mux())
	httpserver.Instrument(f.server)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.serve(t, ln)
	code, body := get(t, f.send(t, ""), "/hello/you")
	require.Equal(t, 200, code)
	require.Equal(t, "hello", body)
	require.Zero(t, f.tracker.Stats().Opened)

	c := f.send(t, "GET /ws/ HTTP/1.1\r\nHost: x\r\n\r\n") // hijacked
	c.Close()
}

func TestAttachedConnectionsAreKnownToTheirTracker(t *testing.T) {
	f := newFixture(t, newAPI(t).mux())
	f.config.NoWrap = true
	f.start(t, httpserver.WithTracker(f.tracker))
	get(t, f.send(t, ""), "/hello/you")
	require.False(t, f.conn(t).Wrapped)
	require.Equal(t, "GET /hello/{name}", f.conn(t).Use)
}

func TestTLSAndHTTP2(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			api := newAPI(t)
			f := newFixture(t, api.mux())
			server, client := tcptest.TLSConfigs(t)
			f.server.TLSConfig = server
			f.start(t)

			transport := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: proto == "HTTP/2.0"}
			defer transport.CloseIdleConnections()
			var wg sync.WaitGroup
			requests := 1
			if proto == "HTTP/2.0" {
				requests = 3
			}
			for range requests {
				wg.Go(func() {
					resp, err := (&http.Client{Transport: transport}).Get("https://" + f.addr + "/v1/reports/id-4711")
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if resp.Proto != proto {
						t.Errorf("got %s, want %s", resp.Proto, proto)
					}
				})
				<-api.entered // one after the other, so that HTTP/2 shares a connection
			}
			got := f.conn(t)
			require.Equal(t, requests, got.InUse)
			require.Equal(t, "GET /v1/reports/{id}", got.Use)
			close(api.release)
			wg.Wait()
			f.waitIdle(t)
			require.EqualValues(t, requests, f.conn(t).Uses)
		})
	}
}

func TestInstrumentingAgainChangesNothing(t *testing.T) {
	var f *fixture
	seen := make(chan tcpstate.Snapshot, 1)
	f = newFixture(t, running(&f, seen))
	httpserver.Instrument(f.server)
	first := f.server.Handler
	httpserver.Instrument(f.server, httpserver.WithRoute(func(*http.Request) string { return "ignored" }))
	require.Same(t, first, f.server.Handler)
	f.start(t)
	get(t, f.send(t, ""), "/")
	got := <-seen
	require.Equal(t, 1, got.InUse)
	require.EqualValues(t, 1, got.Uses)
	require.Equal(t, "GET", got.Use)
}

func TestInstrumentingAgainAroundMiddlewareCountsARequestOnce(t *testing.T) {
	var f *fixture
	seen := make(chan tcpstate.Snapshot, 1)
	mux := http.NewServeMux()
	mux.Handle("/inner/{id}", running(&f, seen))
	f = newFixture(t, mux)
	httpserver.Instrument(f.server)
	f.server.Handler = withValue(f.server.Handler)
	f.start(t)
	get(t, f.send(t, ""), "/inner/4711")
	got := <-seen
	require.Equal(t, 1, got.InUse)
	require.EqualValues(t, 1, got.Uses)
	require.Equal(t, "GET /inner/{id}", got.Use)
	f.waitIdle(t)
}

type valueKey struct{}

// withValue is middleware in the manner of tracers: it puts something into the
// context.
func withValue(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), valueKey{}, "span")))
	})
}

func TestTheTraceIsTheOneAtTheInnermostHandler(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler func(http.Handler) http.Handler
		want    any
	}{
		{"no middleware", func(h http.Handler) http.Handler { return h }, nil},
		{"middleware", withValue, nil},
		{"middleware above Handler", func(h http.Handler) http.Handler { return withValue(httpserver.Handler(h)) }, "span"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, c.handler(newAPI(t).mux()))
			closed := make(chan tcpstate.ClosedInfo, 1)
			defer f.tracker.Observe(&tcpstate.Observer{
				Token:  func(ctx context.Context) any { return ctx.Value(valueKey{}) },
				Closed: func(c tcpstate.ClosedInfo) { closed <- c },
			})()
			f.start(t)
			client := f.send(t, "")
			get(t, client, "/hello/you")
			f.waitIdle(t)
			client.Close()
			f.waitGone(t)
			f.clock.Advance(2 * time.Second)
			got := <-closed
			require.Equal(t, c.want, got.UseToken)
			require.EqualValues(t, 1, got.Uses)
		})
	}
}

func TestRoutesOfOtherRouters(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.Handler
		opts    []httpserver.Option
		want    string
	}{
		"no route":              {http.HandlerFunc(hello), nil, "GET"},
		"by function":           {http.HandlerFunc(hello), route("/by/{function}"), "GET /by/{function}"},
		"function over mux":     {newAPI(t).mux(), route("/by/{function}"), "GET /by/{function}"},
		"function says nothing": {newAPI(t).mux(), route(""), "GET /hello/{name}"},
		"function panics": {newAPI(t).mux(), []httpserver.Option{
			httpserver.WithRoute(func(*http.Request) string { panic("no route") }),
		}, "GET /hello/{name}"},
		"handler in a router": {router{httpserver.Handler(http.HandlerFunc(hello))}, nil, "GET /set/{by}/router"},
		"handler in a router, by function": {
			router{httpserver.Handler(http.HandlerFunc(hello), route("/inner")...)}, route("/outer"), "GET /inner",
		},
		"muxes in a row": {prefixed("/", prefixed("/hello/", newAPI(t).mux())), nil, "GET /hello/{name}"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, c.handler).start(t, c.opts...)
			code, body := get(t, f.send(t, ""), "/hello/you")
			require.Equal(t, 200, code)
			require.Equal(t, "hello", body)
			f.waitIdle(t)
			require.Equal(t, c.want, f.conn(t).Use)
			require.EqualValues(t, 1, f.conn(t).Uses)
		})
	}
}

func route(name string) []httpserver.Option {
	return []httpserver.Option{httpserver.WithRoute(func(*http.Request) string { return name })}
}

func prefixed(prefix string, h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(prefix, h)
	return mux
}

// router is somebody's router, which says on the request what it chose.
type router struct{ next http.Handler }

func (o router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Pattern = "/set/{by}/router"
	o.next.ServeHTTP(w, r)
}

func TestAHandlerSeesTheResponseWriterAndRequestOfNetHTTP(t *testing.T) {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	srv := &http.Server{Handler: http.HandlerFunc(func(gotW http.ResponseWriter, gotR *http.Request) {
		require.Same(t, w, gotW)
		require.Same(t, r, gotR)
	})}
	httpserver.Instrument(srv)
	srv.Handler.ServeHTTP(w, r)

	f := newFixture(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, isFlusher := w.(http.Flusher)
		_, isHijacker := w.(http.Hijacker)
		_, isReaderFrom := w.(io.ReaderFrom)
		require.True(t, isFlusher && isHijacker && isReaderFrom)
		require.NoError(t, http.NewResponseController(w).SetReadDeadline(time.Time{}))
		file, err := os.Open("main_test.go")
		require.NoError(t, err)
		defer file.Close()
		_, err = io.Copy(w, file)
		require.NoError(t, err)
	})).start(t)
	want, err := os.ReadFile("main_test.go")
	require.NoError(t, err)
	_, got := get(t, f.send(t, ""), "/")
	require.Equal(t, string(want), got)
}

func TestAPanicPassesThroughAndEndsTheUse(t *testing.T) {
	f := newFixture(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("the handler's") })).start(t)
	client, server := tcptest.Pair(t)
	conn := f.tracker.Track(server, tcpstate.Origin{Role: tcpstate.Server})
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(tcpstate.NewContext(t.Context(), conn.Watch()))
	require.PanicsWithValue(t, "the handler's", func() { f.server.Handler.ServeHTTP(httptest.NewRecorder(), r) })
	require.Zero(t, conn.Watch().Snapshot().InUse)
	require.EqualValues(t, 1, conn.Watch().Snapshot().Uses)
	client.Close()
	conn.Close()

	over := f.send(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_, err := http.ReadResponse(bufio.NewReader(over), nil)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestAHijackedConnectionIsInUseUntilItIsClosed(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux())
	server, client := tcptest.TLSConfigs(t)
	server.NextProtos = []string{"http/1.1"}
	f.server.TLSConfig = server
	f.start(t)
	conn, err := tls.Dial("tcp", f.addr, client)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /ws/ HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	ctx := <-api.entered
	held := <-api.held
	require.IsType(t, (*tls.Conn)(nil), held)
	<-ctx.Done() // the handler has returned
	require.Equal(t, 1, f.conn(t).InUse)
	require.Equal(t, "GET /ws/", f.conn(t).Use)
	require.NoError(t, held.Close())
	f.waitGone(t)
}

func TestAServerOnAUnixSocketIsServed(t *testing.T) {
	f := newFixture(t, newAPI(t).mux())
	httpserver.Instrument(f.server)
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	f.serve(t, f.config.Wrap(ln))
	c, err := net.Dial("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	defer c.Close()
	code, _ := get(t, c, "/hello/you")
	require.Equal(t, 200, code)
}

func TestRoutesNeverShowThePathOfARedirect(t *testing.T) {
	mux := newAPI(t).mux()
	mux.HandleFunc("/tree/", hello)
	for _, request := range []string{
		"GET //hello//s3cret HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /tree HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT /tree HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /s3cret HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f := newFixture(t, mux).start(t)
		c := f.send(t, request)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		resp.Body.Close()
		use := f.conn(t).Use
		method, rest, _ := strings.Cut(use, " ")
		require.True(t, strings.HasPrefix(request, method), use)
		require.Empty(t, rest)
		c.Close()
	}
}
