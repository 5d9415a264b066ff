package listener_test

import (
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func clocked(t *testing.T) (*tcpstate.Tracker, *testclock.Clock) {
	tr := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	clock := testclock.Install(tr)
	t.Cleanup(func() {
		tr.Close()
		testclock.Remove(tr)
	})
	leaktest.Check(t, tr, leaktest.IgnoreFindings()) // tests look at them
	return tr, clock
}

// Linux hands out a connection that was reset while it waited for Accept.
func TestAcceptOfAConnectionThatWasResetAlready(t *testing.T) {
	tr, clock := clocked(t)
	ln := (&listener.Config{Tracker: tr}).Wrap(tcptest.Listen(t))
	plain := tcptest.Listen(t)
	tcptest.Reset(t, tcptest.Connect(t, plain))
	tcptest.Reset(t, tcptest.Connect(t, ln.NetListener()))
	want, err := plain.Accept()
	require.NoError(t, err)
	defer want.Close()
	got, err := ln.Accept()
	require.NoError(t, err)
	require.IsType(t, (*tcpstate.Conn)(nil), got)
	assert.NotNil(t, got.RemoteAddr())
	_, wantErr := want.Read(make([]byte, 1))
	require.ErrorIs(t, wantErr, syscall.ECONNRESET)
	_, err = got.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, wantErr = want.Read(make([]byte, 1))
	_, err = got.Read(make([]byte, 1))
	assert.Equal(t, wantErr, err, "io.EOF from the second Read on")

	clock.Advance(40 * time.Second)
	findings := tr.Findings()
	require.Len(t, findings, 1)
	assert.Equal(t, tcpstate.KindLeakDeadSocket, findings[0].Kind)
	assert.Equal(t, "reset", findings[0].Cause)
	require.NoError(t, got.Close())
	clock.Advance(2 * time.Second)
	assert.Empty(t, tr.Findings())
}

// Go's listeners are MPTCP sockets where the kernel has them; a plain client
// makes a connection that only looks like one.
func TestMPTCPListener(t *testing.T) {
	for _, tc := range []struct {
		name   string
		client bool
	}{{"plain client", false}, {"MPTCP client", true}} {
		t.Run(tc.name, func(t *testing.T) {
			tr, clock := clocked(t)
			ln := listen(t, &listener.Config{Tracker: tr, Name: "default"}, "tcp", "127.0.0.1:0")
			client := tcptest.Connect(t, ln, tcptest.MPTCP(tc.client))
			accepted, err := ln.Accept()
			require.NoError(t, err)
			defer accepted.Close()
			conn := accepted.(*tcpstate.Conn)
			on, err := conn.MultipathTCP()
			require.NoError(t, err)
			if tc.client && !on {
				t.Skip("the kernel gives no MPTCP")
			}
			require.Equal(t, tc.client, on)

			_, err = client.Write([]byte("ping"))
			require.NoError(t, err)
			buf := make([]byte, 4)
			_, err = io.ReadFull(conn, buf)
			require.NoError(t, err)
			require.NoError(t, client.CloseWrite())
			_, err = conn.Read(buf)
			require.Equal(t, io.EOF, err)
			clock.Advance(40 * time.Second)
			findings := tr.Findings()
			require.Len(t, findings, 1)
			assert.Equal(t, tcpstate.KindCloseWaitEOFSeen, findings[0].Kind)
			require.NoError(t, conn.Close())
			clock.Advance(2 * time.Second)
			assert.Empty(t, tr.Findings())
		})
	}
}

// A duplicate of the listening descriptor goes on accepting after Close.
func TestFileOfAListenerOutlivesIt(t *testing.T) {
	tr := leaktest.Tracker(t)
	ln := listen(t, &listener.Config{Tracker: tr}, "tcp", "127.0.0.1:0")
	f, err := ln.File()
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, tcptest.InodeOf(t, ln), tcptest.InodeOf(t, f))
	require.NoError(t, ln.Close())
	again, err := net.FileListener(f)
	require.NoError(t, err)
	defer again.Close()
	conn, _ := dialAndAccept(t, (&listener.Config{Tracker: tr}).Wrap(again))
	assert.NotNil(t, tr.Of(conn))
}
