package httppool_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// requireUnreadBody checks the report on a body that nobody closed, requested
// at p.
func requireUnreadBody(t *testing.T, f *fixture, srv *httptest.Server, p place) tcpstate.Finding {
	t.Helper()
	found := f.tracker.Findings()
	require.Len(t, found, 1)
	got := found[0]
	require.Equal(t, tcpstate.KindCloseWaitUnreadBody, got.Kind)
	require.Equal(t, "request", got.Sites[0].Role)
	require.Equal(t, p.function, got.Sites[0].Frames[0].Function)
	require.Equal(t, p.line, got.Sites[0].Frames[0].Line)
	require.Equal(t, "pool/httppool/findings_linux_test.go", got.Sites[0].Frames[0].File)
	require.Equal(t, "GET "+strings.TrimPrefix(srv.URL, "http://"), got.Subject.Use)
	require.True(t, got.Subject.UseOpen)
	require.Equal(t, "payments", got.Subject.Name)

	asJSON, err := json.Marshal(got)
	require.NoError(t, err)
	for _, secret := range []string{"charge", "card", "visa-4111"} {
		require.NotContains(t, string(asJSON), secret)
		require.NotContains(t, got.String(), secret)
	}
	return got
}

func TestABodyThatIsNeverClosedIsReportedWithTheLineOfTheRequest(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.Write(make([]byte, 20000))
	})

	resp, err := f.client.Get(srv.URL + "/charge?card=visa-4111")
	p := here()
	p.line--
	require.NoError(t, err)
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(33 * time.Second)

	got := requireUnreadBody(t, f, srv, p)
	require.Greater(t, got.Evidence.RecvQueue, 15000)
	require.Contains(t, got.Summary, "bytes of its answer wait unread")

	require.NoError(t, resp.Body.Close())
	f.waitGone(t)
	f.clock.Advance(2 * time.Second)
	require.Empty(t, f.tracker.Findings())
}

func TestABodyThatIsNeverClosedIsReportedWhenTheServersIdleTimeoutEndsTheConnection(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	srv := serve(t, hello, func(srv *httptest.Server) { srv.Config.IdleTimeout = 200 * time.Millisecond })

	req, err := http.NewRequest(http.MethodGet, srv.URL+"/charge?card=visa-4111", nil)
	require.NoError(t, err)
	resp, err := f.client.Do(req)
	p := here()
	p.line--
	require.NoError(t, err)
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(33 * time.Second)

	got := requireUnreadBody(t, f, srv, p)
	require.Contains(t, got.Summary, "its answer was not read to the end")
	require.NoError(t, resp.Body.Close())
	f.waitGone(t)
}

func TestTheLineIsThatOfTheApplicationBelowItsOwnRoundTripper(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.Write(make([]byte, 20000))
	})
	require.NoError(t, f.tracker.Set(func(c *tcpstate.Config) {
		c.HideFrames = []string{"github.com/tcpstate/tcpstate-go/pool/httppool_test.(*middleware)"}
	}))
	client := &http.Client{Transport: &middleware{f.pool}}

	resp, err := client.Get(srv.URL)
	p := here()
	p.line--
	require.NoError(t, err)
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(33 * time.Second)
	requireUnreadBody(t, f, srv, p)
	resp.Body.Close()
}

func TestASlowReaderIsNotReported(t *testing.T) {
	const step = 5000 // more than net/http buffers
	f := newFixture(t, &http.Transport{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.Write(make([]byte, 12*step))
	})

	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	f.waitState(t, tcpstate.CloseWait)
	for range 10 {
		f.clock.Advance(20 * time.Second)
		require.Empty(t, f.tracker.Findings())
		_, err := io.ReadFull(resp.Body, make([]byte, step))
		require.NoError(t, err)
	}
	resp.Body.Close()
	f.waitGone(t)
	f.clock.Advance(2 * time.Second)
	require.Empty(t, f.tracker.Findings())
}

func TestAReaderOfBufferedBytesIsNotReportedUntilItStops(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.Write(make([]byte, 100))
	})

	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	f.waitState(t, tcpstate.CloseWait)
	for range 10 {
		f.clock.Advance(20 * time.Second)
		require.Empty(t, f.tracker.Findings())
		_, err := resp.Body.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	f.clock.Advance(33 * time.Second)
	require.Len(t, f.tracker.Findings(), 1)
	resp.Body.Close()
	f.waitGone(t)
}

// After the answer has switched protocols there is no body, and no answer that
// the deadline of the request could cut off.
func TestAnUpgradedConnectionIsJudgedAsOneOfItsOwnersAndNotAsAResponse(t *testing.T) {
	for name, c := range map[string]struct {
		end  bool // read to the end of the stream
		kind tcpstate.Kind
	}{"nobody reads": {false, tcpstate.KindCloseWaitNotReading}, "read, not closed": {true, tcpstate.KindCloseWaitEOFSeen}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, &http.Transport{})
			leave := make(chan struct{})
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Connection", "Upgrade")
				w.Header().Set("Upgrade", "chat")
				w.WriteHeader(http.StatusSwitchingProtocols)
				c, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_, _ = io.ReadFull(rw, make([]byte, len("hello?"))) // its end would else be a reset
				<-leave
			})
			reports := f.reports(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			require.NoError(t, err)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "chat")
			resp, err := f.client.Do(req)
			p := here()
			p.line--
			require.NoError(t, err)
			_, err = io.WriteString(resp.Body.(io.Writer), "hello?")
			require.NoError(t, err)
			f.clock.Advance(5 * time.Minute)
			require.Empty(t, f.tracker.Findings())

			close(leave)
			f.waitState(t, tcpstate.CloseWait)
			if c.end {
				_, err = resp.Body.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF)
			}
			f.clock.Advance(33 * time.Second)
			found := f.tracker.Findings()
			require.Len(t, found, 1)
			require.Equal(t, c.kind, found[0].Kind, found[0].String())
			i := slices.IndexFunc(found[0].Sites, func(s tcpstate.Site) bool { return s.Role == "request" })
			require.Equal(t, p.line, found[0].Sites[i].Frames[0].Line)
			require.NoError(t, resp.Body.Close())
			f.waitGone(t)
			f.clock.Advance(time.Second)
			require.Equal(t, []tcpstate.Kind{c.kind}, reports())
		})
	}
}

func TestABodyThatIsClosedInTimeIsNotReported(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.Write(make([]byte, 20000))
	})
	reports := f.reports(t)

	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(25 * time.Second)
	resp.Body.Close()
	f.waitGone(t)
	f.clock.Advance(time.Minute)
	require.Empty(t, reports())
}

func TestAnIdleConnectionIsNotReported(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	srv := serve(t, hello)
	reports := f.reports(t)

	resp, err := f.client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp)) // and not closed: the end of the body is enough
	require.Zero(t, f.conn(t).InUse)
	f.clock.Advance(5 * time.Minute)
	require.Equal(t, tcpstate.Established, f.conn(t).State)

	srv.CloseClientConnections()
	f.waitGone(t) // net/http reads while it waits, and closes
	f.clock.Advance(5 * time.Minute)
	require.Empty(t, reports())
}

// reports returns a function that returns the kinds reported so far. It ends
// the tracker.
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
