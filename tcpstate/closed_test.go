package tcpstate_test

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestAClosedConnectionNamesWhatWasFoundOnItAlsoWhatHadCleared(t *testing.T) {
	tr := new(tcpstate.Tracker)
	clk := testclock.Install(tr)
	t.Cleanup(func() { testclock.Remove(tr) })
	closed := make(chan tcpstate.ClosedInfo, 1)
	stop := tr.Observe(&tcpstate.Observer{Closed: func(c tcpstate.ClosedInfo) { closed <- c }})
	t.Cleanup(func() { stop(); _ = tr.Close() })
	leaktest.Check(t, tr, leaktest.IgnoreFindings())

	peer, inner := tcptest.Pair(t)
	conn := tr.Track(inner, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
	require.NoError(t, peer.CloseWrite())
	tcptest.WaitState(t, conn, tcptest.CloseWait)
	clk.Advance(40 * time.Second)
	requireKinds(t, tr, tcpstate.KindCloseWaitNeverRead)
	line := tr.Findings()[0].Sites[0].Frames[0]
	_, err := conn.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	clk.Advance(15 * time.Second) // progress: it clears
	requireKinds(t, tr)
	require.NoError(t, conn.Close())
	clk.Advance(2 * time.Second)
	c := <-closed
	require.Equal(t, []tcpstate.Kind{tcpstate.KindCloseWaitNeverRead}, c.Findings)
	require.NotNil(t, c.Frame)
	require.Equal(t, line, *c.Frame)

	_, fine := tcptest.Pair(t)
	require.NoError(t, tr.Track(fine, tcpstate.Origin{}).Close())
	clk.Advance(2 * time.Second)
	require.Nil(t, (<-closed).Frame, "nothing was found on it")
}

func requireKinds(t *testing.T, tr *tcpstate.Tracker, want ...tcpstate.Kind) {
	t.Helper()
	var got []tcpstate.Kind
	for _, f := range tr.Findings() {
		got = append(got, f.Kind)
	}
	require.ElementsMatch(t, want, got)
}
