package leaktest_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

//go:noinline
func drop(d dialer.Dialer, address string) (line int, err error) {
	_, err = d.DialContext(context.Background(), "tcp", address)
	return here() - 1, err
}

func TestADroppedConnIsFoundByACollection(t *testing.T) { // not by that of another test
	address := sink(t)
	tidy(t)
	var line int
	out := run(func(ft *fakeT) {
		var err error
		line, err = drop(dialer.Dialer{Tracker: leaktest.Tracker(ft), Name: "cache"}, address)
		require.NoError(t, err)
	})
	require.Contains(t, out, "leaktest: 1 finding\n")
	require.Contains(t, out, "connection dropped without Close")
	require.Contains(t, out, "leak.collected\n")
	require.Contains(t, out, place("findings_test.go", line))
}

func TestAConnCollectedDuringTheTestIsReported(t *testing.T) {
	t.Parallel()
	address := sink(t)
	tidy(t)
	out := run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		_, err := drop(dialer.Dialer{Tracker: tr}, address)
		require.NoError(t, err)
		tcptest.WaitUntil(t, "the collection", func() bool { runtime.GC(); return tr.Stats().Open == 0 })
	})
	require.Contains(t, out, "leak.collected\n")
}

// rig is a tracker with a clock, watched by ft.
type rig struct {
	*testing.T
	tr    *tcpstate.Tracker
	clock *testclock.Clock
}

func newRig(t *testing.T, ft *fakeT) *rig {
	r := &rig{T: t, tr: &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}}
	r.clock = testclock.Install(r.tr)
	ft.Cleanup(func() {
		r.tr.Close()
		testclock.Remove(r.tr)
	})
	return r
}

// halfClosed returns a connection whose server has closed, which the client has
// read.
func (r *rig) halfClosed(o tcpstate.Origin) net.Conn {
	client, server := tcptest.Pair(r)
	c := r.tr.Track(client, o)
	require.NoError(r, server.CloseWrite())
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(r, err, io.EOF)
	return c
}

// faulty makes a finding.
func faulty(t *testing.T, ft *fakeT, opts ...leaktest.Option) (r *rig, c net.Conn) {
	r = newRig(t, ft)
	leaktest.Check(ft, r.tr, opts...)
	c = r.halfClosed(tcpstate.Origin{Name: "cache", Target: "cache:6379"})
	r.clock.Advance(40 * time.Second)
	found := r.tr.Findings()
	require.Len(t, found, 1)
	require.Equal(t, tcpstate.KindCloseWaitEOFSeen, found[0].Kind)
	return r, c
}

func TestFindingsAreReportedInPlaceOfTheirConns(t *testing.T) {
	t.Parallel()
	out := run(func(ft *fakeT) { faulty(t, ft) })
	require.Contains(t, out, "leaktest: 1 finding\n")
	require.Contains(t, out, "close_wait.eof_seen\n")
	require.NotContains(t, out, "left_open")
}

func TestAFindingThatHasEndedIsReported(t *testing.T) {
	t.Parallel()
	out := run(func(ft *fakeT) {
		r, c := faulty(t, ft)
		require.NoError(t, c.Close())
		r.clock.Advance(5 * time.Second)
	})
	require.Contains(t, out, "leaktest: 1 finding\n")
	require.Regexp(t, `(?s)WARN .*close_wait\.eof_seen\n.*INFO  cleared after \d+s: close_wait\.eof_seen`, out)
}

func TestFindingsMayBeExcusedButNotTheirConns(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]leaktest.Option{
		"all":    leaktest.IgnoreFindings(),
		"kind":   leaktest.IgnoreKind(tcpstate.KindCloseWaitEOFSeen),
		"family": leaktest.IgnoreKind("close_wait"),
	} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, run(func(ft *fakeT) {
				_, c := faulty(t, ft, opt)
				require.NoError(t, c.Close())
			}))
			out := run(func(ft *fakeT) { faulty(t, ft, opt) })
			require.Contains(t, out, "leaktest: 1 connection left open\n")
			require.Contains(t, out, "CLOSE-WAIT, the peer has closed")
			require.NotContains(t, out, "close_wait.")
		})
	}
	out := run(func(ft *fakeT) { faulty(t, ft, leaktest.IgnoreKind("close", "leak")) })
	require.Contains(t, out, "close_wait.eof_seen\n", "a family is a whole word")
}

func TestFindingsThatAreNotTheTestsAreNotReported(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} { // found before, or of a connection of before
		out := run(func(ft *fakeT) {
			r := newRig(t, ft)
			c := r.halfClosed(tcpstate.Origin{Name: "cache"})
			if !late {
				r.clock.Advance(40 * time.Second)
			}
			leaktest.Check(ft, r.tr)
			r.clock.Advance(time.Hour)
			require.Len(t, r.tr.Findings(), 1)
			closes(t, c)
		})
		require.Empty(t, out)
	}
}

func TestInventoryIsNotReported(t *testing.T) {
	t.Parallel()
	require.Empty(t, run(func(ft *fakeT) {
		r := newRig(t, ft)
		leaktest.Check(ft, r.tr)
		c := r.halfClosed(tcpstate.Origin{Name: "pool", Expect: tcpstate.Expect{Pooled: true}})
		r.clock.Advance(40 * time.Second)
		found := r.tr.Findings()
		require.Len(t, found, 1)
		require.Equal(t, tcpstate.Inventory, found[0].Severity)
		require.NoError(t, c.Close())
	}))
}

// Observers are told of the first finding of a group, which may not be the
// test's.
func TestAGroupIsReportedAsItIsAtTheEnd(t *testing.T) {
	t.Parallel()
	for _, before := range []int{0, 1} {
		out := run(func(ft *fakeT) {
			r := newRig(t, ft)
			for i := range 3 {
				if i == before {
					leaktest.Check(ft, r.tr)
				}
				closes(t, r.halfClosed(tcpstate.Origin{Name: "cache"}))
				r.clock.Advance(35 * time.Second)
			}
		})
		require.Contains(t, out, "leaktest: 1 finding\n")
		require.Contains(t, out, "3 connections like this from the same line")
	}
}
