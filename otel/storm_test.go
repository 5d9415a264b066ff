package tcpotel_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Real connections from one line, all left by their clients.
func TestFiveThousandLeaksFromOneLineAreOneSpanAndOneRecordAndTenExamples(t *testing.T) {
	leaks := 5000
	if testing.Short() {
		leaks = 500
	}
	const finding = "tcpstate finding close_wait.never_read"
	r := newRig(t).start()
	ln := tcptest.Listen(t)
	conns := make([]*tcpstate.Conn, 0, leaks)
	for range leaks {
		client, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		server, err := ln.AcceptTCP()
		require.NoError(t, err)
		conns = append(conns, r.tracker.Track(server, tcpstate.Origin{Role: tcpstate.Server, Name: "api"}))
		require.NoError(t, client.Close())
	}
	// A tick works for two milliseconds of real time; all have their turn.
	for range 600 {
		if r.tracker.Stats().Warnings == leaks {
			break
		}
		r.clock.Advance(time.Second)
	}
	tcptest.WaitUntil(t, "the report", func() bool { return len(r.named(finding)) > 0 })
	require.Equal(t, leaks, r.tracker.Stats().Warnings)
	require.Len(t, r.named(finding), 1, "spans")
	count := r.points("tcpstate.finding.count")
	require.Len(t, count, 1)
	for k, n := range count {
		require.Equal(t, float64(leaks), n, k)
	}

	for _, c := range conns {
		require.NoError(t, c.SetLinger(0)) // thousands of sockets would outlive the test
		require.NoError(t, c.Close())
	}
	r.clock.Advance(15 * time.Second)
	tcptest.WaitUntil(t, "the count of those without a span", func() bool {
		return r.points("tcpstate.report.suppressed")[spanLimit] >= float64(leaks-10)
	})
	require.Equal(t, float64(leaks-10), r.points("tcpstate.report.suppressed")[spanLimit])
	r.finish()
	require.Len(t, r.named(finding), 1, "spans")
	events := r.events()
	require.Equal(t, "tcpstate.finding.opened", events[0])
	require.Equal(t, "tcpstate.finding.cleared", events[len(events)-1])
	require.LessOrEqual(t, len(events), 6, "in ten minutes there is room for three reminders: %v", events)
	t.Logf("%d leaks: 1 span, records %v", leaks, events)
	sum := func(name string) (n float64) {
		for _, v := range r.points(name) {
			n += v
		}
		return n
	}
	require.Equal(t, float64(leaks), sum("tcpstate.finding.opened"))
	require.Equal(t, float64(leaks), sum("tcpstate.finding.cleared"))

	// They were all closed within a minute, and leaked at one line.
	require.Len(t, r.named("tcpstate connection"), 10)
	require.Len(t, r.spans.GetSpans(), 1+3*10)
}
