package deadpeer_test

import (
	"crypto/tls"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/deadpeer"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

func patience(t *testing.T, c syscall.Conn) (p tcpinfo.Patience, ok bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { p, ok = tcpinfo.PatienceOf(fd) }))
	return p, ok
}

func TestApplySetsTheOptions(t *testing.T) {
	want := tcpinfo.Patience{
		User: 14 * time.Second, Idle: 4 * time.Second, Interval: 4 * time.Second, Count: 3, KeepAlive: true,
	}
	for name, opts := range map[string][]tcptest.Option{"IPv4": nil, "IPv6": {tcptest.IPv6()}} {
		t.Run(name, func(t *testing.T) {
			c, s := tcptest.Pair(t, opts...)
			deadpeer.Apply(c, 20*time.Second, false)
			got, _ := patience(t, c)
			assert.Equal(t, want, got)

			deadpeer.Apply(tls.Client(s, new(tls.Config)), 20*time.Second, false)
			got, _ = patience(t, s)
			assert.Equal(t, want, got, "below TLS")

			before := got
			for _, d := range []time.Duration{0, -1} {
				deadpeer.Apply(s, d, false)
				got, _ = patience(t, s)
				assert.Equal(t, before, got)
			}
		})
	}
}

// Multipath TCP refuses the user timeout. Keepalive works.
func TestApplyToMultipathTCP(t *testing.T) {
	c, _ := tcptest.Pair(t, tcptest.MPTCP(true))
	require.NoError(t, c.SetKeepAlive(false))
	deadpeer.Apply(c, 20*time.Second, false)
	_, ok := patience(t, c)
	assert.False(t, ok)
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		idle, err := tcpinfo.KeepIdle(fd)
		assert.NoError(t, err)
		assert.Equal(t, 4*time.Second, idle)
	}))
}

// The keepalive of the application stays, and one lost probe of it must not
// become fatal by the user timeout (it is, when that is over at the second).
func TestApplyKeepsWhatIsConfigured(t *testing.T) {
	c, _ := tcptest.Pair(t)
	for _, tc := range []struct {
		keep net.KeepAliveConfig
		d    time.Duration
		user time.Duration
	}{
		{net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 5}, 20 * time.Second, 50 * time.Second},
		{net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: 2 * time.Second, Count: 5}, 20 * time.Second, 14 * time.Second},
		{net.KeepAliveConfig{Enable: false, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 5}, 20 * time.Second, 14 * time.Second},
	} {
		require.NoError(t, c.SetKeepAliveConfig(tc.keep))
		deadpeer.Apply(c, tc.d, true)
		got, _ := patience(t, c)
		assert.Equal(t, tcpinfo.Patience{
			User: tc.user, Idle: tc.keep.Idle, Interval: tc.keep.Interval, Count: tc.keep.Count, KeepAlive: tc.keep.Enable,
		}, got)
	}
}

const (
	within = 5 * time.Second
	busy   = time.Second // what a busy machine adds
)

// ends waits until a Read of c returns, and how.
func ends(t *testing.T, c *net.TCPConn) time.Duration {
	t.Helper()
	began := time.Now()
	require.NoError(t, c.SetReadDeadline(began.Add(10*within)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	return time.Since(began)
}

func TestADeadPeerOfAnIdleConnectionIsFound(t *testing.T) {
	t.Parallel()
	c, peer := tcptest.Pair(t)
	deadpeer.Apply(c, within, false)
	tcptest.Deafen(t, peer)
	took := ends(t, c)
	assert.Less(t, took, within+busy)
	assert.Greater(t, took, within-2*time.Second, "after all probes")
	t.Log("idle:", took)
}

func TestADeadPeerOfAWritingConnectionIsFound(t *testing.T) {
	t.Parallel()
	c, peer := tcptest.Pair(t)
	deadpeer.Apply(c, within, false)
	tcptest.Deafen(t, peer)
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	took := ends(t, c)
	assert.Less(t, took, within+busy)
	t.Log("writing:", took)
}

// tcp(7): data that cannot be sent because the window is closed counts, too.
func TestAPeerThatDoesNotReadIsGivenUp(t *testing.T) {
	t.Parallel()
	c, _ := tcptest.Pair(t, tcptest.SmallBuffers())
	deadpeer.Apply(c, within, false)
	tcptest.FillWindow(t, c)
	took := ends(t, c)
	assert.Less(t, took, within+busy)
	t.Log("zero window:", took)
}

// The healthy twin: idle for long, and one probe lost on the way.
func TestALivingPeerIsLeftAlone(t *testing.T) {
	t.Parallel()
	c, peer := tcptest.Pair(t)
	deadpeer.Apply(c, within, false)
	heal := tcptest.Deafen(t, peer)
	probes := func() (n uint8) {
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		var b [8]byte
		require.NoError(t, raw.Control(func(fd uintptr) { _, err = tcpinfo.Get(fd, b[:]) }))
		require.NoError(t, err)
		return b[3]
	}
	tcptest.WaitUntil(t, "a lost probe", func() bool { return probes() == 1 })
	heal()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(2*within+time.Second)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorContains(t, err, "timeout")
	require.NotErrorIs(t, err, syscall.ETIMEDOUT)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(peer, make([]byte, 1))
	require.NoError(t, err)
}
