package tcpstate

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
)

func TestFewHandshakesFromEverywhereAreNoise(t *testing.T) {
	from := func(addrs ...string) (n synCount) {
		nets := make(map[netip.Prefix]int)
		for _, a := range addrs {
			n.add(&sockdiag.Socket{Remote: netip.AddrPortFrom(netip.MustParseAddr(a), 1), Retrans: 2}, nets)
		}
		return n
	}
	scan := []string{"192.0.2.1", "192.0.3.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "2001:db8:1::1", "10.0.0.1", "10.0.1.1", "10.0.2.1"}
	n := from(scan...)
	require.False(t, n.stalled())
	n = from(append(scan, "10.0.3.1")...)
	require.True(t, n.stalled())
	n = from("192.0.2.1", "192.0.2.2")
	require.False(t, n.stalled())
	n = from("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1")
	require.True(t, n.stalled())
	require.Equal(t, netip.MustParsePrefix("192.0.2.0/24"), n.network)
}

func TestAListenerGetsTheConnectionsToItsAddress(t *testing.T) {
	for _, tt := range []struct {
		at, local string
		want      bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1:81", false},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"0.0.0.0:80", "127.0.0.1:80", true},
		{"0.0.0.0:80", "[::1]:80", false},
		{"[::]:80", "127.0.0.1:80", true},
		{"[::]:80", "[::1]:80", true},
		{"[::1]:80", "127.0.0.1:80", false},
	} {
		require.Equal(t, tt.want, listensOn(netip.MustParseAddrPort(tt.at), netip.MustParseAddrPort(tt.local)), "%v", tt)
	}
}

// synSeam is a machine on which handshakes stall as told.
type synSeam struct {
	retrans uint64
	err     error
	count   synCount
	cost    time.Duration
	dumps   int
}

func (s *synSeam) tracker(t *testing.T) (*Tracker, *testclock.Clock, *Listening) {
	tr := &Tracker{Logger: slog.New(slog.DiscardHandler)}
	clk := testclock.Install(tr)
	t.Cleanup(func() { tr.Close(); testclock.Remove(tr) })
	tr.init()
	tr.seam.synRetransmits = func() (uint64, error) { return s.retrans, s.err }
	tr.seam.countSYNs = func(of []*Listening) (map[*Listening]synCount, time.Duration, error) {
		s.dumps++
		counts := make(map[*Listening]synCount)
		for _, l := range of {
			counts[l] = s.count
		}
		return counts, s.cost, nil
	}
	l := tr.AddListener(tcptest.Listen(t), Origin{Role: Server, Name: "api"})
	t.Cleanup(func() { l.Remove(0) })
	clk.Settle()
	return tr, clk, l
}

// pass lets ten seconds pass, and what goes on beside the loop come to its end.
func pass(tr *Tracker, clk *testclock.Clock) {
	clk.Advance(10 * time.Second)
	tr.judge.listening.syn.counting.Wait()
	clk.Advance(time.Second)
}

func TestTheTableIsDumpedOnlyWithReason(t *testing.T) {
	s := &synSeam{retrans: 5, count: synCount{entries: 9, most: 9, retries: 3}}
	tr, clk, _ := s.tracker(t)
	for range 5 {
		pass(tr, clk)
	}
	require.Zero(t, s.dumps, "nothing was sent again")
	s.retrans++
	pass(tr, clk)
	require.Equal(t, 1, s.dumps)
	require.Empty(t, tr.Findings(), "once may be bad luck")
	pass(tr, clk)
	require.Equal(t, 2, s.dumps, "to make sure")
	require.Equal(t, KindListenerSYNRecv, tr.Findings()[0].Kind)
	s.count = synCount{}
	pass(tr, clk)
	require.Empty(t, tr.Findings())
	pass(tr, clk)
	require.Equal(t, 3, s.dumps)
}

func TestADumpThatIsExpensiveIsMadeSeldom(t *testing.T) {
	s := &synSeam{cost: time.Second}
	tr, clk, _ := s.tracker(t)
	for range 30 {
		s.retrans++
		pass(tr, clk)
	}
	require.InDelta(t, 4, s.dumps, 1, "one in a hundred seconds")
}

func TestAMachineThatDoesNotTellOfHandshakes(t *testing.T) {
	facility := func(tr *Tracker) Facility {
		all := tr.Facilities()
		for _, f := range all {
			if f.Name == "syn_recv" {
				return f
			}
		}
		return Facility{}
	}
	s := new(synSeam)
	tr, clk, _ := s.tracker(t)
	require.True(t, facility(tr).OK)
	s.err = errors.New("no /proc here")
	pass(tr, clk)
	f := facility(tr)
	require.False(t, f.OK)
	require.Contains(t, f.Detail, "no /proc here")
	require.Equal(t, []Kind{KindListenerSYNRecv}, f.Kinds)
}
