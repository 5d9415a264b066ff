package httpserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
)

// plainWriter is what careless middleware makes of a ResponseWriter: nothing of
// it is left but what Unwrap leads to.
type plainWriter struct{ w http.ResponseWriter }

func (p *plainWriter) Header() http.Header         { return p.w.Header() }
func (p *plainWriter) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *plainWriter) WriteHeader(code int)        { p.w.WriteHeader(code) }
func (p *plainWriter) Unwrap() http.ResponseWriter { return p.w }
func hiding(next http.Handler) http.Handler        { return hider{next} }
func timing(next http.Handler) http.Handler {
	return http.TimeoutHandler(next, time.Minute, "too late")
}
func stripping(next http.Handler) http.Handler    { return http.StripPrefix("/api", next) }
func limiting(next http.Handler) http.Handler     { return http.MaxBytesHandler(next, 1<<20) }
func unchanged(next http.Handler) http.Handler    { return next }
func instrumented(next http.Handler) http.Handler { return httpserver.Handler(next) }
func both(a, b func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return a(b(next)) }
}

type hider struct{ next http.Handler }

func (h hider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.next.ServeHTTP(&plainWriter{w}, r)
}

func TestMiddlewareMayStandAnywhere(t *testing.T) {
	for name, tt := range map[string]struct {
		wrap func(http.Handler) http.Handler
		path string
		use  string
	}{
		"none":                        {unchanged, "/hello/you", "GET /hello/{name}"},
		"timeout":                     {timing, "/hello/you", "GET"},
		"timeout above Handler":       {both(timing, instrumented), "/hello/you", "GET /hello/{name}"},
		"hides everything":            {hiding, "/hello/you", "GET"},
		"hides, above Handler":        {both(hiding, instrumented), "/hello/you", "GET /hello/{name}"},
		"strips a prefix":             {stripping, "/api/hello/you", "GET"},
		"strips, above Handler":       {both(stripping, instrumented), "/api/hello/you", "GET /hello/{name}"},
		"limits, above Handler twice": {both(limiting, both(instrumented, instrumented)), "/hello/you", "GET /hello/{name}"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.wrap(newAPI(t).mux())).start(t)
			code, body := get(t, f.send(t, ""), tt.path)
			require.Equal(t, 200, code)
			require.Equal(t, "hello", body)
			f.waitIdle(t)
			require.Equal(t, tt.use, f.conn(t).Use)
			require.EqualValues(t, 1, f.conn(t).Uses)
		})
	}
}

// What a handler can do, directly or through http.ResponseController, it can do
// below Instrument and Handler.
func TestNothingIsLostToAHandler(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"alone": unchanged, "below Handler": instrumented, "below what hides": both(instrumented, hiding),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := http.NewResponseController(w)
				if err := c.EnableFullDuplex(); err != nil {
					t.Error(err)
				}
				if err := c.SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
					t.Error(err)
				}
				io.WriteString(w, "begin ")
				if err := c.Flush(); err != nil {
					t.Error(err)
				}
				b, err := io.ReadAll(r.Body) // comes after the begin of the answer
				if err != nil {
					t.Error(err)
				}
				w.Write(b)
			}))).start(t)
			c := f.send(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			defer resp.Body.Close()
			_, err = io.ReadFull(resp.Body, make([]byte, len("begin ")))
			require.NoError(t, err)
			_, err = io.WriteString(c, "end")
			require.NoError(t, err)
			rest, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "end", string(rest))
		})
	}
}

func TestAHandlerOfHTTP2CanPush(t *testing.T) {
	f := newFixture(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, pushes := w.(http.Pusher)
		_, flushes := w.(http.Flusher)
		//lint:ignore SA1019 old handlers use it
		_, notifies := w.(http.CloseNotifier)
		if !pushes || !flushes || !notifies {
			t.Error("the ResponseWriter is not that of net/http")
		}
	}))
	server, client := tcptest.TLSConfigs(t)
	f.server.TLSConfig = server
	f.start(t)
	transport := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + f.addr)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
}

func TestHTTP2WithoutTLS(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux())
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	f.server.Protocols = protocols
	f.start(t)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	done := make(chan error, 2)
	for range 2 {
		go func() {
			resp, err := (&http.Client{Transport: transport}).Get("http://" + f.addr + "/v1/reports/id-4711")
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
		<-api.entered
	}
	require.Equal(t, 2, f.conn(t).InUse)
	require.Equal(t, "GET /v1/reports/{id}", f.conn(t).Use)
	f.clock.Advance(2 * time.Minute)
	require.Empty(t, f.tracker.Findings())
	close(api.release)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	f.waitIdle(t)
}

func TestAServerMayServeSeveralListeners(t *testing.T) {
	f := newFixture(t, newAPI(t).mux()).start(t)
	first := f.addr
	f.config.Name = "admin"
	ln, err := f.config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(ln) }()
	t.Cleanup(func() {
		ln.Close()
		<-served
	})
	for _, addr := range []string{first, ln.Addr().String()} {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		get(t, c, "/hello/you")
	}
	var names []string
	for c := range f.tracker.Conns() {
		require.Equal(t, "GET /hello/{name}", c.Use)
		names = append(names, c.Name)
	}
	slices.Sort(names)
	require.Equal(t, []string{"admin", "api"}, names)
}

func TestBaseContextIsKept(t *testing.T) {
	type key struct{}
	seen := make(chan any, 1)
	f := newFixture(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Context().Value(key{}) }))
	httpserver.Instrument(f.server)
	f.server.BaseContext = func(net.Listener) context.Context {
		return context.WithValue(context.Background(), key{}, "the user's")
	}
	f.start(t)
	get(t, f.send(t, ""), "/")
	require.Equal(t, "the user's", <-seen)
	f.waitIdle(t)
	require.EqualValues(t, 1, f.conn(t).Uses)
}

// Whoever replaces our functions loses what they know, and nothing else.
func TestFunctionsThatAreSetLaterReplaceOurs(t *testing.T) {
	f := newFixture(t, newAPI(t).mux())
	httpserver.Instrument(f.server)
	f.server.ConnContext = func(ctx context.Context, _ net.Conn) context.Context { return ctx }
	f.server.ConnState = nil
	f.start(t)
	code, body := get(t, f.send(t, ""), "/hello/you")
	require.Equal(t, 200, code)
	require.Equal(t, "hello", body)
	require.Zero(t, f.conn(t).Uses)
	f.clock.Advance(2 * time.Minute)
	require.Empty(t, f.tracker.Findings())
}

// A handler serves several servers, one after the other and at the same time.
func TestAnInstrumentedHandlerMayServeAnotherServer(t *testing.T) {
	first := newFixture(t, newAPI(t).mux()).start(t)
	second := newFixture(t, first.server.Handler).start(t)
	for _, f := range []*fixture{first, second} {
		get(t, f.send(t, ""), "/hello/you")
		f.waitIdle(t)
		require.Equal(t, "GET /hello/{name}", f.conn(t).Use)
		require.EqualValues(t, 1, f.conn(t).Uses)
	}
}

func TestAHandlerMayBeAllThatAServerHas(t *testing.T) {
	f := newFixture(t, httpserver.Handler(newAPI(t).mux())).start(t)
	get(t, f.send(t, ""), "/hello/you")
	f.waitIdle(t)
	require.Equal(t, "GET /hello/{name}", f.conn(t).Use)
	require.EqualValues(t, 1, f.conn(t).Uses)
}

func TestAHijackedTLSConnectionKeepsItsBufferedBytes(t *testing.T) {
	f := newFixture(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		line, err := rw.ReadString('\n')
		if err != nil {
			t.Error(err)
		}
		io.WriteString(c, strings.ToUpper(line))
	}))
	server, client := tcptest.TLSConfigs(t)
	server.NextProtos = []string{"http/1.1"}
	f.server.TLSConfig = server
	f.start(t)
	c, err := tls.Dial("tcp", f.addr, client)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\nsent ahead\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "SENT AHEAD\n", string(answer))
	f.waitGone(t)
}
