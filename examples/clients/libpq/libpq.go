// Package libpq shows github.com/lib/pq behind database/sql with tcpstate.
package libpq

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"time"

	"github.com/lib/pq"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/pool"
)

// Open returns a database whose connections are dialed by d and watched by name,
// which nothing else may have.
func Open(d *dialer.Dialer, dsn string) (db *sql.DB, stop func(), err error) {
	c, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, nil, err
	}
	c.Dialer(dialing{d})
	db = sql.OpenDB(c)
	stop, err = pool.WatchDBWith(d.Tracker, db, d.Name)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, stop, nil
}

// dialing adds what pq.Dialer asks for. pq prefers DialContext.
type dialing struct{ *dialer.Dialer }

func (d dialing) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}
