package tcpstate_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// lingering waits, with the clock standing still but for the looks, until the
// kernel has sent the FIN of the one closed socket again so often.
func (r *rig) lingering(retries int) tcpstate.ClosingSnapshot {
	r.Helper()
	var last tcpstate.ClosingSnapshot
	tcptest.WaitUntil(r, "a socket that lingers", func() bool {
		r.clk.Advance(1100 * time.Millisecond) // so that it is looked at
		for s := range r.tr.Closing() {
			last = s
		}
		return last.ID != 0 && last.Retries >= retries
	})
	return last
}

// goneSoon waits until no closed socket is followed.
func (r *rig) goneSoon() {
	r.Helper()
	tcptest.WaitUntil(r, "the sockets to be gone", func() bool {
		r.clk.Advance(5 * time.Second)
		return r.tr.Stats().Closing == 0
	})
}

func TestAFINThatNobodyAcknowledgesIsReported(t *testing.T) {
	for _, tt := range []struct {
		name  string
		state tcpstate.State
		enter func(r *rig, c *tcpstate.Conn, s *net.TCPConn)
	}{
		{"FIN-WAIT-1", tcpstate.FinWait1, func(*rig, *tcpstate.Conn, *net.TCPConn) {}},
		{"LAST-ACK", tcpstate.LastAck, func(r *rig, c *tcpstate.Conn, s *net.TCPConn) {
			require.NoError(r, s.CloseWrite())
			tcptest.WaitState(r, c, tcptest.CloseWait)
			r.clk.Settle()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.FINUnacked = time.Hour }))
			c, s := r.dialed(tcpstate.Expect{Pooled: true})
			r.say(c, "hello", s)
			tt.enter(r, c, s)
			heal := tcptest.Deafen(t, s)
			require.NoError(t, c.Close())
			at := r.clk.Now()

			l := r.lingering(3)
			require.Equal(t, c.Watch().ID(), l.ID)
			require.Equal(t, tt.state, l.State)
			require.Equal(t, 1, l.SendQueue)
			require.Equal(t, "db", l.Name)
			require.Equal(t, "dial", l.Site.Role)
			require.Equal(t, at, l.Closed)
			require.Empty(t, r.tr.Findings())

			require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.FINUnacked = 0 }))
			r.clk.Advance(10 * time.Second)
			f := r.one(tcpstate.KindClosingFINUnacked)
			require.Equal(t, tt.state, f.State)
			require.Equal(t, tcpstate.Warning, f.Severity)
			require.Equal(t, c.Watch().ID(), f.Subject.ID)
			require.Equal(t, 1, f.Evidence.SendQueue)
			require.GreaterOrEqual(t, f.Evidence.Timeouts, uint8(3))
			require.Equal(t, uint64(5), f.Evidence.BytesOut)
			require.Equal(t, at, f.Since)
			require.False(t, f.Subject.Conn.Open())

			heal()
			tcptest.Reset(t, s)
			r.goneSoon()
			require.Empty(t, r.tr.Findings())
			require.Equal(t, "cleared", r.rec.await(t, 2)[1].what)
		})
	}
}

func TestAnOrdinaryCloseIsFollowedNoFurther(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{})
	r.say(c, "hello", s)
	require.NoError(t, c.Close())
	tcptest.WaitTable(t, c.LocalAddr(), c.RemoteAddr(), tcptest.FinWait2)
	_, err := s.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	r.clk.Advance(3 * time.Second)
	require.Zero(t, r.tr.Stats().Closing)
	require.False(t, tcpstate.Running(r.tr))
	r.silent()
}
