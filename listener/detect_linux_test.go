package listener_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func patience(t *testing.T, c net.Conn) (p tcpinfo.Patience, ok bool) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { p, ok = tcpinfo.PatienceOf(fd) }))
	return p, ok
}

// The default listener is Multipath TCP, and what it accepts from a plain
// client is not.
func TestDetectWithinSetsTheOptions(t *testing.T) {
	planned := tcpinfo.Patience{
		User: 14 * time.Second, Idle: 4 * time.Second, Interval: 4 * time.Second, Count: 3, KeepAlive: true,
	}
	ofGo := tcpinfo.Patience{Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9, KeepAlive: true}
	kept := tcpinfo.Patience{User: 90 * time.Second, Idle: time.Minute, Interval: 15 * time.Second, Count: 9, KeepAlive: true}
	for name, tc := range map[string]struct {
		c    listener.Config
		want tcpinfo.Patience
	}{
		"set":            {listener.Config{DetectWithin: 20 * time.Second}, planned},
		"not wrapped":    {listener.Config{DetectWithin: 20 * time.Second, NoWrap: true}, planned},
		"plain config":   {listener.Config{DetectWithin: 20 * time.Second, NetConfig: new(net.ListenConfig)}, planned},
		"zero":           {listener.Config{}, ofGo},
		"negative":       {listener.Config{DetectWithin: -1}, ofGo},
		"period is kept": {listener.Config{DetectWithin: 20 * time.Second, NetConfig: &net.ListenConfig{KeepAlive: time.Minute}}, kept},
		"config is kept": {listener.Config{DetectWithin: 20 * time.Second, NetConfig: &net.ListenConfig{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Minute},
		}}, kept},
	} {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			t.Run(name+" "+address, func(t *testing.T) {
				if probe, err := net.Listen("tcp", address); err != nil {
					t.Skipf("no %s: %v", address, err)
				} else {
					probe.Close()
				}
				tc.c.Tracker = leaktest.Tracker(t)
				accepted, _ := dialAndAccept(t, listen(t, &tc.c, "tcp", address))
				got, ok := patience(t, accepted)
				require.True(t, ok)
				assert.Equal(t, tc.want, got)
			})
		}
	}
	t.Run("Wrap", func(t *testing.T) {
		c := listener.Config{Tracker: leaktest.Tracker(t), DetectWithin: 20 * time.Second}
		accepted, _ := dialAndAccept(t, c.Wrap(tcptest.Listen(t)))
		got, _ := patience(t, accepted)
		assert.Equal(t, planned, got)
	})
}

// A Multipath TCP client is accepted all the same, and gets keepalive.
func TestDetectWithinOfMultipathTCP(t *testing.T) {
	c := listener.Config{Tracker: leaktest.Tracker(t), DetectWithin: 20 * time.Second}
	ln := c.Wrap(tcptest.Listen(t, tcptest.MPTCP(true)))
	client := tcptest.Connect(t, ln.NetListener(), tcptest.MPTCP(true))
	accepted, err := ln.Accept()
	require.NoError(t, err)
	defer accepted.Close()
	if on, err := client.MultipathTCP(); !on {
		t.Skipf("no MPTCP here (err %v)", err)
	}
	raw, err := accepted.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		idle, err := tcpinfo.KeepIdle(fd)
		assert.NoError(t, err)
		assert.Equal(t, 4*time.Second, idle)
	}))
}

func TestDetectWithinEndsADeadConnection(t *testing.T) {
	t.Parallel()
	c := listener.Config{Tracker: leaktest.Tracker(t), DetectWithin: 3 * time.Second}
	ln := c.Wrap(tcptest.Listen(t))
	client := tcptest.Connect(t, ln.NetListener())
	accepted, err := ln.Accept()
	require.NoError(t, err)
	defer accepted.Close()
	tcptest.Deafen(t, client)
	_, err = accepted.Write([]byte("x"))
	require.NoError(t, err)
	began := time.Now()
	require.NoError(t, accepted.SetReadDeadline(began.Add(time.Minute)))
	_, err = accepted.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	assert.Less(t, time.Since(began), 5*time.Second)
}
