package httpstack

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	tcpotel "github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// fixture is a tracker that reports to a recorder of spans.
type fixture struct {
	tracker *tcpstate.Tracker
	clock   *testclock.Clock
	spans   *tracetest.SpanRecorder
	traces  *sdktrace.TracerProvider
	options []otelhttp.Option
	stop    func()
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{tracker: &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}, spans: tracetest.NewSpanRecorder()}
	f.clock = testclock.Install(f.tracker)
	f.traces = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(f.spans))
	f.options = []otelhttp.Option{otelhttp.WithTracerProvider(f.traces), otelhttp.WithPropagators(propagation.TraceContext{})}
	stop, err := tcpotel.Start(tcpotel.WithTracker(f.tracker), tcpotel.WithTracerProvider(f.traces), tcpotel.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	stopped := false
	f.stop = func() {
		if !stopped {
			stopped = true
			require.NoError(t, stop(context.Background()))
		}
	}
	t.Cleanup(func() {
		f.stop()
		f.tracker.Close()
		testclock.Remove(f.tracker)
	})
	leaktest.Check(t, f.tracker, leaktest.IgnoreFindings(), leaktest.IdleHTTP())
	return f
}

// span returns the one span of that name that has ended.
func (f *fixture) span(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	var found []sdktrace.ReadOnlySpan
	for _, s := range f.spans.Ended() {
		if s.Name() == name {
			found = append(found, s)
		}
	}
	require.Len(t, found, 1, name)
	return found[0]
}

// lastUse returns the span that a finding's span links to as its last use.
func lastUse(s sdktrace.ReadOnlySpan) trace.SpanContext {
	for _, l := range s.Links() {
		for _, a := range l.Attributes {
			if a.Key == "tcpstate.link.role" && a.Value.AsString() == "last_use" {
				return l.SpanContext
			}
		}
	}
	return trace.SpanContext{}
}

func attribute(s sdktrace.ReadOnlySpan, key string) string {
	for _, a := range s.Attributes() {
		if string(a.Key) == key {
			return a.Value.AsString()
		}
	}
	return ""
}

// waitState waits until the one connection of that role has the state want.
func (f *fixture) waitState(t *testing.T, role tcpstate.Role, want tcpstate.State) {
	t.Helper()
	tcptest.WaitUntil(t, "state "+want.String(), func() bool {
		for c := range f.tracker.Conns() {
			if c.Role == role {
				return c.State == want
			}
		}
		return false
	})
}

// forget asks and does not close the body. It is the line to be found.
func forget(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

func TestAFindingAboutARequestLinksToItsSpan(t *testing.T) {
	f := newFixture(t)
	headers := make(chan http.Header, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		w.Header().Set("Connection", "close")
		w.Write(make([]byte, 20000))
	}))
	defer backend.Close()
	got := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { got = true }})
	ctx, parent := f.traces.Tracer("test").Start(ctx, "parent")
	client := NewClient(f.tracker, f.options...)
	resp, err := forget(ctx, client, backend.URL)
	require.NoError(t, err)
	parent.End()
	require.True(t, got, "the caller's trace is kept")
	f.waitState(t, tcpstate.Client, tcpstate.CloseWait)
	f.clock.Advance(33 * time.Second)
	f.clock.Advance(2 * time.Second)
	require.Len(t, f.tracker.Findings(), 1)
	require.NoError(t, resp.Body.Close())
	f.clock.Advance(2 * time.Second)
	f.stop()

	request := f.span(t, "HTTP GET")
	require.Equal(t, parent.SpanContext().TraceID(), request.SpanContext().TraceID())
	require.Contains(t, (<-headers).Get("Traceparent"), request.SpanContext().SpanID().String())
	finding := f.span(t, "tcpstate finding close_wait.unread_body")
	require.Equal(t, request.SpanContext().SpanID(), lastUse(finding).SpanID())
	require.Contains(t, attribute(finding, "code.function.name"), "httpstack.forget")
	require.Equal(t, "httpstack/httpstack_linux_test.go", strings.TrimPrefix(attribute(finding, "code.file.path"), "examples/"))
}

// held is a handler that does not look after its client. It is the line to be
// found.
type held struct{ entered, release chan struct{} }

func (h *held) ServeHTTP(http.ResponseWriter, *http.Request) {
	h.entered <- struct{}{}
	<-h.release
}

func TestAFindingAboutAHandlerLinksToItsSpanWhereHandlerIsBelow(t *testing.T) {
	for name, tt := range map[string]struct {
		server func(http.Handler, ...otelhttp.Option) *http.Server
		linked bool
		route  string
	}{
		"Handler below": {NewServer, true, "POST /v1/reports/{id}"},
		"Instrument alone, before": {func(h http.Handler, opts ...otelhttp.Option) *http.Server {
			srv := &http.Server{Handler: h}
			httpserver.Instrument(srv) // and then otelhttp around it
			srv.Handler = otelhttp.NewHandler(srv.Handler, "api", opts...)
			return srv
		}, true, "POST /v1/reports/{id}"},
		"Instrument alone, after": {func(h http.Handler, opts ...otelhttp.Option) *http.Server {
			srv := &http.Server{Handler: otelhttp.NewHandler(h, "api", opts...)}
			httpserver.Instrument(srv)
			return srv
		}, false, "POST"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			h := &held{make(chan struct{}), make(chan struct{})}
			mux := http.NewServeMux()
			mux.Handle("POST /v1/reports/{id}", h)
			srv := tt.server(mux, f.options...)
			ln, err := (&listener.Config{Tracker: f.tracker, Name: "api"}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			go srv.Serve(ln)
			t.Cleanup(func() { srv.Close() })
			client, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			_, err = io.WriteString(client, "POST /v1/reports/4711 HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n"+
				"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\nunread")
			require.NoError(t, err)
			<-h.entered
			require.NoError(t, client.Close())
			f.waitState(t, tcpstate.Server, tcpstate.CloseWait)
			f.clock.Advance(33 * time.Second)
			found := f.tracker.Findings()
			require.Len(t, found, 1)
			require.Equal(t, tcpstate.KindCloseWaitNotReading, found[0].Kind)
			require.Equal(t, tt.route, found[0].Subject.Use)
			require.Equal(t, 1, found[0].Subject.InUse)
			close(h.release)
			tcptest.WaitUntil(t, "the connection to be closed", func() bool { return f.tracker.Stats().Open == 0 })
			f.clock.Advance(2 * time.Second)
			f.stop()

			var request sdktrace.ReadOnlySpan
			for _, s := range f.spans.Ended() {
				if s.SpanKind() == trace.SpanKindServer {
					request = s
				}
			}
			require.NotNil(t, request)
			require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", request.SpanContext().TraceID().String())
			finding := f.span(t, "tcpstate finding close_wait.not_reading")
			if tt.linked {
				require.Equal(t, request.SpanContext().SpanID(), lastUse(finding).SpanID())
				require.Contains(t, attribute(finding, "code.function.name"), "httpstack.(*held).ServeHTTP")
			} else {
				require.False(t, lastUse(finding).IsValid())
			}
		})
	}
}

// What a handler can do it can do below all of it.
func TestNothingIsLostToAHandler(t *testing.T) {
	f := newFixture(t)
	srv := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
		file, err := os.Open("httpstack.go")
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		io.Copy(w, file)
	}), f.options...)
	ln, err := (&listener.Config{Tracker: f.tracker, Name: "api"}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go srv.Serve(ln)
	defer srv.Close()
	client := NewClient(f.tracker, f.options...)
	defer client.CloseIdleConnections()
	for range 2 {
		resp, err := client.Get("http://" + ln.Addr().String())
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		want, err := os.ReadFile("httpstack.go")
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	}
	for c := range f.tracker.Conns() {
		require.EqualValues(t, 2, c.Uses, c.Role.String())
	}
}
