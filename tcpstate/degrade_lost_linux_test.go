package tcpstate_test

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

var errTaken = errors.New("taken away")

// robbed is a rig without what seam takes away.
func robbed(t *testing.T, seam tcpstate.Seam) *rig {
	r := newRig(t)
	tcpstate.SetSeam(r.tr, seam)
	t.Cleanup(func() { require.Zero(t, r.tr.Stats().Panics) })
	return r
}

// unharmed asks for what needs nothing but the socket: bytes both ways, and the
// peer's close.
func (r *rig) unharmed() {
	r.Helper()
	before := len(r.tr.Findings())
	c, peer := r.accepted()
	r.say(peer, "hello", c)
	r.say(c, "hello", peer)
	r.closes(peer, c.TCPConn)
	r.clk.Advance(45 * time.Second)
	require.Len(r, r.tr.Findings(), before+1)
	require.NoError(r, c.Close())
	r.clk.Advance(2 * time.Second)
	require.Len(r, r.tr.Findings(), before)
}

func TestWithoutAnyWatchTheSweepNoticesPeerCloses(t *testing.T) {
	r := robbed(t, tcpstate.Seam{MaxWatches: func() (int, error) { return 0, nil }})
	r.unharmed()
	c, _ := r.accepted()
	defer c.Close()
	r.clk.Advance(15 * time.Second)
	require.Zero(t, r.tr.Stats().Watched)
	missing := lost(r.tr)
	require.Len(t, missing, 1)
	require.Contains(t, missing["epoll"], tcpstate.KindCloseWaitNotReading)
}

// Without traces the socket still tells of a dial that gets no answer.
func TestWithoutTracesDialsAreWatchedByTheirSockets(t *testing.T) {
	r := robbed(t, tcpstate.Seam{NoTrace: errTaken})
	require.Equal(t, map[string][]tcpstate.Kind{
		"httptrace": {tcpstate.KindDialDNSSlow, tcpstate.KindDialFallbackStarved},
	}, lost(r.tr))
	r.unharmed()
	cancel, wait := r.dialing(&dialer.Dialer{Tracker: r.tr, NetDialer: plain()}, tcptest.DeadListener(t))
	r.resent(2)
	r.clk.Advance(4 * time.Second)
	r.one(tcpstate.KindDialNoAnswer)
	cancel()
	require.Error(t, wait())
}

// Without Control hooks names are still seen.
func TestWithoutHooksNamesAreWatchedByTheTrace(t *testing.T) {
	r := robbed(t, tcpstate.Seam{NoHooks: errTaken})
	require.Equal(t, map[string][]tcpstate.Kind{
		"dial watch": {tcpstate.KindDialNoAnswer, tcpstate.KindDialTupleStuck},
	}, lost(r.tr))
	r.unharmed()

	ln := tcptest.Listen(t)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	ns := newNameserver(t, "127.0.0.1")
	ns.hold()
	d := r.named(ns)
	done := make(chan error, 1)
	go func() {
		c, err := d.DialContext(t.Context(), "tcp", "db.test.:"+port)
		if err == nil {
			err = c.Close()
		}
		done <- err
	}()
	tcptest.WaitUntil(t, "the question", func() bool { return ns.waiting() == 2 })
	r.clk.Advance(3 * time.Second)
	r.one(tcpstate.KindDialDNSSlow)
	ns.release()
	require.NoError(t, <-done)
}

// Without /proc closed sockets are looked up one by one.
func TestWithoutProc(t *testing.T) {
	r := robbed(t, tcpstate.Seam{NoProc: errTaken})
	ln := tcptest.Listen(t)
	l := r.tr.AddListener(ln, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
	t.Cleanup(func() { l.Remove(0) })
	r.unharmed()

	c, peer := r.dialed(tcpstate.Expect{})
	tcptest.Deafen(t, peer)
	_, err := c.Write([]byte("lost"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	r.clk.Advance(2 * time.Second)
	require.Equal(t, 1, r.tr.Stats().Closing)

	require.Equal(t, map[string][]tcpstate.Kind{
		"max_user_watches": nil,
		"sockstat":         {tcpstate.KindClosingFINUnacked, tcpstate.KindClosingDataUndelivered},
		"ports":            {tcpstate.KindDialPorts},
		"open_files":       {tcpstate.KindFDsPressure},
		"syn_recv":         {tcpstate.KindListenerSYNRecv},
	}, lost(r.tr))
}

// Multipath TCP does not tell its timers: they are not judged. A plain
// connection with the same settings is.
func TestTimersThatCannotBeReadAreNotJudged(t *testing.T) {
	for name, mptcp := range map[string]bool{"plain": false, "Multipath TCP": true} {
		t.Run(name, func(t *testing.T) {
			r := robbed(t, tcpstate.Seam{Info: func(fd uintptr, b []byte) (int, error) {
				n, err := tcpinfo.Get(fd, b)
				binary.NativeEndian.PutUint32(b[52:], 3600_000) // tcpi_last_data_recv: an hour
				return n, err
			}})
			inner, peer := tcptest.Pair(t, tcptest.MPTCP(mptcp))
			if on, _ := inner.MultipathTCP(); on != mptcp {
				t.Skip("no MPTCP here")
			}
			c := r.tr.Track(inner, tcpstate.Origin{Name: "db", Target: "db:5432", Expect: tcpstate.Expect{Ignore: []tcpstate.Kind{"idle"}}})
			require.NoError(t, c.SetKeepAlive(false))
			r.say(c, "hello", peer)
			r.say(peer, "hello", c)
			r.clk.Advance(30 * time.Second)
			if mptcp {
				r.silent()
			} else {
				r.one(tcpstate.KindKeepaliveOff)
			}
			r.say(c, "hello", peer)
			r.say(peer, "hello", c)
			require.NoError(t, c.Close())
		})
	}
}
