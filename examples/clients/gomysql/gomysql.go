// Package gomysql shows github.com/go-sql-driver/mysql behind database/sql with
// tcpstate.
package gomysql

import (
	"database/sql"
	"errors"

	"github.com/go-sql-driver/mysql"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/pool"
)

// Open returns a database whose connections are dialed by d and watched by name,
// which nothing else may have.
//
// The driver turns keepalive on for a *net.TCPConn only. net.Dialer does that
// for every connection already; where the one of d is told not to, d.NoWrap
// gives the driver its *net.TCPConn, and leak.not_returned is not reported.
func Open(d *dialer.Dialer, cfg *mysql.Config) (db *sql.DB, stop func(), err error) {
	cfg.DialFunc = d.DialContext
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, nil, err
	}
	db = sql.OpenDB(c)
	stop, err = pool.WatchDBWith(d.Tracker, db, d.Name)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, stop, nil
}
