package tcpstate_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// wakes counts how often a loop is woken.
type wakes struct {
	tcpstate.Poller
	n *atomic.Int64
}

func (w wakes) Wake() {
	w.n.Add(1)
	w.Poller.Wake()
}

// A program that makes one connection after the other has none in between.
func TestConnectionsOneAfterTheOtherDoNotKeepTheLoopBusy(t *testing.T) {
	tr := newTracker(t)
	var woken, asked atomic.Int64
	tcpstate.SetSeam(tr, tcpstate.Seam{
		NewPoller: func() (tcpstate.Poller, error) {
			p, err := tcpstate.NewPoller()
			return wakes{p, &woken}, err
		},
		Orphans: func() (int, error) { asked.Add(1); return 1, nil }, // somebody else's
	})
	ln := tcptest.Listen(t)
	var d net.Dialer
	d.SetMultipathTCP(false)
	const conns = 10000
	start := time.Now()
	for range conns {
		c, err := d.DialContext(context.Background(), "tcp", ln.Addr().String())
		require.NoError(t, err)
		peer, err := ln.AcceptTCP()
		require.NoError(t, err)
		require.NoError(t, tr.Track(c.(*net.TCPConn), tcpstate.Origin{}).Close())
		peer.SetLinger(0) // no TIME-WAIT
		peer.Close()
	}
	// At most about once in 100 ms, and a machine that is slow takes longer.
	most := 20 + int64(time.Since(start)/(20*time.Millisecond))
	require.LessOrEqual(t, woken.Load(), most)
	require.LessOrEqual(t, asked.Load(), most)
}
