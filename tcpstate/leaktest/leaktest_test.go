package leaktest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestATestThatClosesWhatItOpensPasses(t *testing.T) {
	t.Parallel()
	address := sink(t)
	require.Empty(t, run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		c, _ := dial(t, dialer.Dialer{Tracker: tr}, address)
		require.NoError(t, c.Close())
		c, _ = dial(t, dialer.Dialer{Tracker: tr, NoWrap: true}, address)
		require.NoError(t, c.Close())
	}))
	var tr *tcpstate.Tracker
	require.Empty(t, run(func(ft *fakeT) { tr = leaktest.Tracker(ft) }))
	require.ErrorIs(t, tr.Close(), tcpstate.ErrClosed)
}

func TestAConnLeftOpenIsReportedWithTheLineThatDialed(t *testing.T) {
	t.Parallel()
	var line int
	out := run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		_, line = dial(t, dialer.Dialer{Tracker: tr, Name: "cache"}, sink(t))
	})
	require.Contains(t, out, place("main_test.go", line))
	require.Equal(t, leftOpen, same(out))
}

func TestAnAcceptedConnIsReportedWithTheLineThatAccepted(t *testing.T) {
	t.Parallel()
	var line int
	out := run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		cfg := listener.Config{Tracker: tr, Name: "api"}
		ln, err := cfg.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		client, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		closes(t, client)
		c, err := ln.Accept()
		line = here() - 1
		require.NoError(t, err)
		closes(t, c)
	})
	require.Contains(t, out, "1 connection left open\n")
	require.Contains(t, out, `listener "api" — opened`)
	require.Regexp(t, `accept +\S+ +`+place("leaktest_test.go", line), out)
	require.Contains(t, out, "wait for that before the test ends; closing\n         the listener does not")
}

func TestAnAttachedConnIsReported(t *testing.T) {
	t.Parallel()
	out := run(func(ft *fakeT) {
		dial(t, dialer.Dialer{Tracker: leaktest.Tracker(ft), Name: "db", NoWrap: true}, sink(t))
	})
	require.Contains(t, out, "1 connection left open\n")
	require.Contains(t, out, "db (127.0.0.1:")
}

func TestABorrowedConnIsReportedWithTheLineThatBorrowed(t *testing.T) {
	t.Parallel()
	var dialed, borrowed int
	out := run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		c, line := dial(t, dialer.Dialer{Tracker: tr, Name: "db"}, sink(t))
		dialed = line
		tr.Of(c).Borrow(t.Context(), nil, tcpstate.Use{Name: "orders"})
		borrowed = here() - 1
	})
	require.Contains(t, out, "orders, db (127.0.0.1:")
	require.Regexp(t, `use +\S+ +`+place("leaktest_test.go", borrowed)+`(.*\n)*? +dial +\S+ +`+place("main_test.go", dialed), out)
	require.Contains(t, out, "end the use")
}

func TestADialInProgressIsReported(t *testing.T) {
	t.Parallel()
	address := tcptest.DeadListener(t)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); <-done })
	out := run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		d := dialer.Dialer{Tracker: tr, Name: "cache"}
		go func() {
			defer close(done)
			_, _ = d.DialContext(ctx, "tcp", address)
		}()
		tcptest.WaitUntil(t, "the SYN", func() bool {
			all := slices.Collect(tr.Dials())
			return len(all) == 1 && len(all[0].Attempts) == 1 && all[0].Attempts[0].State == tcpstate.SynSent
		})
	})
	require.Contains(t, out, "leaktest: 1 dial in progress\n")
	require.Equal(t, dialing, same(out))
}

func TestAReportIsBounded(t *testing.T) {
	t.Parallel()
	address := sink(t)
	out := run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		for i := range 30 {
			dial(t, dialer.Dialer{Tracker: tr, Name: fmt.Sprint("cache-", i)}, address)
		}
	})
	require.Equal(t, 20, strings.Count(out, "tcpstate WARN"))
	require.Contains(t, out, "\nand 10 blocks like these\n")
}

// Servers and pools close on goroutines of their own.
func TestWhatIsClosedSoonIsNoLeak(t *testing.T) {
	t.Parallel()
	address := sink(t)
	require.Empty(t, run(func(ft *fakeT) {
		c, _ := dial(t, dialer.Dialer{Tracker: leaktest.Tracker(ft)}, address)
		time.AfterFunc(250*time.Millisecond, func() { _ = c.Close() })
	}))
}

func TestAConnClosedBehindOurBackIsNoLeak(t *testing.T) {
	t.Parallel()
	address := sink(t)
	require.Empty(t, run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft)
		c, _ := dial(t, dialer.Dialer{Tracker: tr}, address)
		require.NoError(t, c.(*tcpstate.Conn).NetConn().Close())
		require.Equal(t, 1, tr.Stats().Open, "nobody has noticed")
	}))
}

func TestCleanupsRunBeforeTheCheck(t *testing.T) {
	t.Parallel()
	address := sink(t)
	test := func(late bool) string {
		return run(func(ft *fakeT) {
			var c net.Conn
			if late {
				ft.Cleanup(func() { _ = c.Close() })
			}
			tr := leaktest.Tracker(ft)
			if !late {
				ft.Cleanup(func() { _ = c.Close() })
			}
			c, _ = dial(t, dialer.Dialer{Tracker: tr}, address)
		})
	}
	require.Empty(t, test(false))
	require.Contains(t, test(true), "1 connection left open", "its cleanup runs after the check")
}

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
	require.Contains(t, out, place("leaktest_test.go", line))
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

func TestWhatIsIgnoredIsNotReported(t *testing.T) {
	t.Parallel()
	address := sink(t)
	const pkg = "github.com/tcpstate/tcpstate-go/tcpstate/leaktest_test."
	for name, c := range map[string]struct {
		opt     leaktest.Option
		ignored bool
	}{
		"name":           {leaktest.IgnoreName("api", "cache"), true},
		"another name":   {leaktest.IgnoreName("cach"), false},
		"function":       {leaktest.IgnoreFunc(pkg + "dial"), true},
		"caller":         {leaktest.IgnoreFunc(pkg + "TestWhatIsIgnored"), true},
		"another one":    {leaktest.IgnoreFunc(pkg + "sink"), false},
		"package":        {leaktest.IgnoreFunc("github.com/tcpstate/"), true},
		"a kind of both": {leaktest.IgnoreKind("test"), false},
	} {
		out := run(func(ft *fakeT) { dial(t, dialer.Dialer{Tracker: leaktest.Tracker(ft, c.opt), Name: "cache"}, address) })
		require.Equal(t, c.ignored, out == "", "%s: %s", name, out)
	}
	out := run(func(ft *fakeT) { faulty(t, ft, leaktest.IgnoreName("cache")) })
	require.Empty(t, out, "findings as well")
}

func TestOnlyWhatWasOpenedSinceIsChecked(t *testing.T) {
	address := sink(t)
	tr := new(tcpstate.Tracker)
	t.Cleanup(func() { tr.Close() })
	d := dialer.Dialer{Tracker: tr, Name: "before"}
	dial(t, d, address)
	require.Empty(t, run(func(ft *fakeT) { leaktest.Check(ft, tr) }))
	d.Name = "since"
	out := run(func(ft *fakeT) {
		leaktest.Check(ft, tr)
		dial(t, d, address)
	})
	require.Contains(t, out, "1 connection left open")
	require.Contains(t, out, "since (127.0.0.1:")

	out = run(func(ft *fakeT) {
		leaktest.Default(ft)
		dial(t, dialer.Dialer{Name: "default"}, address)
	})
	require.Contains(t, out, "default (127.0.0.1:")
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

func TestATestOnlyPaysForWhatItLeaves(t *testing.T) {
	allowed := 50 * time.Millisecond
	best := time.Hour
	for try := 0; best > allowed && try < 10; try++ { // the machine may be busy
		begin := time.Now()
		for range 10 {
			require.Empty(t, run(func(ft *fakeT) { leaktest.Tracker(ft) }))
		}
		best = min(best, time.Since(begin))
	}
	require.LessOrEqual(t, best, allowed)
}

func TestParallelTestsHaveTheirOwnLeaks(t *testing.T) {
	address := sink(t)
	t.Run("all", func(t *testing.T) {
		for i := range 100 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				name := fmt.Sprintf("cache-%d", i)
				out := run(func(ft *fakeT) { dial(t, dialer.Dialer{Tracker: leaktest.Tracker(ft), Name: name}, address) })
				require.Contains(t, out, "leaktest: 1 connection left open\n")
				require.Contains(t, out, name+" (127.0.0.1:")
				require.Empty(t, run(func(ft *fakeT) { leaktest.Tracker(ft) }))
			})
		}
	})
}

// Findings of Tracker go nowhere but into the report.
func TestATrackerOfATestLogsNothing(t *testing.T) {
	var b bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&b, nil)))
	defer slog.SetDefault(before)
	address := sink(t)
	tidy(t)
	run(func(ft *fakeT) {
		tr := leaktest.Tracker(ft, leaktest.IgnoreFindings())
		_, err := drop(dialer.Dialer{Tracker: tr}, address)
		require.NoError(t, err)
		tcptest.WaitUntil(t, "the collection", func() bool { runtime.GC(); return len(tr.Findings()) == 1 })
	})
	require.Empty(t, b.String())
}
