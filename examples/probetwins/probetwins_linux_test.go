package probetwins

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// settings are what the connections of a test have in common. The kernel's own
// first probe comes after 4 s, when the path works again.
type settings struct {
	name        string
	count       int           // TCP_KEEPCNT
	userTimeout time.Duration // TCP_USER_TIMEOUT
}

const ownProbe = 4 * time.Second

var dangerous = []settings{
	{name: "TCP_USER_TIMEOUT", count: 9, userTimeout: 1500 * time.Millisecond},
	{name: "TCP_KEEPCNT 1", count: 1},
}

func (s settings) apply(t *testing.T, c *net.TCPConn) {
	t.Helper()
	require.NoError(t, c.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: ownProbe, Interval: time.Second, Count: s.count,
	}))
	set(t, c, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.userTimeout/time.Millisecond))
}

// A probe that is sent regardless of the settings, and lost in an outage of a
// second, ends the connection long after the path has healed. The unprobed
// twin, on the same path, lives.
func TestAProbeThatKills(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	for _, s := range dangerous {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			probed, probedPeer := n.connect(t)
			spared, sparedPeer := n.connect(t)
			for _, c := range []*net.TCPConn{probed, spared} {
				s.apply(t, c)
				awaitIdle(t, c)
			}
			healProbed, healSpared := n.cut(t, probedPeer), n.cut(t, sparedPeer)
			set(t, probed, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1)
			await(t, "the probe", func() bool { return info(t, probed).Probes == 1 })
			set(t, probed, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(ownProbe/time.Second))
			healProbed()
			healSpared()
			if info(t, spared).LastAckReceived > ownProbe-500*time.Millisecond {
				t.Skip("the machine is too slow: the kernel's own probe may have been lost, too")
			}

			await(t, "the end", func() bool { return info(t, probed).State == tcpstate.Closed })
			_, err := probed.Read(make([]byte, 1))
			require.True(t, errors.Is(err, syscall.ETIMEDOUT), "%v", err)
			await(t, "the answer to the kernel's own probe", func() bool {
				return info(t, spared).LastAckReceived < time.Second
			})
			works(t, spared, sparedPeer)
		})
	}
}

// The same steps with Watch.Probe: it sees the danger and sends nothing.
func TestAProbeThatIsNotSentKillsNobody(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	tr := leaktest.Tracker(t)
	for _, s := range dangerous {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c, peer := n.connect(t)
			s.apply(t, c)
			require.True(t, tr.Attach(c, tcpstate.Origin{}))
			awaitIdle(t, c)
			arrived := n.counter(t, peer)
			heal := n.cut(t, peer)
			for range 5 {
				r := tr.Of(c).Probe(t.Context())
				assert.Equal(t, tcpstate.ProbeUnknown, r.Outcome, "%+v", r)
				assert.NotEmpty(t, r.Reason)
			}
			assert.Zero(t, arrived())
			heal()
			if info(t, c).LastAckReceived > ownProbe-500*time.Millisecond {
				t.Skip("the machine is too slow: the kernel's own probe may have been lost, too")
			}
			await(t, "the answer to the kernel's own probe", func() bool {
				return info(t, c).LastAckReceived < time.Second
			})
			assert.Equal(t, 1, arrived())
			works(t, c, peer)
		})
	}
}

// Where it does probe, the connection survives an outage with probes in it, and
// works when the path does.
func TestAProbeThatDoesNotKill(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	tr := leaktest.Tracker(t, leaktest.IgnoreKind(tcpstate.KindPeerDeadProbes))
	for name, keep := range map[string]net.KeepAliveConfig{
		"keepalive of Go": {Enable: true},
		"keepalive off":   {Enable: false, Idle: -1, Interval: -1, Count: -1},
		"few probes":      {Enable: true, Idle: 8 * time.Second, Interval: 2 * time.Second, Count: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, peer := n.connect(t)
			require.NoError(t, c.SetKeepAliveConfig(keep))
			require.True(t, tr.Attach(c, tcpstate.Origin{}))
			awaitIdle(t, c)
			arrived := n.counter(t, peer)

			r := tr.Of(c).Probe(t.Context())
			require.Equal(t, tcpstate.ProbeAlive, r.Outcome, "%+v", r)
			require.Equal(t, 1, arrived(), "one segment on the wire")
			t.Logf("alive after %v", r.Took)

			awaitIdle(t, c)
			heal := n.cut(t, peer)
			want := tcpstate.ProbeNoAnswer
			for i := range 8 {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				r := tr.Of(c).Probe(ctx)
				cancel()
				assert.Equal(t, want, r.Outcome, "%+v", r)
				if keep.Enable || i == 6 {
					want = tcpstate.ProbePending
				}
			}
			switch {
			case keep.Enable:
				assert.Equal(t, 2, arrived(), "the kernel goes on by itself")
			default:
				assert.Equal(t, 8, arrived(), "seven of the nine that TCP_KEEPCNT allows")
			}
			heal()
			require.Equal(t, tcpstate.Established, info(t, c).State)
			if name == "few probes" {
				await(t, "the answer to the kernel's own probe", func() bool { return info(t, c).Probes == 0 })
			} else {
				works(t, c, peer)
			}
			awaitIdle(t, c)
			r = tr.Of(c).Probe(t.Context())
			assert.Equal(t, tcpstate.ProbeAlive, r.Outcome, "%+v", r)
			works(t, c, peer)
		})
	}
}

func set(t *testing.T, c *net.TCPConn, level, option, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	var serr error
	require.NoError(t, raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), level, option, value) }))
	require.NoError(t, os.NewSyscallError("setsockopt", serr))
}

func info(t *testing.T, c *net.TCPConn) tcpstate.Info {
	t.Helper()
	i, err := tcpstate.ReadInfo(c)
	require.NoError(t, err)
	return i
}

// awaitIdle waits for more than the second that the kernel counts in.
func awaitIdle(t *testing.T, c *net.TCPConn) {
	t.Helper()
	await(t, "an idle connection", func() bool {
		i := info(t, c)
		return min(i.LastAckReceived, i.LastDataReceived) > time.Second
	})
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 20*time.Second, 5*time.Millisecond, "waited for %s", what)
}

// works proves that bytes go both ways.
func works(t *testing.T, a, b net.Conn) {
	t.Helper()
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		require.NoError(t, way[1].SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err := way[0].Write([]byte("x"))
		require.NoError(t, err)
		_, err = way[1].Read(make([]byte, 1))
		require.NoError(t, err)
	}
}
