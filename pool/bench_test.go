package pool_test

import (
	"context"
	"net"
	"testing"

	"github.com/jackc/puddle/v2"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/pool"
)

// BenchmarkGetAndClose compares a loan of an idle connection with what the
// engine alone takes.
func BenchmarkGetAndClose(b *testing.B) {
	addr := startEcho(b)
	ctx := b.Context()
	b.Run("puddle", func(b *testing.B) {
		p := newPuddle(b, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		})
		for b.Loop() {
			r, err := p.Acquire(ctx)
			if err != nil {
				b.Fatal(err)
			}
			r.Release()
		}
	})
	b.Run("pool", func(b *testing.B) {
		p := newPool(b, new(pool.Pool))
		for b.Loop() {
			c, err := p.Get(ctx, "tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
	})
}

// newPuddle makes a plain pool of the engine, with one connection in it.
func newPuddle(tb testing.TB, dial puddle.Constructor[net.Conn]) *puddle.Pool[net.Conn] {
	p, err := puddle.NewPool(&puddle.Config[net.Conn]{
		MaxSize:     pool.DefaultMaxConns,
		Constructor: dial,
		Destructor:  func(c net.Conn) { c.Close() },
	})
	require.NoError(tb, err)
	tb.Cleanup(p.Close)
	r, err := p.Acquire(context.Background())
	require.NoError(tb, err)
	r.Release()
	return p
}
