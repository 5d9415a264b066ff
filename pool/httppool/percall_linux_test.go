package httppool_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestATransportForEveryCallIsReported(t *testing.T) {
	srv := serve(t, hello)
	f := newFixture(t, nil)
	t.Cleanup(f.tracker.Observe(new(tcpstate.Observer)))
	var p place
	call := func(requests int) {
		pool := &httppool.Transport{Base: &http.Transport{}, Dialer: dialer.Dialer{Tracker: f.tracker, Name: "payments"}}
		t.Cleanup(pool.CloseIdleConnections)
		client := &http.Client{Transport: pool}
		for range requests {
			resp, err := client.Get(srv.URL)
			p = here()
			p.line--
			require.NoError(t, err)
			readAll(t, resp)
		}
	}
	for range 9 {
		call(1)
		f.clock.Advance(time.Second)
		require.Empty(t, f.tracker.Findings())
	}
	call(1)
	f.clock.Advance(time.Second)
	found := f.tracker.Findings()
	require.Len(t, found, 1)
	require.Equal(t, tcpstate.KindLeakPoolPerCall, found[0].Kind)
	require.Equal(t, "pool", found[0].Sites[0].Role)
	require.Equal(t, p.function, found[0].Sites[0].Frames[0].Function)
	require.Equal(t, p.line, found[0].Sites[0].Frames[0].Line)

	call(2)
	f.clock.Advance(20 * time.Second)
	require.Empty(t, f.tracker.Findings(), "one that is of use")
}
