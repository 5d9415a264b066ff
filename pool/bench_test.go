package pool_test

import (
	"context"
	"io"
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

// BenchmarkManyAddresses is a loan from a pool that serves several addresses, by
// several borrowers.
func BenchmarkManyAddresses(b *testing.B) {
	p := newPool(b, new(pool.Pool))
	var addrs []string
	for range 8 {
		addrs = append(addrs, startEcho(b))
	}
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			c, err := p.Get(context.Background(), "tcp", addrs[i%len(addrs)])
			if err != nil {
				b.Error(err)
				return
			}
			c.Close()
		}
	})
}

// BenchmarkExchange is a loan in which something is said, which is what a loan
// is for, beside the same with nothing but a connection.
func BenchmarkExchange(b *testing.B) {
	addr := startEcho(b)
	buf := make([]byte, 16)
	say := func(b *testing.B, c net.Conn) {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("conn", func(b *testing.B) {
		c, err := net.Dial("tcp", addr)
		require.NoError(b, err)
		defer c.Close()
		for b.Loop() {
			say(b, c)
		}
	})
	b.Run("pool", func(b *testing.B) {
		p := newPool(b, new(pool.Pool))
		for b.Loop() {
			c := get(b, p, addr)
			say(b, c)
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
