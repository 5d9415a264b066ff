package leaktest_test

import (
	"bytes"
	"context"
	"fmt"
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
