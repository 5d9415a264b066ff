package tcpstate_test

import (
	"net"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestListenersShowTheAcceptQueue(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("TCP_INFO of a listener is read on Linux only")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	tr := leaktest.Tracker(t)
	l := tr.AddListener(ln, tcpstate.Origin{Name: "api"})

	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
	}
	queue := func() int {
		all := slices.Collect(tr.Listeners())
		require.Len(t, all, 1)
		require.Equal(t, "api", all[0].Name)
		require.Positive(t, all[0].Limit)
		return all[0].Queue
	}
	tcptest.WaitUntil(t, "three connections wait", func() bool { return queue() == 3 })
	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, 2, queue())
	l.Remove(0)
	l.Remove(0)
	require.Empty(t, slices.Collect(tr.Listeners()))
}

func TestAListenerThatIsClosedOrDroppedIsForgotten(t *testing.T) {
	tr := leaktest.Tracker(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	tr.AddListener(ln, tcpstate.Origin{})
	require.NoError(t, ln.Close())
	require.Empty(t, slices.Collect(tr.Listeners()), "closed behind our back")

	func() {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		tr.AddListener(ln, tcpstate.Origin{})
		require.Len(t, slices.Collect(tr.Listeners()), 1)
	}()
	tcptest.WaitUntil(t, "the dropped listener is collected", func() bool {
		runtime.GC()
		return len(slices.Collect(tr.Listeners())) == 0
	})
}

func TestAListenerThatIsNotTCPIsIgnored(t *testing.T) {
	tr := leaktest.Tracker(t)
	require.Nil(t, tr.AddListener(nil, tcpstate.Origin{}))
	require.Nil(t, tr.AddListener((*net.TCPListener)(nil), tcpstate.Origin{}))
	ln, err := net.Listen("unix", t.TempDir()+"/s")
	require.NoError(t, err)
	defer ln.Close()
	require.NotNil(t, tr.AddListener(ln, tcpstate.Origin{}))
	require.Empty(t, slices.Collect(tr.Listeners()))
}
