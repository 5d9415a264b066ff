package tcpstate_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// halfCloses closes c in its direction and waits until the peer has
// acknowledged that and the tracker knows.
func (r *rig) halfCloses(c *tcpstate.Conn) {
	r.Helper()
	require.NoError(r, c.CloseWrite())
	tcptest.WaitState(r, c, tcptest.FinWait2)
	r.clk.Advance(11 * time.Second) // a sweep
}

func TestAPeerThatKeepsItsDirectionOpenIsReported(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.say(c, "hello", s)
	r.say(s, "bye", c)
	r.halfCloses(s)
	r.clk.Advance(48 * time.Second)
	r.silent()
	r.clk.Advance(14 * time.Second)
	f := r.one(tcpstate.KindClosingPeerOpen)
	require.Equal(t, tcpstate.FinWait2, f.State)
	require.Equal(t, tcpstate.Warning, f.Severity)
	require.Equal(t, tcpstate.PhaseActiveClose, f.Phase)
	require.Empty(t, f.Cause)
	require.Equal(t, "accept", f.Sites[0].Role)

	r.say(c, "still there", s) // it is not over
	r.clk.Advance(11 * time.Second)
	require.Empty(t, r.tr.Findings())
	r.clk.Advance(62 * time.Second)
	r.one(tcpstate.KindClosingPeerOpen)
	r.clears(s)
}

func TestAClientThatAwaitsAnAnswerAfterCloseWriteIsInventory(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{})
	r.say(c, "upload", s)
	r.halfCloses(c)
	r.clk.Advance(65 * time.Second)
	f := r.one(tcpstate.KindClosingPeerOpen)
	require.Equal(t, "answer_pending", f.Cause)
	require.Equal(t, tcpstate.Inventory, f.Severity)
	r.clears(c)
}

func TestHalfClosedConnectionsThatAreNotReported(t *testing.T) {
	for _, tt := range []struct {
		name   string
		expect tcpstate.Expect
		lasts  func(r *rig, c *tcpstate.Conn, s *net.TCPConn)
	}{
		{"declared", tcpstate.Expect{HalfClose: true}, func(r *rig, _ *tcpstate.Conn, _ *net.TCPConn) {
			r.clk.Advance(10 * time.Minute)
		}},
		{"a silence that is declared", tcpstate.Expect{Silence: 9 * time.Minute}, func(r *rig, _ *tcpstate.Conn, _ *net.TCPConn) {
			r.clk.Advance(8 * time.Minute)
		}},
		{"in use", tcpstate.Expect{}, func(r *rig, c *tcpstate.Conn, _ *net.TCPConn) {
			done := c.Watch().Use(context.Background(), tcpstate.Use{Name: "report"})
			r.clk.Advance(10 * time.Minute)
			done()
			r.clk.Advance(30 * time.Second)
		}},
		{"a stream", tcpstate.Expect{}, func(r *rig, c *tcpstate.Conn, s *net.TCPConn) {
			for range 6 {
				r.say(s, "news", c)
				r.clk.Advance(50 * time.Second)
			}
		}},
		{"a stream that is not read", tcpstate.Expect{}, func(r *rig, _ *tcpstate.Conn, s *net.TCPConn) {
			for range 4 {
				_, err := s.Write([]byte("x"))
				require.NoError(r, err)
				r.clk.Advance(20 * time.Second)
			}
		}},
		{"switched off", tcpstate.Expect{}, func(r *rig, _ *tcpstate.Conn, _ *net.TCPConn) {
			require.NoError(r, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.HalfOpen = -1 }))
			r.clk.Advance(10 * time.Minute)
		}},
		{"a FIN that is not acknowledged", tcpstate.Expect{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			c, s := r.dialed(tt.expect)
			r.say(c, "hello", s)
			r.say(s, "hello", c)
			if tt.lasts == nil {
				tcptest.Deafen(t, s)
				require.NoError(t, c.CloseWrite())
				r.clk.Advance(10 * time.Minute)
				require.Equal(t, tcptest.FinWait1, tcptest.State(t, c))
			} else {
				r.halfCloses(c)
				tt.lasts(r, c, s)
			}
			for _, f := range r.tr.Findings() {
				require.NotEqual(t, tcpstate.KindClosingPeerOpen, f.Kind)
			}
			require.NoError(t, c.Close())
		})
	}
}

func TestATargetThatDoesNotCloseIsInventory(t *testing.T) {
	r := newRig(t)
	keep, _ := r.dialed(tcpstate.Expect{})
	var peers []*net.TCPConn
	for range 12 {
		c, s := r.dialed(tcpstate.Expect{})
		require.NoError(t, c.Close())
		tcptest.WaitTable(t, c.LocalAddr(), c.RemoteAddr(), tcptest.FinWait2)
		peers = append(peers, s)
	}
	r.clk.Advance(20 * time.Second)
	f := r.one(tcpstate.KindPeerKeepsHalfOpen)
	require.Equal(t, tcpstate.SubjectTarget, f.Subject.Type)
	require.Equal(t, "db:5432", f.Subject.Target)
	require.Equal(t, tcpstate.Inventory, f.Severity)
	require.Equal(t, "12 of 12 looked up", f.Evidence.Notes[0].Value)

	r.clk.Advance(3 * time.Minute) // nobody closes any more
	require.Empty(t, r.tr.Findings())
	require.NoError(t, keep.Close())
	require.Len(t, peers, 12)
}

func TestATargetThatClosesWhenWeDoIsNotReported(t *testing.T) {
	r := newRig(t)
	keep, _ := r.dialed(tcpstate.Expect{})
	for range 20 {
		c, s := r.dialed(tcpstate.Expect{})
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		tcptest.WaitTable(t, c.LocalAddr(), c.RemoteAddr(), tcptest.TimeWait)
	}
	r.clk.Advance(time.Minute)
	r.silent()
	require.NoError(t, keep.Close())
}
