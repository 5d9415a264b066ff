package httppool_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// bodies are what a server of the tests answers with.
const (
	small = 100
	large = 4 << 20 // more than the socket's buffers hold
)

// What becomes of a response body, in all its forms, and what is said of it.
func TestWhatIsSaidOfResponseBodies(t *testing.T) {
	never := func(*http.Response) error { return nil }
	closed := func(resp *http.Response) error { return resp.Body.Close() }
	half := func(resp *http.Response) error {
		_, err := io.ReadFull(resp.Body, make([]byte, small/2))
		return err
	}
	content := func(resp *http.Response) error { // and no more, as a json.Decoder does
		_, err := io.ReadFull(resp.Body, make([]byte, small))
		return err
	}
	all := func(resp *http.Response) error {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	const none = tcpstate.Kind("")
	for _, tt := range []struct {
		name     string
		size     int
		chunked  bool // the end of the body is apart from the content
		closes   bool // the server closes after the answer
		http2    bool
		does     func(*http.Response) error
		want     tcpstate.Kind
		inFlight int // still, after a minute
	}{
		{"read to the end", large, false, false, false, all, none, 0},
		{"read to the end, server closes", large, false, true, false, all, none, 0},
		{"closed unread", small, false, false, false, closed, none, 0},
		{"closed unread, large", large, false, false, false, closed, none, 0},
		{"closed unread, server closes", large, false, true, false, closed, none, 0},
		{"content read, whose length is known", small, false, false, false, content, none, 0},

		// All that came lies in net/http's buffer: the kernel shows an idle
		// connection, and nobody misses it.
		{"half read", small, false, false, false, half, none, 1},
		{"never touched", small, false, false, false, never, none, 1},

		{"half read, large", large, false, false, false, half, tcpstate.KindLocalNotReading, 1},
		{"content read, end not", small, true, false, false, content, tcpstate.KindLocalNotReading, 1},
		{"never touched, large", large, false, false, false, never, tcpstate.KindLocalNotReading, 1},
		{"content read, end not, server closes", small, true, true, false, content, tcpstate.KindCloseWaitUnreadBody, 1},
		{"half read, server closes", small, false, true, false, half, tcpstate.KindCloseWaitUnreadBody, 1},
		{"never touched, server closes", small, false, true, false, never, tcpstate.KindCloseWaitUnreadBody, 1},

		// In HTTP/2 net/http always reads, and the server of a stream waits.
		{"HTTP/2, read to the end", large, false, false, true, all, none, 0},
		{"HTTP/2, closed unread", large, false, false, true, closed, none, 0},
		{"HTTP/2, half read", large, false, false, true, half, none, 1},
		{"HTTP/2, never touched", large, false, false, true, never, none, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			taken, served := make(chan struct{}), make(chan struct{})
			handler := func(w http.ResponseWriter, r *http.Request) {
				defer close(served)
				if tt.closes {
					w.Header().Set("Connection", "close")
				}
				w.Write(make([]byte, tt.size))
				if tt.chunked {
					http.NewResponseController(w).Flush()
					<-taken // what is read by then is not the end
				}
			}
			base := &http.Transport{}
			var srv *httptest.Server
			if tt.http2 {
				srv = serve(t, handler, withTLS)
				base = srv.Client().Transport.(*http.Transport)
			} else {
				srv = serve(t, handler)
			}
			f := newFixture(t, base)
			t.Cleanup(f.tracker.Observe(new(tcpstate.Observer)))
			resp, err := f.client.Get(srv.URL)
			p := here()
			p.line--
			require.NoError(t, err)
			t.Cleanup(func() { resp.Body.Close() })
			err = tt.does(resp)
			close(taken)
			require.NoError(t, err)
			if tt.want == tcpstate.KindCloseWaitUnreadBody {
				f.waitState(t, tcpstate.CloseWait)
			}
			if tt.want == tcpstate.KindLocalNotReading {
				tcptest.WaitUntil(t, "bytes to wait", func() bool { return f.conn(t).RecvQueue > min(tt.size, 1<<16)/32 })
			}
			if tt.want == none {
				<-served
				tcptest.WaitUntil(t, "net/http to read what came", func() bool {
					for c := range f.tracker.Conns() {
						return c.RecvQueue == 0
					}
					return true
				})
			}
			f.clock.Advance(time.Minute)

			require.Equal(t, tt.inFlight, f.pool.Stats().InFlight)
			if tt.want == none {
				// The clock may have run ahead of net/http. What lasts is wrong.
				tcptest.WaitUntil(t, "nothing to be reported", func() bool {
					f.clock.Advance(time.Second)
					return len(f.tracker.Findings()) == 0
				})
				return
			}
			found := f.tracker.Findings()
			require.Len(t, found, 1)
			require.Equal(t, tt.want, found[0].Kind)
			require.Equal(t, "request", found[0].Sites[0].Role)
			require.Equal(t, p.function, found[0].Sites[0].Frames[0].Function)
			require.Equal(t, p.line, found[0].Sites[0].Frames[0].Line)
			require.NoError(t, resp.Body.Close())
			f.waitGone(t)
			f.clock.Advance(2 * time.Second)
			require.Empty(t, f.tracker.Findings())
		})
	}
}

func TestABodyThatIsReadSlowlyIsNotReported(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, large)) })
	f := newFixture(t, &http.Transport{})
	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	for range 10 {
		f.clock.Advance(20 * time.Second)
		require.Empty(t, f.tracker.Findings())
		_, err := io.ReadFull(resp.Body, make([]byte, 10000))
		require.NoError(t, err)
	}
}

// newPaced makes a client for which the kernel's ages grow with the clock.
func newPaced(t *testing.T, base *http.Transport) *fixture {
	t.Helper()
	f := newFixture(t, base)
	f.clock.Pace(1000)
	return f
}

func TestABodyThatOthersWaitForIsReported(t *testing.T) {
	srv := serve(t, hello)
	f := newPaced(t, &http.Transport{MaxConnsPerHost: 1})
	t.Cleanup(f.tracker.Observe(new(tcpstate.Observer)))
	first, err := f.client.Get(srv.URL)
	p := here()
	p.line--
	require.NoError(t, err)
	f.clock.Advance(time.Minute)
	require.Empty(t, f.tracker.Findings(), "nobody misses the connection")

	second := make(chan error, 1)
	go func() {
		resp, err := f.client.Get(srv.URL)
		if err == nil {
			resp.Body.Close()
		}
		second <- err
	}()
	tcptest.WaitUntil(t, "the second request to wait", func() bool { return f.pool.Stats().Waiting == 1 })
	f.clock.Advance(33 * time.Second)
	found := f.tracker.Findings()
	require.Len(t, found, 1)
	require.Equal(t, tcpstate.KindLeakNotReturned, found[0].Kind)
	require.Equal(t, "response body keeps a connection that others wait for", found[0].Title)
	require.Equal(t, p.line, found[0].Sites[0].Frames[0].Line)

	first.Body.Close()
	require.NoError(t, <-second)
	require.Zero(t, f.pool.Stats().Waiting)
	f.clock.Advance(2 * time.Second)
	require.Empty(t, f.tracker.Findings())
	require.Greater(t, f.pool.Stats().WaitTime, 30*time.Second)
}

func TestAnAnswerThatOthersWaitForIsNotReported(t *testing.T) {
	for name, flushed := range map[string]bool{"that has not begun": false, "that goes on": true} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if flushed {
					w.WriteHeader(http.StatusOK)
					http.NewResponseController(w).Flush()
				}
				<-stop
			})
			release := sync.OnceFunc(func() { close(stop) })
			t.Cleanup(release) // before the server's
			f := newPaced(t, &http.Transport{MaxConnsPerHost: 1})
			get := func() chan error {
				done := make(chan error, 2)
				go func() {
					resp, err := f.client.Get(srv.URL)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
					}
					done <- err
				}()
				return done
			}
			first := get()
			tcptest.WaitUntil(t, "the first request", func() bool { return f.pool.Stats().InFlight == 1 })
			second := get()
			tcptest.WaitUntil(t, "the second request to wait", func() bool { return f.pool.Stats().Waiting == 1 })
			f.clock.Advance(2 * time.Minute)
			require.Empty(t, f.tracker.Findings())
			release()
			require.NoError(t, <-first)
			require.NoError(t, <-second)
		})
	}
}

// Those who wait for another host's connections miss none of these.
func TestAnOpenBodyIsNotMissedByRequestsToOtherHosts(t *testing.T) {
	stop := make(chan struct{})
	here := serve(t, hello)
	there := serve(t, func(http.ResponseWriter, *http.Request) { <-stop })
	release := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(release) // before the server's
	f := newPaced(t, &http.Transport{MaxConnsPerHost: 1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kept, err := f.client.Get(here.URL)
	require.NoError(t, err)
	defer kept.Body.Close()
	done := make(chan error, 2)
	for range 2 {
		go func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, there.URL, nil)
			if err != nil {
				t.Error(err)
			}
			resp, err := f.client.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
	}
	tcptest.WaitUntil(t, "one request to wait", func() bool { return f.pool.Stats().Waiting == 1 })
	f.clock.Advance(2 * time.Minute)
	require.Empty(t, f.tracker.Findings())
	release()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}
