package pool_test

import (
	"context"
	"crypto/tls"
	"database/sql"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

const here = "github.com/tcpstate/tcpstate-go/pool_test."

// fakeDriver is what would be a module of its own.
var fakeDriver = []string{here + "(*conn)", here + "(*rows)", here + "tx.", here + "connector", here + "run"}

// rig is a watched database whose time is moved by hand.
type rig struct {
	*testing.T
	tr     *tcpstate.Tracker
	clk    *testclock.Clock
	server *database
	db     *sql.DB
	stop   func()
	busy   sync.WaitGroup
}

// newRig watches a database with two connections, or with other ones.
func newRig(t *testing.T, change ...func(*connector)) *rig {
	t.Parallel() // the clock's pace is a waste of time
	r := &rig{T: t, tr: &tcpstate.Tracker{
		Logger: slog.New(slog.DiscardHandler),
		Config: tcpstate.Config{HideFrames: fakeDriver},
	}}
	r.clk = testclock.Install(r.tr)
	r.clk.Pace(100)
	t.Cleanup(func() {
		require.NoError(t, r.tr.Close())
		testclock.Remove(r.tr)
	})
	leaktest.Check(t, r.tr, leaktest.IgnoreFindings()) // tests look at them
	server, client := tcptest.TLSConfigs(t)
	c := connector{dial: dialer.Dialer{Tracker: r.tr, Name: "orders"}}
	for _, f := range change {
		f(&c)
	}
	if c.tls != nil {
		c.tls = client
	} else {
		server = nil
	}
	r.server = newServer(t, server)
	c.addr = r.server.addr
	r.db = c.open(t, 2)
	var err error
	r.stop, err = pool.WatchDBWith(r.tr, r.db, "orders")
	require.NoError(t, err)
	t.Cleanup(func() {
		close(r.server.ended)
		r.db.Close()
		r.busy.Wait()
	})
	return r
}

// waits lets somebody wait for a connection until free is called, or the
// database is closed.
func (r *rig) waits() (free func()) {
	ctx, cancel := context.WithCancel(r.Context())
	before := r.db.Stats().WaitCount
	r.busy.Go(func() {
		if c, err := r.db.Conn(ctx); err == nil {
			c.Close()
		}
	})
	tcptest.WaitUntil(r, "the wait", func() bool { return r.db.Stats().WaitCount > before })
	r.Cleanup(cancel)
	return cancel
}

// silent asks for no finding, now.
func (r *rig) silent() {
	r.Helper()
	for _, f := range r.tr.Findings() {
		r.Fatalf("reported: %s", f.String())
	}
}

// finds returns the findings that there have to be, of the connections that are
// not given back.
func (r *rig) finds(n int) []tcpstate.Finding {
	r.Helper()
	all := r.tr.Findings()
	require.Len(r, all, n)
	for _, f := range all {
		require.Equal(r, tcpstate.KindLeakNotReturned, f.Kind, "%s", f.String())
	}
	return all
}

func leakRows(t *testing.T, db *sql.DB) *sql.Rows {
	rows, err := db.QueryContext(context.Background(), "rows 100")
	require.NoError(t, err)
	require.True(t, rows.Next())
	return rows
}

func leakTx(t *testing.T, db *sql.DB) *sql.Tx {
	tx, err := db.BeginTx(context.Background(), nil)
	require.NoError(t, err)
	return tx
}

func leakConn(t *testing.T, db *sql.DB) *sql.Conn {
	c, err := db.Conn(context.Background())
	require.NoError(t, err)
	run(t, c, "select")
	return c
}

func TestConnectionsThatAreNotReturnedNameTheLineThatTookThem(t *testing.T) {
	for name, withTLS := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *connector) {
				if withTLS {
					c.tls = new(tls.Config)
				}
			})
			rows := leakRows(t, r.db)
			tx := leakTx(t, r.db)
			r.clk.Advance(60 * time.Second)
			r.silent() // nobody misses them
			free := r.waits()
			r.clk.Advance(25 * time.Second)
			r.silent()
			r.clk.Advance(25 * time.Second)
			byFunction := make(map[string]tcpstate.Finding)
			for _, f := range r.finds(2) {
				byFunction[f.Sites[0].Frames[0].Function] = f
				require.Equal(t, "last use", f.Sites[0].Role)
				require.Equal(t, "orders", f.Subject.Name)
			}
			require.Contains(t, byFunction, here+"leakRows")
			f := byFunction[here+"leakTx"]
			require.NotZero(t, f)
			require.Contains(t, f.Summary, "2 of 2 connections of its pool are lent out, and somebody has had to wait")
			require.Contains(t, f.String(), "db_linux_test.go")

			free()
			require.NoError(t, rows.Close())
			require.NoError(t, tx.Rollback())
			r.clk.Advance(15 * time.Second)
			r.silent()
		})
	}
}

func TestAConnThatIsTakenOutOfTheDatabaseNamesItsLine(t *testing.T) {
	r := newRig(t)
	one, other := leakConn(t, r.db), leakConn(t, r.db)
	r.clk.Advance(12 * time.Second)
	r.waits()
	r.clk.Advance(50 * time.Second)
	for _, f := range r.finds(2) {
		require.Contains(t, f.Sites[0].Frames[0].Function, "leakConn")
	}
	require.NoError(t, one.Close()) // whoever waits gets it
	r.clk.Advance(12 * time.Second)
	r.silent()
	require.NoError(t, other.Close())
}

func TestDatabasesThatAreWellAreNotReported(t *testing.T) {
	for name, life := range map[string]func(r *rig){
		"a slow query": func(r *rig) {
			for range 2 {
				r.busy.Go(func() { run(r.T, r.db, "wait") })
			}
			tcptest.WaitUntil(r, "the queries", func() bool { return r.db.Stats().InUse == 2 })
			r.waits()
			r.clk.Advance(100 * time.Second)
			r.silent()
			for range 2 {
				r.server.answers <- struct{}{}
			}
		},
		"a busy pool": func(r *rig) {
			for range 25 {
				a, b := leakConn(r.T, r.db), leakConn(r.T, r.db)
				free := r.waits()
				r.clk.Advance(4 * time.Second)
				r.silent()
				free()
				a.Close()
				b.Close()
			}
		},
		"long transactions with traffic": func(r *rig) {
			a, b := leakTx(r.T, r.db), leakTx(r.T, r.db)
			r.waits()
			for range 5 {
				r.clk.Advance(20 * time.Second)
				r.silent()
				run(r.T, a, "update")
				run(r.T, b, "update")
			}
			a.Rollback()
			b.Rollback()
		},
		"long transactions that nobody minds": func(r *rig) {
			a, b := leakTx(r.T, r.db), leakTx(r.T, r.db)
			r.clk.Advance(100 * time.Second)
			r.silent()
			a.Rollback()
			b.Rollback()
		},
		"one transaction, and others find a connection": func(r *rig) {
			a := leakTx(r.T, r.db)
			for range 25 {
				run(r.T, r.db, "select")
				r.clk.Advance(4 * time.Second)
				r.silent()
			}
			a.Rollback()
		},
		"a wait that is over": func(r *rig) {
			a, b := leakTx(r.T, r.db), leakTx(r.T, r.db)
			r.waits()
			b.Rollback() // at once
			tcptest.WaitUntil(r, "who has waited", func() bool { return r.db.Stats().InUse == 1 })
			b = leakTx(r.T, r.db)
			r.clk.Advance(100 * time.Second)
			r.silent()
			a.Rollback()
			b.Rollback()
		},
		"no limit": func(r *rig) {
			r.db.SetMaxOpenConns(0)
			a := leakTx(r.T, r.db)
			r.clk.Advance(100 * time.Second)
			r.silent()
			a.Rollback()
		},
		"a name that others use": func(r *rig) {
			d := dialer.Dialer{Tracker: r.tr, Name: "orders"}
			other, err := d.Dial("tcp", r.server.addr)
			require.NoError(r, err)
			defer other.Close()
			a, b := leakTx(r.T, r.db), leakTx(r.T, r.db)
			r.clk.Advance(12 * time.Second)
			r.waits()
			r.clk.Advance(100 * time.Second)
			for _, f := range r.tr.Findings() {
				require.NotEqual(r, tcpstate.KindLeakNotReturned, f.Kind)
			}
			a.Rollback()
			b.Rollback()
		},
		"declared to be long-lived": func(r *rig) {
			a, b := leakTx(r.T, r.db), leakTx(r.T, r.db)
			r.waits()
			r.clk.Advance(100 * time.Second)
			r.silent()
			a.Rollback()
			b.Rollback()
		},
	} {
		t.Run(name, func(t *testing.T) {
			life(newRig(t, func(c *connector) {
				c.dial.Expect.LongLived = name == "declared to be long-lived"
			}))
		})
	}
}

// Beside what was leaked, the query that waits for its answer is well.
func TestOfAStarvedDatabaseOnlyTheLeakIsReported(t *testing.T) {
	r := newRig(t)
	tx := leakTx(t, r.db)
	r.busy.Go(func() { run(t, r.db, "wait") })
	tcptest.WaitUntil(t, "the query", func() bool { return r.db.Stats().InUse == 2 })
	r.clk.Advance(12 * time.Second)
	r.waits()
	r.clk.Advance(60 * time.Second)
	require.Contains(t, r.finds(1)[0].Sites[0].Frames[0].Function, "leakTx")
	r.server.answers <- struct{}{}
	require.NoError(t, tx.Rollback())
}

// Without a limit nobody ever waits; a threshold of the program's own tells.
func TestAConnectionThatIsHeldForTooLongIsReportedIfWanted(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.Held = 40 * time.Second }))
	r.db.SetMaxOpenConns(0)
	tx := leakTx(t, r.db)
	other := leakConn(t, r.db)
	other.Close() // as long as one is idle, nobody knows which
	r.clk.Advance(100 * time.Second)
	r.silent()
	other = leakConn(t, r.db)
	for range 6 {
		r.clk.Advance(12 * time.Second)
		run(t, other, "update")
	}
	f := r.finds(1)[0]
	require.Contains(t, f.Sites[0].Frames[0].Function, "leakTx")
	require.Equal(t, "held", f.Cause)
	require.Contains(t, f.Summary, "all 2 connections of its pool are lent out; this one has moved no byte for")
	require.NoError(t, tx.Rollback())
	r.clk.Advance(12 * time.Second)
	r.silent()
	require.NoError(t, other.Close())
}

func TestADatabaseIsWatchedFromTheMiddleOfItsLife(t *testing.T) {
	r := newRig(t)
	r.stop()
	one, other := leakConn(t, r.db), leakConn(t, r.db)
	r.busy.Go(func() { run(t, other, "wait") })
	r.clk.Advance(2 * time.Second)
	stop, err := pool.WatchDBWith(r.tr, r.db, "orders")
	require.NoError(t, err)
	run(t, one, "select")
	r.clk.Advance(12 * time.Second)
	r.waits()
	r.clk.Advance(60 * time.Second)
	r.finds(1) // of the other nothing is known
	stop()
	stop()
	r.clk.Advance(12 * time.Second)
	r.silent()
	r.server.answers <- struct{}{}
	require.NoError(t, one.Close())
	require.NoError(t, other.Close())
}

func TestIdleConnectionsThatTheServerClosedAreInventory(t *testing.T) {
	r := newRig(t)
	for range 2 {
		c := leakConn(t, r.db)
		defer c.Close()
	}
	r.db.SetMaxOpenConns(3) // so that some may be idle
	r.clk.Advance(12 * time.Second)
	r.server.restart()
	r.clk.Advance(40 * time.Second)
	all := r.tr.Findings()
	require.Len(t, all, 2)
	for _, f := range all {
		require.Equal(t, tcpstate.KindCloseWaitIdleInPool, f.Kind, "%s", f.String())
		require.Equal(t, tcpstate.Inventory, f.Severity)
		require.Equal(t, "orders", f.Subject.Name)
		require.Zero(t, f.Evidence.IdleLimit, "a restart is no idle limit")
	}
}

func TestADatabaseTellsItsStatistics(t *testing.T) {
	r := newRig(t)
	told := func() (all []tcpstate.PoolStats) {
		for s := range r.tr.Pools() {
			all = append(all, s)
		}
		return all
	}
	c := leakConn(t, r.db)
	second := leakConn(t, r.db)
	free := r.waits()
	require.Equal(t, []tcpstate.PoolStats{{
		Name: "orders", Used: 2, Max: 2, Pending: -1, Timeouts: -1,
		Waits: tcpstate.PoolTimes{Count: 1}, Uses: tcpstate.PoolTimes{Count: -1}, Creates: tcpstate.PoolTimes{Count: -1},
		Discards: []tcpstate.PoolDiscards{{Reason: "idle_max"}, {Reason: "idle_timeout"}, {Reason: "max_lifetime"}},
		Database: true,
	}}, told())
	free()
	r.busy.Wait()
	require.NoError(t, c.Close())
	require.NoError(t, second.Close())
	s := told()[0]
	require.Equal(t, 0, s.Used)
	require.NotZero(t, s.Waits.Time)

	require.NoError(t, r.db.Close())
	require.Empty(t, told(), "a closed database is no more")
}
