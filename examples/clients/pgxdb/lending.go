package pgxdb

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Hide is for Config.HideFrames: the line to open is that of who asked the pool.
const Hide = "github.com/tcpstate/tcpstate-go/examples/clients/pgxdb.(*Lending)"

// Lending is a tracer of pgxpool that tells a tracker who has which connection,
// and who waits for one. Queries are not traced.
type Lending struct {
	tracker *tcpstate.Tracker
	pool    *tcpstate.Pool
}

const doneKey = "tcpstate done"

// TraceAcquireStart implements pgxpool.AcquireTracer.
func (l *Lending) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	l.pool.Waits()
	return ctx
}

// TraceAcquireEnd implements pgxpool.AcquireTracer.
func (l *Lending) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, data pgxpool.TraceAcquireEndData) {
	l.pool.Waited()
	if data.Err != nil {
		return
	}
	c := data.Conn.PgConn()
	if _, again := c.CustomData()[doneKey]; again {
		l.pool.Reused()
	}
	c.CustomData()[doneKey] = l.tracker.Of(c.Conn()).Borrow(ctx, l.pool, tcpstate.Use{})
}

// TraceRelease implements pgxpool.ReleaseTracer.
func (l *Lending) TraceRelease(_ *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	data.Conn.PgConn().CustomData()[doneKey].(func())()
}

// TraceQueryStart implements pgx.QueryTracer, as ConnConfig.Tracer must.
func (l *Lending) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (l *Lending) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
