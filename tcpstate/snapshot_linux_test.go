package tcpstate_test

import (
	"bytes"
	"context"
	"net"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestASnapshotIsTheKernelsViewOfNow(t *testing.T) {
	r := newRig(t)
	c, s := r.dialed(tcpstate.Expect{})
	r.say(s, "hello", c)
	_, err := s.Write([]byte("unread"))
	require.NoError(t, err)
	done := c.Watch().Use(context.Background(), tcpstate.Use{Method: "PUBLISH", Name: "orders"})
	tcptest.WaitUntil(t, "the bytes", func() bool { return c.Watch().Snapshot().RecvQueue == 6 })

	got := c.Watch().Snapshot()
	require.Equal(t, tcpstate.Established, got.State)
	require.Equal(t, tcpstate.PhaseTransfer, got.Phase)
	require.Equal(t, "db", got.Name)
	require.Equal(t, "db:5432", got.Target)
	require.Equal(t, c.LocalAddr(), got.Local)
	require.Equal(t, c.RemoteAddr(), got.Remote)
	require.Equal(t, "PUBLISH orders", got.Use)
	require.Equal(t, 1, got.InUse)
	require.Equal(t, uint32(1), got.Uses)
	require.True(t, got.Wrapped)
	require.True(t, got.Open)
	require.Equal(t, "dial", got.Site.Role)
	require.Contains(t, got.Site.Frames[0].Function, "dialed")
	require.Empty(t, got.Finding)
	require.Zero(t, got.PeerClosed)
	done()

	require.NoError(t, s.Close())
	tcptest.WaitState(t, c, tcptest.CloseWait)
	r.clk.Settle()
	got = c.Watch().Snapshot()
	require.Equal(t, tcpstate.CloseWait, got.State)
	require.Equal(t, r.clk.Now(), got.PeerClosed)
	require.Equal(t, "PUBLISH orders", got.Use, "the last one")
	require.Zero(t, got.InUse)
	r.clk.Advance(35 * time.Second)
	require.Equal(t, tcpstate.KindCloseWaitNotReading, c.Watch().Snapshot().Finding)

	require.NoError(t, c.Close())
	got = c.Watch().Snapshot()
	require.False(t, got.Open)
	require.Equal(t, tcpstate.Closed, got.State)
	require.Equal(t, tcpstate.Snapshot{}, (*tcpstate.Watch)(nil).Snapshot())
}

func TestConnsAreListedOldestFirst(t *testing.T) {
	r := newRig(t)
	var want []uint64
	for range 5 {
		s, _ := r.accepted()
		want = append(want, s.Watch().ID())
	}
	var got []uint64
	for s := range r.tr.Conns() {
		got = append(got, s.ID)
	}
	require.Equal(t, want, got)
	for range r.tr.Conns() {
		break // early
	}
}

func TestAConnectionClosedBehindOurBackIsNotListedAsOpen(t *testing.T) {
	r := newRig(t)
	s, _ := r.accepted()
	require.NoError(t, s.NetConn().Close())
	for got := range r.tr.Conns() {
		require.False(t, got.Open)
		require.Equal(t, tcpstate.Closed, got.State)
	}
	r.clk.Advance(12 * time.Second)
	require.Empty(t, slices.Collect(r.tr.Conns()))
}

func TestClosedSaysHowAConnectionEnded(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(r *rig, s *tcpstate.Conn, c *net.TCPConn)
		want tcpstate.CloseReason
	}{
		{"by us", func(*rig, *tcpstate.Conn, *net.TCPConn) {}, tcpstate.CloseLocal},
		{"by us, in both directions", func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			require.NoError(r, s.CloseWrite())
			require.NoError(r, c.Close())
			tcptest.WaitState(r, s, tcptest.Closed)
		}, tcpstate.CloseLocal},
		{"by the peer", func(r *rig, s *tcpstate.Conn, c *net.TCPConn) { r.closes(c, s.TCPConn) }, tcpstate.ClosePeerFIN},
		{"by the peer, then by us", func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			r.closes(c, s.TCPConn)
			r.clk.Settle()
			require.NoError(r, s.CloseWrite())
			tcptest.WaitState(r, s, tcptest.Closed)
		}, tcpstate.ClosePeerFIN},
		{"reset", func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			tcptest.Reset(r, c)
			tcptest.WaitState(r, s, tcptest.Closed)
		}, tcpstate.CloseReset},
		{"reset, and read", func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			tcptest.Reset(r, c)
			tcptest.WaitState(r, s, tcptest.Closed)
			_, err := s.Read(make([]byte, 1))
			require.Error(r, err)
			_, _ = s.Read(make([]byte, 1))
		}, tcpstate.CloseReset},
		{"timeout", func(r *rig, s *tcpstate.Conn, c *net.TCPConn) {
			tcptest.SetTimers(r, s, tcptest.Timers{UserTimeout: 700 * time.Millisecond})
			tcptest.Deafen(r, c)
			_, err := s.Write([]byte("hello?"))
			require.NoError(r, err)
			tcptest.WaitState(r, s, tcptest.Closed)
		}, tcpstate.CloseTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			closed := make(chan tcpstate.ClosedInfo, 1)
			defer r.tr.Observe(&tcpstate.Observer{Closed: func(c tcpstate.ClosedInfo) { closed <- c }})()
			s, c := r.accepted()
			r.say(c, "hello", s)
			tt.end(r, s, c)
			require.NoError(t, s.Close())
			r.clk.Advance(2 * time.Second)
			got := <-closed
			require.Equal(t, tt.want, got.Reason)
			require.Equal(t, "api", got.Name)
			require.GreaterOrEqual(t, got.BytesIn, uint64(5))
			require.Equal(t, s.Watch().ID(), got.ID)
		})
	}
}

func TestReportListsFindingsAndConnectionsByLine(t *testing.T) {
	r := newRig(t)
	for range 3 {
		s, c := r.accepted()
		r.say(c, "hello", s)
		r.closes(c, s.TCPConn)
	}
	for range 2 {
		r.accepted()
	}
	c, s := r.dialed(tcpstate.Expect{Pooled: true})
	r.say(c, "PING", s)
	r.closes(s, c.TCPConn)
	r.clk.Advance(40 * time.Second)
	var b bytes.Buffer
	require.NoError(t, r.tr.Report(&b))
	got := b.String()
	for _, blur := range [][2]string{
		{`127\.0\.0\.1:\d+`, "ADDR"}, {`_test\.go:\d+`, "_test.go:LINE"}, {`(finding) \d+\n`, "$1 N\n"},
		{`(closed|oldest|peer FIN|app read|byte in|byte out|ACK) [0-9.hms]+`, "$1 AGE"},
		{`(\S) {2,}`, "$1  "}, // columns
	} {
		got = regexp.MustCompile(blur[0]).ReplaceAllString(got, blur[1])
	}
	require.Equal(t, `tcpstate WARN  client closed, nobody has noticed  close_wait.not_reading
  listener "api" — the client closed AGE ago, and nobody has read from the connection since.
  3 connections like this from the same line.
    accept  tcpstate-go/tcpstate_test.(*rig).accepted  tcpstate/finding_rig_test.go:LINE
    called by  tcpstate-go/tcpstate_test.TestReportListsFindingsAndConnectionsByLine  tcpstate/snapshot_linux_test.go:LINE
  ages  peer FIN AGE · app read AGE · byte in AGE · ACK AGE
  queues recv 0 · send 0 · EOF not read
  fix  keep a Read outstanding, or end the wait when the peer leaves
  check  ss -tinp src ADDR dst ADDR
  ids  conn 1 ADDR←ADDR · finding N

tcpstate: 6 conns open, 1 finding
      5  accept  tcpstate-go/tcpstate_test.(*rig).accepted  tcpstate/finding_rig_test.go:LINE  "api"  2 ESTABLISHED, 3 CLOSE-WAIT, oldest AGE
      1  dial  tcpstate-go/tcpstate_test.(*rig).dialed  tcpstate/finding_rig_test.go:LINE  "db"  1 CLOSE-WAIT, oldest AGE
`, got)
}

func TestOffForgetsConnectionsAndClearsFindings(t *testing.T) {
	r := newRig(t)
	s, c := r.accepted()
	r.say(c, "hello", s)
	r.closes(c, s.TCPConn)
	r.opens(tcpstate.KindCloseWaitNotReading)
	require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Off = true }))
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings())
	require.Empty(t, slices.Collect(r.tr.Conns()))
	require.Equal(t, "cleared", r.rec.await(t, 2)[1].what)
	_, err := s.Write([]byte("still a connection"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
}
