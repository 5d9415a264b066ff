package tcpstate_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// lacking returns a tracker without what seam takes away, and its clock.
func lacking(t *testing.T, seam tcpstate.Seam) (*tcpstate.Tracker, *testclock.Clock) {
	t.Helper()
	tr := new(tcpstate.Tracker)
	clk := testclock.Install(tr)
	tcpstate.SetSeam(tr, seam)
	stop := tr.Observe(new(tcpstate.Observer)) // nobody logs
	t.Cleanup(func() {
		stop()
		require.NoError(t, tr.Close())
		testclock.Remove(tr)
	})
	leaktest.Check(t, tr, leaktest.IgnoreFindings())
	return tr, clk
}

func facility(t *testing.T, tr *tcpstate.Tracker, name string) tcpstate.Facility {
	t.Helper()
	for _, f := range tr.Facilities() {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no facility %q", name)
	return tcpstate.Facility{}
}

// abandoned tracks n accepted connections whose peers have closed.
func abandoned(t *testing.T, tr *tcpstate.Tracker, n int) (conns []*tcpstate.Conn) {
	t.Helper()
	for range n {
		peer, inner := tcptest.Pair(t)
		conn := tr.Track(inner, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
		require.NoError(t, peer.CloseWrite())
		tcptest.WaitState(t, conn, tcptest.CloseWait)
		conns = append(conns, conn)
	}
	return conns
}

func TestAtMostAQuarterOfTheEpollWatchesIsTaken(t *testing.T) {
	before := tcpstate.ArmedEverywhere()
	limit := int(before+10) * 4
	tr, clk := lacking(t, tcpstate.Seam{MaxWatches: func() (int, error) { return limit, nil }})
	conns := abandoned(t, tr, 40)
	clk.Advance(2 * time.Second)
	require.Equal(t, 10, tr.Stats().Watched)
	f := facility(t, tr, "epoll")
	require.False(t, f.OK)
	require.Contains(t, f.Detail, "max_user_watches")
	require.NotEmpty(t, f.Kinds)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err, "the application's own Listen works")
	require.NoError(t, ln.Close())

	clk.Advance(45 * time.Second)
	require.Len(t, tr.Findings(), 40, "the sweep finds what no event tells")

	for _, c := range conns[:20] {
		require.NoError(t, c.Close())
	}
	clk.Advance(12 * time.Second)
	require.LessOrEqual(t, tr.Stats().Watched, 10)
	require.Len(t, tr.Findings(), 20)
}

func TestALimitThatCannotBeReadIsSaid(t *testing.T) {
	tr, clk := lacking(t, tcpstate.Seam{MaxWatches: func() (int, error) { return 0, errors.New("no such sysctl") }})
	abandoned(t, tr, 1)
	clk.Advance(2 * time.Second)
	require.Equal(t, 1, tr.Stats().Watched)
	require.Contains(t, facility(t, tr, "max_user_watches").Detail, "no such sysctl")
}

func TestWithoutEpollTheSweepNoticesPeerCloses(t *testing.T) {
	tr, clk := lacking(t, tcpstate.Seam{NewPoller: func() (tcpstate.Poller, error) { return nil, errors.New("too many open files") }})
	conns := abandoned(t, tr, 3)
	clk.Advance(45 * time.Second)
	require.Len(t, tr.Findings(), 3)
	f := facility(t, tr, "epoll")
	require.False(t, f.OK)
	require.Contains(t, f.Detail, "too many open files")
	_, err := conns[0].Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "the application reads as always")
}

func TestWithoutTCPInfoConnsWorkAndLeaksByEOFAreFound(t *testing.T) {
	for name, info := range map[string]func(uintptr, []byte) (int, error){
		"refused": func(uintptr, []byte) (int, error) { return 0, errors.New("blocked by seccomp") },
		"empty":   func(uintptr, []byte) (int, error) { return 0, nil },
		"short":   func(_ uintptr, b []byte) (int, error) { clear(b[:4]); return 4, nil },
	} {
		t.Run(name, func(t *testing.T) {
			tr, clk := lacking(t, tcpstate.Seam{Info: info})
			peer, inner := tcptest.Pair(t)
			conn := tr.Track(inner, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
			_, err := peer.Write([]byte("hello"))
			require.NoError(t, err)
			require.NoError(t, peer.CloseWrite())
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Equal(t, "hello", string(got))
			clk.Advance(45 * time.Second)
			f := facility(t, tr, "tcp_info")
			require.False(t, f.OK)
			require.NotEmpty(t, f.Kinds)
			requireKinds(t, tr, tcpstate.KindCloseWaitEOFSeen)
			require.NoError(t, conn.Close())
			clk.Advance(2 * time.Second)
			requireKinds(t, tr)
		})
	}
}

func TestABrokenEventSourceIsReplaced(t *testing.T) {
	tr, clk := lacking(t, tcpstate.Seam{NewPoller: func() (tcpstate.Poller, error) {
		p, err := tcpstate.NewPoller()
		if err != nil {
			return nil, err
		}
		return p, p.Close() // as if somebody closed our descriptor
	}})
	abandoned(t, tr, 2)
	clk.Advance(45 * time.Second)
	require.Len(t, tr.Findings(), 2)
	require.False(t, facility(t, tr, "epoll").OK)
}
