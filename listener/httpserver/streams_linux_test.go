package httpserver_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// streams serves events until its client leaves, and a route that keeps its
// client waiting.
func (a *reportsAPI) streams() *http.ServeMux {
	mux := a.mux()
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: begin\n\n")
		http.NewResponseController(w).Flush()
		a.entered <- r.Context()
		select {
		case <-r.Context().Done():
		case <-a.release:
		}
	})
	return mux
}

func TestAQuietStreamIsNotReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.streams()).start(t)
	reports := f.reports(t)
	client := f.send(t, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	ctx := <-api.entered
	f.clock.Advance(10 * time.Minute)
	require.Empty(t, f.tracker.Findings())
	require.NoError(t, client.Close())
	<-ctx.Done() // net/http watches, and the handler returns
	f.waitGone(t)
	require.Empty(t, reports())
}

func TestARouteDeclaresItsStreams(t *testing.T) {
	ignore := tcpstate.Expect{Ignore: []tcpstate.Kind{"close_wait"}}
	for name, tt := range map[string]struct {
		opts    []httpserver.Option
		request string
		silent  bool
	}{
		"method and pattern":    {[]httpserver.Option{httpserver.WithRouteExpect("POST /v1/reports/{id}", ignore)}, post, true},
		"pattern":               {[]httpserver.Option{httpserver.WithRouteExpect("/v1/reports/{id}", ignore)}, post, true},
		"other method":          {[]httpserver.Option{httpserver.WithRouteExpect("GET /v1/reports/{id}", ignore)}, post, false},
		"other pattern":         {[]httpserver.Option{httpserver.WithRouteExpect("POST /v1/reports/", ignore)}, post, false},
		"not the path":          {[]httpserver.Option{httpserver.WithRouteExpect("POST /v1/reports/id-4711", ignore)}, post, false},
		"another one, and this": {[]httpserver.Option{httpserver.WithRouteExpect("/x", tcpstate.Expect{}), httpserver.WithRouteExpect("POST /v1/reports/{id}", ignore)}, post, true},
		"beside a function": {[]httpserver.Option{
			httpserver.WithRouteExpect("/v1/reports/{id}", ignore),
			httpserver.WithExpect(func(*http.Request) tcpstate.Expect { return tcpstate.Expect{LongLived: true} }),
		}, post, true},
		"what WithRoute says": {[]httpserver.Option{
			httpserver.WithRouteExpect("create a report", ignore),
			httpserver.WithRoute(func(*http.Request) string { return "create a report" }),
		}, post, true},
		"GET stands for HEAD": {[]httpserver.Option{httpserver.WithRouteExpect("GET /v1/reports/{id}", ignore)}, "HEAD" + fetch[3:], true},
	} {
		t.Run(name, func(t *testing.T) {
			api := newAPI(t)
			f := newFixture(t, api.mux()).start(t, tt.opts...)
			t.Cleanup(f.tracker.Observe(new(tcpstate.Observer)))
			client := f.send(t, tt.request)
			<-api.entered
			client.Close()
			f.waitState(t, tcpstate.CloseWait)
			f.clock.Advance(33 * time.Second)
			if tt.silent {
				require.Empty(t, f.tracker.Findings())
			} else {
				require.Len(t, f.tracker.Findings(), 1)
			}
		})
	}
}

// Shutdown waits for streams, and not for hijacked connections. Neither is
// reported until the grace is over; what is still held then is.
func TestShutdownLeavesStreamsAndHijackedConnectionsTheirGrace(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.streams())
	f.config.DrainGrace = time.Minute
	f.start(t)
	t.Cleanup(f.tracker.Observe(new(tcpstate.Observer)))
	stream := f.send(t, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	<-api.entered
	socket := f.send(t, upgrade)
	<-(<-api.entered).Done() // its handler has returned
	held := <-api.held
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.server.Shutdown(ctx) }()
	tcptest.WaitUntil(t, "the listener to be closed", func() bool {
		c, err := net.Dial("tcp", f.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	require.NoError(t, socket.Close())
	tcptest.WaitUntil(t, "its FIN", func() bool {
		for c := range f.tracker.Conns() {
			if c.State == tcpstate.CloseWait {
				return true
			}
		}
		return false
	})
	f.clock.Advance(50 * time.Second)
	require.Empty(t, f.tracker.Findings())
	cancel()
	require.ErrorIs(t, <-done, context.Canceled, "the stream goes on")

	f.clock.Advance(45 * time.Second)
	got := f.finding(t)
	require.Equal(t, tcpstate.KindCloseWaitNotReading, got.Kind)
	require.True(t, got.Evidence.Hijacked)
	require.Equal(t, "GET /ws/", got.Subject.Use)
	require.NoError(t, held.Close())
	require.NoError(t, stream.Close())
	f.waitGone(t)
	f.clock.Advance(2 * time.Second)
	require.Empty(t, f.tracker.Findings())
}

// A hijacked connection that is only written to is noticed by its last write,
// or, while there is nothing to write, by the report.
func TestAHijackedConnectionThatIsOnlyWrittenToIsReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux()).start(t)
	t.Cleanup(f.tracker.Observe(new(tcpstate.Observer)))
	client := f.send(t, upgrade)
	<-(<-api.entered).Done()
	held := <-api.held
	for range 5 {
		_, err := io.WriteString(held, "tick")
		require.NoError(t, err)
		_, err = io.ReadFull(client, make([]byte, len("tick")))
		require.NoError(t, err)
		f.clock.Advance(time.Minute)
		require.Empty(t, f.tracker.Findings(), "a client that listens is no fault")
	}
	require.NoError(t, client.CloseWrite())
	f.waitState(t, tcpstate.CloseWait)
	for range 3 {
		_, err := io.WriteString(held, "tick")
		require.NoError(t, err)
		f.clock.Advance(20 * time.Second)
		require.Empty(t, f.tracker.Findings(), "it takes what it gets")
	}
	f.clock.Advance(45 * time.Second)
	got := f.finding(t)
	require.Equal(t, tcpstate.KindCloseWaitNotReading, got.Kind)
	require.Contains(t, got.Summary, "hijacked")
	require.NoError(t, held.Close())
	f.waitGone(t)
}
