package tcpstate_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// asked counts the system calls that ask about connections.
type asked struct {
	*rig
	n atomic.Int64
}

func newAsked(t *testing.T) *asked {
	a := &asked{rig: newRig(t)}
	tcpstate.SetSeam(a.tr, tcpstate.Seam{Asked: func() { a.n.Add(1) }})
	return a
}

// sweep lets the tracker sweep once and returns how often it asked.
func (a *asked) sweep() int {
	a.Helper()
	sweeps, before := a.tr.Stats().Sweeps, a.n.Load()
	a.clk.Advance(10 * time.Second)
	require.EqualValues(a, 1, a.tr.Stats().Sweeps-sweeps)
	return int(a.n.Load() - before)
}

// receives has the peer send text, and waits until the kernel has it.
func (a *asked) receives(c *net.TCPConn, peer *net.TCPConn, text string) {
	a.Helper()
	_, err := peer.Write([]byte(text))
	require.NoError(a, err)
	hasUnread(a.T, c, len(text))
}

func hasUnread(t *testing.T, c *net.TCPConn, bytes int) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	tcptest.WaitUntil(t, "what the peer sent", func() bool {
		n := 0
		require.NoError(t, raw.Control(func(fd uintptr) { n, err = tcpinfo.Unread(fd) }))
		require.NoError(t, err)
		return n == bytes
	})
}

// pooled is a connection whose Read began before the data came, as that of the
// goroutine which reads for a pool does.
func (a *asked) pooled() (inner, peer *net.TCPConn) {
	a.Helper()
	c, peer := a.dialed(tcpstate.Expect{})
	a.say(c, "ask", peer)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 64))
		read <- err
	}()
	tcptest.WaitUntil(a.T, "the Read", func() bool { return tcpstate.EverRead(c) })
	a.clk.Advance(time.Second)
	_, err := peer.Write([]byte("answer"))
	require.NoError(a, err)
	require.NoError(a, <-read)
	a.Cleanup(func() { c.Close() })
	return c.TCPConn, peer
}

// attached is a connection whose Reads nobody sees.
func (a *asked) attached() (inner, peer *net.TCPConn) {
	a.Helper()
	inner, peer = tcptest.Pair(a.T)
	require.True(a, a.tr.Attach(inner, tcpstate.Origin{Name: "db"}))
	a.clk.Advance(2 * time.Second)
	a.say(inner, "ask", peer)
	a.say(peer, "answer", inner)
	return inner, peer
}

func TestASweepAsksOnceAboutAnIdleConnection(t *testing.T) {
	for name, open := range map[string]func(*asked) (inner, peer *net.TCPConn){
		"pooled": (*asked).pooled, "attached": (*asked).attached,
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsked(t)
			c, peer := open(a)
			require.Equal(t, 3, a.sweep(), "for TCP_INFO, for the bytes that wait, and whether it is MPTCP")
			for range 5 {
				require.Equal(t, 1, a.sweep())
			}
			a.say(peer, "more", c)
			require.Equal(t, 2, a.sweep(), "more came")
			require.Equal(t, 1, a.sweep())
			a.say(c, "ask", peer)
			require.Equal(t, 1, a.sweep(), "what is sent does not matter")
			a.silent()
		})
	}
}

// What comes after the queue was found empty is looked for, however little.
func TestBytesThatComeLaterAreFoundUnread(t *testing.T) {
	for name, open := range map[string]func(*asked) (inner, peer *net.TCPConn){
		"pooled": (*asked).pooled, "attached": (*asked).attached,
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsked(t)
			c, peer := open(a)
			a.sweep()
			require.Equal(t, 1, a.sweep())
			a.receives(c, peer, "x")
			a.clk.Advance(45 * time.Second)
			a.one(tcpstate.KindLocalNotReading)

			// The healthy twin reads it, and everything is as it was.
			_, err := c.Read(make([]byte, 1))
			require.NoError(t, err)
			a.clk.Advance(15 * time.Second)
			require.Empty(t, a.tr.Findings())
		})
	}
}

// TCP_INFO shows one path of Multipath TCP: more may have come by another.
func TestMultipathTCPIsAskedEachTimeWhetherBytesWait(t *testing.T) {
	a := newAsked(t)
	near, far := a.mptcpPair(tcpstate.Client)
	a.say(near, "ask", far)
	a.say(far, "answer", near)
	a.clk.Advance(10 * time.Second)
	for range 3 {
		require.Equal(t, 3, a.sweep())
	}
	a.silent()
	_, err := far.Write([]byte("x"))
	require.NoError(t, err)
	hasUnread(t, near.TCPConn, 1)
	a.clk.Advance(45 * time.Second)
	a.one(tcpstate.KindLocalNotReading)
}
