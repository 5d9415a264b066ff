package goredis

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestASubscriptionThatNobodyReadsIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		client := s.client()
		sub := client.Subscribe(t.Context(), "news") // leak: subscription
		defer sub.Close()
		_, err := sub.Receive(t.Context())
		require.NoError(t, err)
		for range 20 {
			require.NoError(t, client.Publish(t.Context(), "news", strings.Repeat("x", 1000)).Err())
			s.rig.Advance(time.Second)
		}
		got := s.rig.Finds(t, tcpstate.KindLocalNotReading, "cache", "dial", "subscription")
		require.Greater(t, got.Evidence.RecvQueue, 10_000)
	})
}

func TestASubscriptionThatNobodyReadsIsFoundWhenTheServerEndsIt(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		client := s.client()
		sub := client.Subscribe(t.Context(), "news") // leak: ended subscription
		defer sub.Close()
		_, err := sub.Receive(t.Context())
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, client.Publish(t.Context(), "news", "x").Err())
		}
		s.srv.Stop(t)
		s.rig.WaitState(t, "cache", tcpstate.CloseWait, 2) // the other one lies in the pool
		s.rig.Finds(t, tcpstate.KindCloseWaitNotReading, "cache", "dial", "ended subscription")
	})
}

// The client dials on a goroutine of its own, so the line that made it is not
// known: its name has to do.
func TestAClientThatIsForgottenIsFound(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		func() {
			client := New(s.rig.Dialer("cache"), s.options())
			require.NoError(t, client.Ping(t.Context()).Err())
		}()
		s.rig.WaitCollected(t, "cache")
		s.rig.Finds(t, tcpstate.KindLeakCollected, "cache", "", "")
	})
}

func TestAConnectionThatIsKeptIsFoundWhenItIsMissed(t *testing.T) {
	both(t, func(t *testing.T, s *setup) {
		opt := s.options()
		opt.PoolSize = 1
		client := s.seen()(s.rig.Dialer("cache"), opt)
		defer client.Close()
		defer WatchPool(s.rig.Tracker, "cache", client)()
		c := client.Conn()
		defer c.Close()
		require.NoError(t, c.Ping(t.Context()).Err()) // leak: kept
		ctx, cancel := context.WithCancel(t.Context())
		missed := make(chan error, 1)
		go func() { missed <- client.Ping(ctx).Err() }()
		harness.WaitUntil(t, "the wait", func() bool { return client.PoolStats().PendingRequests > 0 })
		s.rig.Finds(t, tcpstate.KindLeakNotReturned, "cache", "last use", "kept")
		cancel()
		require.Error(t, <-missed)
	})
}
