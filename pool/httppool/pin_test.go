package httppool_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// remembered is a context value whose collection is noticed.
type remembered struct{ _ [64]byte }

type rememberedKey struct{}

// collectable returns a context for requests, and how to tell that nobody holds
// it any more.
func collectable(t *testing.T) (ctx context.Context, collected func() bool) {
	var gone atomic.Bool
	v := new(remembered)
	runtime.AddCleanup(v, func(b *atomic.Bool) { b.Store(true) }, &gone)
	return context.WithValue(t.Context(), rememberedKey{}, v), func() bool {
		runtime.GC()
		return gone.Load()
	}
}

func TestAnIdleConnectionHoldsNothingOfItsLastRequest(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	ctx, collected := collectable(t)
	func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		resp, err := f.client.Do(req)
		require.NoError(t, err)
		readAll(t, resp)
	}()
	ctx = nil
	require.Equal(t, "GET "+strings.TrimPrefix(srv.URL, "http://"), f.conn(t).Use)
	tcptest.WaitUntil(t, "the context to be collected", collected)
	require.Equal(t, tcpstate.Established, f.conn(t).State)
}

func TestTheRegistryHoldsNothingOfARequestThatIsNeverEnded(t *testing.T) {
	// Here net/http holds nothing either: the response comes from elsewhere.
	f := newFixture(t, &http.Transport{})
	client, _ := tcptest.Pair(t)
	conn := f.tracker.Track(client, tcpstate.Origin{})
	f.pool.Inner().RegisterProtocol("stub", &stub{conn: conn})
	ctx, collected := collectable(t)
	func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "stub://payments", nil)
		require.NoError(t, err)
		resp, err := f.pool.RoundTrip(req)
		require.NoError(t, err)
		_, err = resp.Body.Read(make([]byte, 1))
		require.NoError(t, err)
	}()
	ctx = nil
	tcptest.WaitUntil(t, "the context to be collected", collected)
	require.Equal(t, 1, f.conn(t).InUse)
	require.Equal(t, "GET payments", f.conn(t).Use)
}

func TestManyGoroutinesShareOneTransport(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})
	f := newFixture(t, &http.Transport{MaxIdleConnsPerHost: 4})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, strings.NewReader("there and back"))
				if err != nil {
					t.Error(err)
				}
				resp, err := f.client.Do(req)
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				if i%4 == 0 {
					cancel() // in the middle
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					io.Copy(io.Discard, resp.Body)
				}()
				if i%2 == 0 {
					resp.Body.Close() // while it is being read
				}
				<-done
				resp.Body.Close()
				cancel()
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			f.pool.Stats()
		}
	})
	wg.Wait()
	require.Zero(t, f.pool.Stats().InFlight)
	for c := range f.tracker.Conns() {
		require.Zero(t, c.InUse)
	}
	f.client.CloseIdleConnections()
	f.waitGone(t)
}
