package goredis

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

// options are those of a test: one connection after the other, no retries that
// would hide what happens, and no idle connection closed by the clock.
func options(addr string) *redis.Options {
	return &redis.Options{Addr: addr, MaxRetries: -1, DisableIdentity: true}
}

func TestASubscriptionThatNobodyReadsIsFound(t *testing.T) {
	srv := harness.Redis(t, nil)
	rig := harness.New(t)
	client := New(rig.Dialer("cache"), options(srv.Addr()))
	defer client.Close()

	sub := client.Subscribe(t.Context(), "news")
	defer sub.Close()
	_, err := sub.Receive(t.Context())
	require.NoError(t, err)
	for range 20 {
		require.NoError(t, client.Publish(t.Context(), "news", strings.Repeat("x", 1000)).Err())
		rig.Advance(time.Second)
	}
	got := rig.Finds(t, tcpstate.KindLocalNotReading, "cache", "", "")
	require.Greater(t, got.Evidence.RecvQueue, 10_000)
}

func TestADeadIdleConnectionIsNoticedBeforeItIsUsed(t *testing.T) {
	srv := harness.Redis(t, nil)
	path := harness.NewPath(t, srv.Addr())
	rig := harness.New(t)
	client := New(rig.Dialer("cache"), options(path.Addr()))
	defer client.Close()

	require.NoError(t, client.Ping(t.Context()).Err())
	path.FIN()
	rig.WaitState(t, "cache", tcpstate.CloseWait, 1)
	require.NoError(t, client.Ping(t.Context()).Err()) // MaxRetries is off: no first try failed
	require.EqualValues(t, 1, client.PoolStats().StaleConns)
	require.Equal(t, 2, path.Made())
	rig.Silent(t)
	harness.Kept(t)
}
