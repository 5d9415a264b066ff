package pool

import (
	"context"
	"database/sql"
	"errors"
	"weak"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// WatchDB watches the pool of db. Its connections are those that are dialed with
// the name name, by a dialer.Dialer that the driver is given, and that name must
// be used for nothing else. It is the same as WatchDBWith the default tracker.
func WatchDB(db *sql.DB, name string) (stop func(), err error) {
	return WatchDBWith(tcpstate.Default(), db, name)
}

// WatchDBWith watches the pool of db with t, nil for the default tracker, until
// stop is called, or db is closed or dropped: it does not keep db from being
// collected, and starts no goroutine. More than one database may have the same
// name; they are then judged as one.
//
// When all connections that db may open are in use, somebody has had to wait for
// one, and one in use moves no byte for Thresholds.Borrowed (30 s), it is
// reported as leak.not_returned, at the line that read from it last: for rows, a
// statement or a transaction that is not closed, the line of the query. A
// connection that a query waits on is not missed, whatever it takes. Without
// DB.SetMaxOpenConns nobody ever waits, and nothing is reported.
//
// The line is known of drivers that read on the goroutine of their caller, as
// those for PostgreSQL and MySQL do; of others it is a line of the driver. A
// sql.Conn that was never read from since it was taken shows who had it before.
// Each Read of the connections takes about a microsecond longer.
//
// Tracker.Pools tells what DB.Stats does. The driver is not wrapped: sql.Conn.Raw
// and the optional interfaces of the driver are as they were.
//
// An error says that there is nothing to watch: a nil or closed db, or an empty
// name. stop is never nil and may be called more than once.
func WatchDBWith(t *tcpstate.Tracker, db *sql.DB, name string) (stop func(), err error) {
	none := func() {}
	switch {
	case db == nil:
		return none, errors.New("pool: WatchDB of a nil *sql.DB")
	case name == "":
		return none, errors.New("pool: WatchDB without the name that the connections are dialed with")
	case closed(db):
		return none, errors.New("pool: WatchDB of a database that is closed")
	}
	if t == nil {
		t = tcpstate.Default()
	}
	there := weak.Make(db)
	return t.WatchPool(tcpstate.Origin{Name: name}, func() (tcpstate.PoolStats, bool) {
		db := there.Value()
		if db == nil || closed(db) {
			return tcpstate.PoolStats{}, false
		}
		return dbStats(db.Stats()), true
	}), nil
}

// cancelled is a context that has ended.
var cancelled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// closed reports whether db is closed. It says so before it looks at the
// context, and after that it does nothing.
func closed(db *sql.DB) bool {
	err := db.PingContext(cancelled)
	return err != nil && !errors.Is(err, context.Canceled)
}

// dbStats returns what s says. Timeouts, uses and dials are not counted, nor how
// many wait now.
func dbStats(s sql.DBStats) tcpstate.PoolStats {
	return tcpstate.PoolStats{
		Idle: s.Idle, Used: s.InUse, Max: s.MaxOpenConnections,
		Pending: -1, Timeouts: -1,
		Waits:   tcpstate.PoolTimes{Count: s.WaitCount, Time: s.WaitDuration},
		Uses:    tcpstate.PoolTimes{Count: -1},
		Creates: tcpstate.PoolTimes{Count: -1},
		Discards: []tcpstate.PoolDiscards{
			{Reason: tcpstate.DiscardIdleMax, Count: s.MaxIdleClosed},
			{Reason: tcpstate.DiscardIdleTimeout, Count: s.MaxIdleTimeClosed},
			{Reason: tcpstate.DiscardMaxLifetime, Count: s.MaxLifetimeClosed},
		},
		Database: true,
	}
}
