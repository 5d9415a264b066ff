package tcpstate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func probing(c *tcpstate.Config) { c.ProbePooled = 2 * time.Second }

func TestAPooledConnectionWhosePeerIsGoneIsFoundByAProbe(t *testing.T) {
	l := newLive(t, probing)
	tcpstate.SetSeam(l.tr, tcpstate.Seam{Far: true})
	client, server := l.dialed(tcpstate.Expect{Pooled: true})
	healthy, _ := l.dialed(tcpstate.Expect{Pooled: true})
	for _, c := range []*tcpstate.Conn{client, healthy} {
		require.NoError(t, c.SetKeepAlive(false)) // nobody else asks
	}
	tcptest.Deafen(t, server)
	f := l.finds(tcpstate.KindPeerDeadProbes)
	require.Equal(t, client.LocalAddr().String(), f.Subject.Local)
	require.Equal(t, tcpstate.Established, tcpstate.State(tcptest.State(t, client)), "a probe kills nobody")
	i, err := tcpstate.ReadInfo(healthy)
	require.NoError(t, err)
	require.Less(t, i.LastAckReceived, 3*time.Second, "its peer has answered")
}

func TestConnectionsAreNotProbedUnasked(t *testing.T) {
	l := newLive(t, probing)
	client, _ := l.dialed(tcpstate.Expect{}) // not declared to be pooled
	used, _ := l.dialed(tcpstate.Expect{Pooled: true})
	defer used.Watch().Use(t.Context(), tcpstate.Use{Name: "borrowed"})()
	for _, c := range []*tcpstate.Conn{client, used} {
		require.NoError(t, c.SetKeepAlive(false))
	}
	l.staysSilent(4 * time.Second)
	for _, c := range []*tcpstate.Conn{client, used} {
		i, err := tcpstate.ReadInfo(c)
		require.NoError(t, err)
		require.GreaterOrEqual(t, i.LastAckReceived, 4*time.Second)
	}
}
