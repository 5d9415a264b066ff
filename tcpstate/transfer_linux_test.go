package tcpstate_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// live is a tracker with short thresholds and the machine's time: what the
// kernel measures cannot be moved by hand.
type live struct {
	*testing.T
	tr  *tcpstate.Tracker
	rec *recorder
}

const grace = 300 * time.Millisecond

func newLive(t *testing.T, change ...func(*tcpstate.Config)) *live {
	t.Parallel()
	l := &live{T: t, rec: new(recorder)}
	l.tr = &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler), Config: tcpstate.Config{
		SweepInterval: 100 * time.Millisecond,
		Thresholds: tcpstate.Thresholds{
			CloseWait: grace, DeadSocket: grace, Unresponsive: grace, NotReading: grace, Accepted: grace,
			HalfOpen: grace, UnusedDial: grace, Handshake: grace, Idle: -1,
		},
	}}
	for _, c := range change {
		c(&l.tr.Config)
	}
	t.Cleanup(func() { l.tr.Close() })
	leaktest.Check(t, l.tr, leaktest.IgnoreFindings()) // tests look at them
	t.Cleanup(l.tr.Observe(l.rec.observer()))
	return l
}

// dialed returns a tracked client connection over which something was said.
func (l *live) dialed(x tcpstate.Expect, opts ...tcptest.Option) (client *tcpstate.Conn, server *net.TCPConn) {
	l.Helper()
	c, server := tcptest.Pair(l.T, opts...)
	client = l.tr.Track(c, tcpstate.Origin{Name: "db", Target: "db:5432", Expect: x})
	exchange(l.T, client, server)
	return client, server
}

func exchange(t *testing.T, client, server net.Conn) {
	t.Helper()
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		_, err := way[0].Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(way[1], make([]byte, 5))
		require.NoError(t, err)
	}
}

// finds waits for the one finding there is.
func (l *live) finds(kind tcpstate.Kind) tcpstate.Finding {
	l.Helper()
	var f tcpstate.Finding
	tcptest.WaitUntil(l, string(kind), func() bool {
		for _, f = range l.tr.Findings() {
			require.Equal(l, kind, f.Kind, "%s", f.String())
			return true
		}
		return false
	})
	return f
}

// clears waits until there is no finding.
func (l *live) clears() {
	l.Helper()
	tcptest.WaitUntil(l, "the end of the finding", func() bool { return len(l.tr.Findings()) == 0 })
}

// staysSilent looks on for several times the threshold.
func (l *live) staysSilent(d time.Duration) {
	l.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, f := range l.tr.Findings() {
			l.Fatalf("reported: %s", f.String())
		}
	}
	require.Empty(l, l.rec.all())
}

func TestAPeerThatIsGoneWhileWeSend(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{})
	sibling, other := l.dialed(tcpstate.Expect{})
	heal := tcptest.Deafen(t, server)
	_, err := client.Write(make([]byte, 1432))
	require.NoError(t, err)
	var f tcpstate.Finding
	tcptest.WaitUntil(t, "the verdict", func() bool {
		exchange(t, sibling, other)
		for _, f = range l.tr.Findings() {
			return true
		}
		return false
	})
	require.Equal(t, tcpstate.KindPeerUnresponsive, f.Kind, "%s", f.String())
	require.Empty(t, f.Cause, "%s", f.String())
	require.Equal(t, 1432, f.Evidence.SendQueue)
	require.GreaterOrEqual(t, f.Evidence.Timeouts, uint8(3))
	require.Contains(t, f.String(), "1 of 1 other connections to the same target are fine")
	require.WithinDuration(t, time.Now().Add(924*time.Second), f.Evidence.GivesUpAt, 10*time.Second)
	heal()
	_, err = io.ReadFull(server, make([]byte, 1432))
	require.NoError(t, err)
	l.clears()
}

func TestAShortOutageIsNotReported(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{})
	heal := tcptest.Deafen(t, server)
	_, err := client.Write(make([]byte, 1432))
	require.NoError(t, err)
	tcptest.WaitUntil(t, "a retransmission", func() bool {
		i, err := tcpstate.ReadInfo(client)
		require.NoError(t, err)
		return i.Retransmits > 0
	})
	heal()
	l.staysSilent(4 * grace)
}

func TestAnIdlePeerThatIsGone(t *testing.T) {
	l := newLive(t)
	tcpstate.SetSeam(l.tr, tcpstate.Seam{Far: true})
	client, server := l.dialed(tcpstate.Expect{})
	healthy, _ := l.dialed(tcpstate.Expect{})
	for _, c := range []*tcpstate.Conn{client, healthy} {
		tcptest.SetTimers(t, c, tcptest.Timers{Idle: time.Second, Interval: time.Second, Count: 9})
	}
	heal := tcptest.Deafen(t, server)
	f := l.finds(tcpstate.KindPeerDeadProbes)
	require.GreaterOrEqual(t, f.Evidence.Probes, uint8(2))
	require.Equal(t, client.LocalAddr().String(), f.Subject.Local)
	heal()
	l.clears()
}

func TestAPeerThatDoesNotRead(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{}, tcptest.SmallBuffers())
	tcptest.FillWindow(t, client.NetConn().(*net.TCPConn))
	f := l.finds(tcpstate.KindPeerNotReading)
	require.True(t, f.Evidence.NoWindow)
	require.Positive(t, f.Evidence.NotSent)
	go func() { _, _ = io.Copy(io.Discard, server) }()
	l.clears()
}

func TestAPeerBehindAClosedWindowThatIsGone(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{}, tcptest.SmallBuffers())
	tcptest.FillWindow(t, client.NetConn().(*net.TCPConn))
	l.finds(tcpstate.KindPeerNotReading)
	tcptest.Deafen(t, server)
	tcptest.WaitUntil(t, "the sharper verdict", func() bool {
		fs := l.tr.Findings()
		return len(fs) == 1 && fs[0].Kind == tcpstate.KindPeerUnresponsive && fs[0].Cause == "window_closed"
	})
}

func TestAPeerThatReadsSlowlyIsNotReported(t *testing.T) {
	l := newLive(t, func(c *tcpstate.Config) { c.Thresholds.NotReading = 2 * time.Second })
	client, server := l.dialed(tcpstate.Expect{}, tcptest.SmallBuffers())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = client.Write(make([]byte, 1<<20))
	}()
	end := time.Now().Add(6 * time.Second)
	for buf := make([]byte, 1024); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		_, err := server.Read(buf)
		require.NoError(t, err)
		require.Empty(t, l.tr.Findings())
	}
	client.Close()
	<-done
}

func TestWeDoNotRead(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{})
	go func() {
		for range 50 {
			if _, err := server.Write(make([]byte, 1000)); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond) // beyond what a handshake leaves
		}
	}()
	f := l.finds(tcpstate.KindLocalNotReading)
	require.Positive(t, f.Evidence.RecvQueue)
	go func() { _, _ = io.Copy(io.Discard, client) }()
	l.clears()
}

func TestAReaderThatIsSlowIsNotReported(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{})
	_, err := server.Write(make([]byte, 64<<10))
	require.NoError(t, err)
	end := time.Now().Add(2 * time.Second)
	for buf := make([]byte, 100); time.Now().Before(end); time.Sleep(grace / 3) {
		_, err := client.Read(buf)
		require.NoError(t, err)
		require.Empty(t, l.tr.Findings())
	}
	client.Close()
}

func TestAServerThatDoesNotAnswer(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	done := client.Watch().Use(ctx, tcpstate.Use{Name: "SELECT"})
	_, err := client.Write([]byte("query"))
	require.NoError(t, err)
	begun := time.Now()
	f := l.finds(tcpstate.KindPeerNoResponse)
	require.Equal(t, "headers", f.Cause)
	require.WithinDuration(t, begun.Add(1600*time.Millisecond), f.DetectedAt, 1300*time.Millisecond)
	require.False(t, f.DetectedAt.Before(begun.Add(1500*time.Millisecond)))
	_, err = server.Write([]byte("rows"))
	require.NoError(t, err)
	_, err = client.Read(make([]byte, 10))
	require.NoError(t, err)
	done()
	l.clears()
}

func TestSilenceIsNotJudgedWithoutADeclaration(t *testing.T) {
	l := newLive(t)
	client, _ := l.dialed(tcpstate.Expect{})
	defer client.Watch().Use(t.Context(), tcpstate.Use{Name: "watch"})()
	_, err := client.Write([]byte("subscribe"))
	require.NoError(t, err)
	l.staysSilent(5 * grace)
}

// An answer that comes within a tick of the kernel's clock has the same age as
// its request.
func TestADeclaredSilenceEndsWithTheAnswer(t *testing.T) {
	l := newLive(t)
	var client *tcpstate.Conn
	for range 10 {
		client, _ = l.dialed(tcpstate.Expect{Silence: grace})
	}
	l.staysSilent(5 * grace)
	_, err := client.Write([]byte("request"))
	require.NoError(t, err)
	require.Equal(t, client.LocalAddr().String(), l.finds(tcpstate.KindPeerNoResponse).Subject.Local)
}

func TestAHeartbeatThatIsMissing(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{Heartbeat: 400 * time.Millisecond})
	go func() { _, _ = io.Copy(io.Discard, client) }()
	for range 5 {
		_, err := server.Write([]byte("pong"))
		require.NoError(t, err)
		l.staysSilent(300 * time.Millisecond)
	}
	f := l.finds(tcpstate.KindPeerSilent)
	require.GreaterOrEqual(t, f.Age(), 600*time.Millisecond)
	client.Watch().Alive()
	l.clears()
}

func TestIdleForLongIsInventory(t *testing.T) {
	l := newLive(t, func(c *tcpstate.Config) { c.Thresholds.Idle = 100 * time.Millisecond })
	client, _ := l.dialed(tcpstate.Expect{})
	l.staysSilent(500 * time.Millisecond) // both ends are on this host
	client.Close()
}
