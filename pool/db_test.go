package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// nowhere is a connector that never connects.
type nowhere struct{}

func (nowhere) Driver() driver.Driver { return nil }

func (nowhere) Connect(context.Context) (driver.Conn, error) { return nil, errors.New("nowhere") }

func TestAWatchDoesNotKeepADatabaseAlive(t *testing.T) {
	tr := leaktest.Tracker(t)
	gone := make(chan struct{})
	func() {
		db := sql.OpenDB(nowhere{})
		_, err := pool.WatchDBWith(tr, db, "orders")
		require.NoError(t, err)
		runtime.AddCleanup(db, func(struct{}) { close(gone) }, struct{}{})
		require.NoError(t, db.Close())
	}()
	tcptest.WaitUntil(t, "the collector", func() bool {
		runtime.GC()
		select {
		case <-gone:
			return true
		default:
			return false
		}
	})
	for range tr.Pools() {
		t.Fatal("it is no more")
	}
}

func TestThereMustBeADatabaseToWatch(t *testing.T) {
	db := sql.OpenDB(nowhere{})
	for _, name := range []string{"orders", ""} {
		stop, err := pool.WatchDB(nil, name)
		require.Error(t, err)
		stop()
	}
	_, err := pool.WatchDB(db, "")
	require.ErrorContains(t, err, "name")
	require.NoError(t, db.Close())
	_, err = pool.WatchDB(db, "orders")
	require.ErrorContains(t, err, "closed")
}
