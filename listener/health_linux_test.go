package listener_test

import (
	"bufio"
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func kinds(tr *tcpstate.Tracker) (all []tcpstate.Kind) {
	for _, f := range tr.Findings() {
		all = append(all, f.Kind)
	}
	return all
}

// waits connects a client that nobody accepts.
func waits(t *testing.T, tr *tcpstate.Tracker, ln *listener.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	tcptest.WaitUntil(t, "the accept queue", func() bool { return slices.Collect(tr.Listeners())[0].Queue > 0 })
	return c
}

func TestAListenerThatIsNotServedIsReported(t *testing.T) {
	tr, clk := clocked(t)
	ln := listen(t, &listener.Config{Tracker: tr, Name: "api"}, "tcp", "127.0.0.1:0")
	waits(t, tr, ln)
	clk.Advance(25 * time.Second)
	fs := tr.Findings()
	require.Len(t, fs, 1)
	assert.Equal(t, tcpstate.KindListenerNotAccepting, fs[0].Kind)
	assert.Equal(t, "listen", fs[0].Sites[0].Role)
	assert.Contains(t, fs[0].Sites[0].Frames[0].Function, "listener_test.listen")
	ln.Drain()
	clk.Advance(2 * time.Second)
	assert.Empty(t, tr.Findings())
}

func TestAnInheritedListenerIsReportedOnceItWasServed(t *testing.T) {
	tr, clk := clocked(t)
	ln := (&listener.Config{Tracker: tr}).Wrap(tcptest.Listen(t))
	defer ln.Close()
	waits(t, tr, ln)
	clk.Advance(time.Minute)
	assert.Empty(t, tr.Findings())
	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	waits(t, tr, ln)
	clk.Advance(25 * time.Second)
	assert.Equal(t, []tcpstate.Kind{tcpstate.KindListenerNotAccepting}, kinds(tr))
}

// proxied reads a PROXY header inside Accept.
type proxied struct{ net.Listener }

func (l proxied) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		_, _ = bufio.NewReader(c).ReadString('\n')
	}
	return c, err
}

func TestAnAcceptThatWaitsForAProxyHeaderIsReported(t *testing.T) {
	tr, clk := clocked(t)
	ln := listen(t, &listener.Config{Tracker: tr}, "tcp", "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		for {
			c, err := proxied{ln}.Accept()
			if err != nil {
				done <- err
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
		}
	}()
	mute, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	tcptest.WaitUntil(t, "Accept to read", func() bool {
		all := slices.Collect(tr.Listeners())
		return all[0].Accepted == 1 && all[0].Accepting == 0
	})
	behind := waits(t, tr, ln)
	tcptest.WaitUntil(t, "the report", func() bool {
		clk.Advance(time.Second)
		return slices.Contains(kinds(tr), tcpstate.KindListenerBlockedInAccept)
	})
	fs := tr.Findings()
	assert.Equal(t, mute.LocalAddr().String(), fs[0].Subject.Remote)
	assert.Contains(t, fs[0].Sites[0].Frames[0].Function, "proxied.Accept")
	require.NoError(t, mute.Close())
	require.NoError(t, behind.Close())
	tcptest.WaitUntil(t, "both to be accepted", func() bool { return slices.Collect(tr.Listeners())[0].Accepted == 2 })
	require.NoError(t, ln.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	cancel()
}

func TestConnectionsOfAClosedListenerAreInDrain(t *testing.T) {
	for name, tt := range map[string]struct {
		grace time.Duration
		want  bool
	}{"by default": {0, true}, "off": {-1, false}} {
		t.Run(name, func(t *testing.T) {
			tr, clk := clocked(t)
			ln := listen(t, &listener.Config{Tracker: tr, DrainGrace: tt.grace, Name: "api"}, "tcp", "127.0.0.1:0")
			conn, client := dialAndAccept(t, ln)
			require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.Thresholds.CloseWait = 10 * time.Second }))
			clk.Advance(2 * time.Second)
			require.NoError(t, ln.Close())
			require.NoError(t, client.Close())
			tcptest.WaitState(t, conn.(*tcpstate.Conn), tcptest.CloseWait)
			clk.Advance(25 * time.Second)
			assert.Equal(t, tt.want, len(tr.Findings()) == 0)
			clk.Advance(20 * time.Second)
			assert.Equal(t, []tcpstate.Kind{tcpstate.KindCloseWaitNeverRead}, kinds(tr))
		})
	}
}
