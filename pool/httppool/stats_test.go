package httppool_test

import (
	"net/http"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestATransportThatIsOfUseIsAmongThePools(t *testing.T) {
	f := newFixture(t, &http.Transport{MaxIdleConns: 7})
	srv := serve(t, hello)
	get := func() {
		resp, err := f.client.Get(srv.URL)
		require.NoError(t, err)
		readAll(t, resp)
	}
	pools := func() []tcpstate.PoolStats { return slices.Collect(f.tracker.Pools()) }

	get()
	require.Empty(t, pools(), "it could be one for each call")
	get()
	got := pools()
	require.Len(t, got, 1)
	require.Equal(t, "payments", got[0].Name)
	require.Equal(t, 1, got[0].Idle)
	require.Zero(t, got[0].Used)
	require.Equal(t, 7, got[0].IdleMax)
	require.EqualValues(t, 1, got[0].Waits.Count, "for the dial")
	require.Negative(t, got[0].Timeouts)
}

func TestATransportIsNotKeptByWhoeverAsksForPools(t *testing.T) {
	tr := leaktest.Tracker(t)
	srv := serve(t, hello)
	func() {
		p := &httppool.Transport{Base: &http.Transport{}, Dialer: dialer.Dialer{Tracker: tr, Name: "payments"}}
		client := &http.Client{Transport: p}
		for range 2 {
			resp, err := client.Get(srv.URL)
			require.NoError(t, err)
			readAll(t, resp)
		}
		require.Len(t, slices.Collect(tr.Pools()), 1)
		client.CloseIdleConnections()
	}()
	tcptest.WaitUntil(t, "the pool to be forgotten", func() bool {
		runtime.GC()
		return len(slices.Collect(tr.Pools())) == 0
	})
}
