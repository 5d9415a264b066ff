package dialer_test

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func patience(t *testing.T, c net.Conn) (p tcpinfo.Patience) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { p, _ = tcpinfo.PatienceOf(fd) }))
	return p
}

func TestDetectWithinSetsTheOptions(t *testing.T) {
	planned := tcpinfo.Patience{
		User: 14 * time.Second, Idle: 4 * time.Second, Interval: 4 * time.Second, Count: 3, KeepAlive: true,
	}
	ofGo := tcpinfo.Patience{Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9, KeepAlive: true}
	both := func(a tcpinfo.Patience, user time.Duration) tcpinfo.Patience { a.User = user; return a }
	minute := tcpinfo.Patience{Idle: time.Minute, Interval: 15 * time.Second, Count: 9, KeepAlive: true}
	for name, tc := range map[string]struct {
		d    dialer.Dialer
		want tcpinfo.Patience
	}{
		"set":            {dialer.Dialer{DetectWithin: 20 * time.Second}, planned},
		"not wrapped":    {dialer.Dialer{DetectWithin: 20 * time.Second, NoWrap: true}, planned},
		"plain dialer":   {dialer.Dialer{DetectWithin: 20 * time.Second, NetDialer: &net.Dialer{Timeout: time.Minute}}, planned},
		"zero":           {dialer.Dialer{}, ofGo},
		"negative":       {dialer.Dialer{DetectWithin: -1}, ofGo},
		"period is kept": {dialer.Dialer{DetectWithin: 20 * time.Second, NetDialer: &net.Dialer{KeepAlive: time.Minute}}, both(minute, 90*time.Second)},
		"config is kept": {dialer.Dialer{DetectWithin: 20 * time.Second, NetDialer: &net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Minute},
		}}, both(minute, 90*time.Second)},
	} {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			t.Run(name+" "+address, func(t *testing.T) {
				tc.d.Tracker = leaktest.Tracker(t)
				c, err := tc.d.Dial("tcp", listen(t, "tcp", address).String())
				require.NoError(t, err)
				defer c.Close()
				assert.Equal(t, tc.want, patience(t, c))
			})
		}
	}
	t.Run("keepalive off is kept", func(t *testing.T) {
		d := dialer.Dialer{Tracker: leaktest.Tracker(t), DetectWithin: 20 * time.Second, NetDialer: &net.Dialer{KeepAlive: -1}}
		c, err := d.Dial("tcp", listen(t, "tcp", "127.0.0.1:0").String())
		require.NoError(t, err)
		defer c.Close()
		assert.False(t, patience(t, c).KeepAlive)
		assert.Equal(t, planned.User, patience(t, c).User)
	})
	t.Run("Wrap", func(t *testing.T) {
		d := dialer.Dialer{Tracker: leaktest.Tracker(t), DetectWithin: 20 * time.Second}
		c, err := d.Wrap((&net.Dialer{KeepAlive: -1}).DialContext)(t.Context(), "tcp", listen(t, "tcp", "127.0.0.1:0").String())
		require.NoError(t, err)
		defer c.Close()
		assert.Equal(t, planned, patience(t, c))
	})
}

// What is not TCP, or refuses an option, is dialed all the same.
func TestDetectWithinFailsNothing(t *testing.T) {
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), DetectWithin: 20 * time.Second, NetDialer: new(net.Dialer)}
	d.NetDialer.SetMultipathTCP(true)
	for _, to := range []net.Addr{listen(t, "tcp", "127.0.0.1:0"), listen(t, "unix", t.TempDir()+"/s")} {
		c, err := d.Dial(to.Network(), to.String())
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	failed := d.Wrap(func(context.Context, string, string) (net.Conn, error) { return (*net.TCPConn)(nil), syscall.EPERM })
	_, err := failed(t.Context(), "tcp", "")
	require.Equal(t, syscall.EPERM, err)
}

func TestDetectWithinEndsADeadConnection(t *testing.T) {
	t.Parallel()
	ln := tcptest.Listen(t)
	d := dialer.Dialer{Tracker: leaktest.Tracker(t), DetectWithin: 3 * time.Second}
	c, err := d.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.IsType(t, (*tcpstate.Conn)(nil), c)
	peer, err := ln.AcceptTCP()
	require.NoError(t, err)
	defer tcptest.Reset(t, peer)
	tcptest.Deafen(t, peer)
	began := time.Now()
	require.NoError(t, c.SetReadDeadline(began.Add(time.Minute)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	assert.Less(t, time.Since(began), 5*time.Second)
}
