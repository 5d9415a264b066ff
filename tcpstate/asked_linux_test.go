package tcpstate_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// What is known of a socket is not asked for when it is closed.
func TestCloseAsksOnlyWhatIsNotKnown(t *testing.T) {
	const info = 1 // TCP_INFO
	write := func(t *testing.T, peer net.Conn, conn *tcpstate.Conn, n int) {
		t.Helper()
		_, err := peer.Write(make([]byte, n))
		require.NoError(t, err)
		tcptest.WaitUntil(t, "the bytes", func() bool { recv, _ := tcptest.Queues(t, conn); return recv == n })
	}
	read := func(t *testing.T, conn *tcpstate.Conn, n int) {
		t.Helper()
		_, err := io.ReadFull(conn, make([]byte, n))
		require.NoError(t, err)
	}
	end := func(t *testing.T, peer *net.TCPConn, conn *tcpstate.Conn) {
		t.Helper()
		require.NoError(t, peer.CloseWrite())
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	}
	for name, tt := range map[string]struct {
		multipath bool // nobody says that it is not
		before    func(t *testing.T, conn *tcpstate.Conn, peer *net.TCPConn)
		asked     int
	}{
		"nothing came": {asked: info},
		"an answer was read": {
			before: func(t *testing.T, conn *tcpstate.Conn, peer *net.TCPConn) { write(t, peer, conn, 5); read(t, conn, 5) },
			asked:  info + 1,
		},
		"the end was read": {
			before: func(t *testing.T, conn *tcpstate.Conn, peer *net.TCPConn) {
				write(t, peer, conn, 5)
				read(t, conn, 5)
				end(t, peer, conn)
			},
			asked: info,
		},
		"nothing came, perhaps on one path of several": {multipath: true, asked: info + 1},
		"something is left": {
			before: func(t *testing.T, conn *tcpstate.Conn, peer *net.TCPConn) { write(t, peer, conn, 5); read(t, conn, 2) },
			asked:  info + 1,
		},
		"something is left, perhaps on one path of several": {
			multipath: true,
			before:    func(t *testing.T, conn *tcpstate.Conn, peer *net.TCPConn) { write(t, peer, conn, 5); read(t, conn, 2) },
			asked:     info + 2, // and whether one of them is a DATA_FIN
		},
		"something came although reading was shut down": {
			before: func(t *testing.T, conn *tcpstate.Conn, peer *net.TCPConn) {
				require.NoError(t, conn.CloseRead())
				_, err := conn.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF)
				write(t, peer, conn, 5)
			},
			asked: info + 1,
		},
		"something is not sent": {
			before: func(t *testing.T, conn *tcpstate.Conn, _ *net.TCPConn) { tcptest.FillWindow(t, conn.TCPConn) },
			asked:  info + 2, // both queues
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr, _ := clockedTracker(t)
			var asked atomic.Int64
			tcpstate.SetSeam(tr, tcpstate.Seam{Asked: func() { asked.Add(1) }})
			c, peer := tcptest.Pair(t)
			dialing := tr.BeginDial(context.Background(), "tcp", tcpstate.Origin{})
			if !tt.multipath {
				dialing.SinglePath()
			}
			conn := dialing.Done(c, nil, true).(*tcpstate.Conn)
			if tt.before != nil {
				tt.before(t, conn, peer)
			}
			before := asked.Load()
			require.NoError(t, conn.Close())
			require.EqualValues(t, tt.asked, asked.Load()-before)
		})
	}
}

// A SYN is sent again after a second at the earliest.
func TestQuickDialsAreNotAskedForTheirSYNs(t *testing.T) {
	for took, want := range map[time.Duration]int64{0: 0, 800 * time.Millisecond: 0, time.Second: 1} {
		tr, clk := clockedTracker(t)
		var asked atomic.Int64
		tcpstate.SetSeam(tr, tcpstate.Seam{Asked: func() { asked.Add(1) }, SYNTimeout: tcpstate.SYNTimeout})
		t.Cleanup(tr.Observe(&tcpstate.Observer{DialDone: func(tcpstate.DialInfo) any { return nil }}))
		c, _ := tcptest.Pair(t)
		dialing := tr.BeginDial(context.Background(), "tcp", tcpstate.Origin{})
		clk.Advance(took)
		conn := dialing.Done(c, nil, true)
		require.Equal(t, want, asked.Load(), took)
		require.NoError(t, conn.Close())
	}
}
