package pool_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestATrackerTellsOfAPoolUntilItIsClosed(t *testing.T) {
	tr := leaktest.Tracker(t)
	p := &pool.Pool{Name: "cache", MaxConns: 3}
	p.Dialer.Tracker = tr
	newPool(t, p)
	addr := startEcho(t)
	a, b := get(t, p, addr), get(t, p, addr)
	require.NoError(t, a.Discard())

	pools := slices.Collect(tr.Pools())
	require.Len(t, pools, 1)
	got := pools[0]
	require.Equal(t, "cache", got.Name)
	require.Equal(t, 1, got.Used)
	require.Zero(t, got.Idle)
	require.Zero(t, got.Pending)
	require.EqualValues(t, 1, got.Uses.Count)
	require.EqualValues(t, 2, got.Creates.Count)
	require.Positive(t, got.Creates.Time)
	require.Contains(t, got.Discards, tcpstate.PoolDiscards{Reason: tcpstate.DiscardCaller, Count: 1})

	require.NoError(t, b.Close())
	require.Equal(t, 1, slices.Collect(tr.Pools())[0].Idle)
	require.NoError(t, p.Close())
	require.Empty(t, slices.Collect(tr.Pools()))
}
