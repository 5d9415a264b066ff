package httppool_test

import (
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

// together makes rounds of n requests that are all in progress at once.
func (f *fixture) together(t *testing.T, srv *httptest.Server, arrived *sync.WaitGroup, rounds, n int) {
	t.Helper()
	for range rounds {
		arrived.Add(n)
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				resp, err := f.client.Get(srv.URL)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		}
		wg.Wait()
	}
}

// rendezvous answers when all those that arrived is set to have come.
func rendezvous(arrived *sync.WaitGroup, prepare func(http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		arrived.Done()
		arrived.Wait()
		prepare(w)
		io.WriteString(w, "hello")
	}
}

func TestATransportThatKeepsTooFewConnectionsIsAudited(t *testing.T) {
	var arrived sync.WaitGroup
	srv := serve(t, rendezvous(&arrived, func(http.ResponseWriter) {}))
	f := newFixture(t, &http.Transport{})
	f.together(t, srv, &arrived, 14, 10) // of each round but the first 8 dial, and 8 are closed
	f.clock.Advance(2 * time.Second)

	found := f.tracker.Findings()
	require.Len(t, found, 1)
	got := found[0]
	require.Equal(t, tcpstate.KindPoolChurn, got.Kind)
	require.Equal(t, tcpstate.Audit, got.Severity)
	require.Equal(t, srv.Listener.Addr().String(), got.Subject.Target)
	require.Equal(t, "set MaxIdleConnsPerHost to 10", got.Fix)
	require.Contains(t, got.Summary, "MaxIdleConnsPerHost is 2, and up to 10 were in use at once")

	stats := f.pool.Stats()
	require.EqualValues(t, 140, stats.Requests)
	require.EqualValues(t, 14*8, stats.Surplus)
	require.EqualValues(t, 13*2, stats.Reused)
	tcptest.WaitUntil(t, "the rest to be closed", func() bool { return f.tracker.Stats().Open == 2 })
	require.Equal(t, 2, f.pool.Stats().Idle)
	require.Zero(t, f.pool.Stats().Used)

	f.clock.Advance(2 * time.Minute)
	require.Empty(t, f.tracker.Findings(), "it has ended")
}

func TestConnectionsThatAreClosedForOtherReasonsAreNotAudited(t *testing.T) {
	nothing := func(http.ResponseWriter) {}
	for name, tt := range map[string]struct {
		base    *http.Transport
		prepare func(http.ResponseWriter)
		server  []func(*httptest.Server)
	}{
		"by the server": {&http.Transport{}, func(w http.ResponseWriter) { w.Header().Set("Connection", "close") }, nil},
		"by a server without keep-alive": {&http.Transport{}, nothing, []func(*httptest.Server){
			func(srv *httptest.Server) { srv.Config.SetKeepAlivesEnabled(false) },
		}},
		"on purpose":         {&http.Transport{DisableKeepAlives: true}, nothing, nil},
		"with enough":        {&http.Transport{MaxIdleConnsPerHost: 10}, nothing, nil},
		"limited as a whole": {&http.Transport{MaxConnsPerHost: 10, MaxIdleConnsPerHost: 10}, nothing, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var arrived sync.WaitGroup
			srv := serve(t, rendezvous(&arrived, tt.prepare), tt.server...)
			f := newFixture(t, tt.base)
			f.together(t, srv, &arrived, 14, 10)
			f.clock.Advance(2 * time.Second)
			require.Empty(t, f.tracker.Findings())
			require.Zero(t, f.pool.Stats().Surplus)
		})
	}
}
