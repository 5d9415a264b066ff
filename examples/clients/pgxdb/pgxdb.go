// Package pgxdb shows github.com/jackc/pgx/v5 and its pool with tcpstate.
package pgxdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Connect makes one connection. pgx dials as ever, with the timeout and TLS of
// cfg, and d watches the connection.
func Connect(ctx context.Context, d *dialer.Dialer, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg.DialFunc = d.Wrap(cfg.DialFunc)
	return pgx.ConnectConfig(ctx, cfg)
}

// NewPool makes a pool whose connections are known to be lent out, to the line
// of code that took them. A tracer that cfg has already is combined with this
// one by package multitracer of pgx.
func NewPool(ctx context.Context, d *dialer.Dialer, tracker *tcpstate.Tracker, cfg *pgxpool.Config) (*pgxpool.Pool, error) {
	pooled := *d
	pooled.Expect.Pooled = true
	cfg.ConnConfig.DialFunc = pooled.Wrap(cfg.ConnConfig.DialFunc)
	cfg.ConnConfig.Tracer = &Lending{tracker: tracker, pool: tracker.NewPool(tcpstate.Origin{Name: d.Name})}
	return pgxpool.NewWithConfig(ctx, cfg)
}
