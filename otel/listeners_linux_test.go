package tcpotel_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
)

func TestTheAcceptQueueOfEveryListenerIsObserved(t *testing.T) {
	r := newRig(t).start()
	cfg := listener.Config{Tracker: r.tracker, Name: "api"}
	ln, err := cfg.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	const usage, limit = "tcpstate.listener.accept_queue.usage", "tcpstate.listener.accept_queue.limit"
	require.Equal(t, map[string]float64{"name=api": 0}, r.points(usage), "an empty queue is 0, not absent")
	for range 2 {
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
	}
	tcptest.WaitUntil(t, "two connections wait", func() bool { return r.points(usage)["name=api"] == 2 })
	require.Positive(t, r.points(limit)["name=api"])
	require.NoError(t, ln.Close())
	require.Empty(t, r.points(usage))
}
