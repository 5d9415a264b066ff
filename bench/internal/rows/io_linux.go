package rows

import (
	"context"
	"io"
	"net"

	"github.com/tcpstate/tcpstate-go/bench/internal/budget"
	"github.com/tcpstate/tcpstate-go/bench/internal/pairs"
	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
)

// overConns compares what is done with a connection that is open all the time.
// op returns the variant for one.
func overConns(ctx context.Context, e *row.Env, s spec,
	op func(conn net.Conn, peer *net.TCPConn) pairs.Variant) (row.Result, error) {
	all, done, err := ways.Each(ctx)
	if err != nil {
		return row.Result{}, err
	}
	defer done()
	var variants []pairs.Variant
	for _, w := range all {
		conn, peer, err := w.Accepted(ctx)
		if err != nil {
			return row.Result{}, err
		}
		defer ways.Reset(peer)
		defer conn.Close()
		v := op(conn, peer)
		v.Name = w.Column
		variants = append(variants, v)
	}
	return compare(ctx, e, s, variants)
}

// readNothing is all that is not the kernel: package net returns at once when
// there is no room to read into.
func readNothing(ctx context.Context, e *row.Env) (row.Result, error) {
	return overConns(ctx, e, spec{row: "read nothing", batch: 50_000, allocs: 1000, cost: budget.Read}, func(conn net.Conn, _ *net.TCPConn) pairs.Variant {
		return pairs.Variant{Run: func(n int) error {
			for range n {
				if _, err := conn.Read(nil); err != nil {
					return err
				}
			}
			return nil
		}}
	})
}

// readLoopback reads what was written before.
func readLoopback(ctx context.Context, e *row.Env) (row.Result, error) {
	cost := budget.Read
	cost.Time = nil // the system call varies by more than that; see "read nothing"
	return overConns(ctx, e, spec{row: "read", batch: 2000, allocs: 500, cost: cost}, func(conn net.Conn, peer *net.TCPConn) pairs.Variant {
		b := make([]byte, 1)
		return pairs.Variant{
			Before: func(n int) error {
				_, err := peer.Write(make([]byte, n))
				return err
			},
			Run: func(n int) error {
				for range n {
					if _, err := conn.Read(b); err != nil {
						return err
					}
				}
				return nil
			},
		}
	})
}

// pingPong exchanges bytes with a plain peer in the same process.
func pingPong(ctx context.Context, e *row.Env) (row.Result, error) {
	cost := budget.Read
	cost.Time = nil
	return overConns(ctx, e, spec{row: "ping-pong", batch: 100, allocs: 500, cost: cost}, func(conn net.Conn, peer *net.TCPConn) pairs.Variant {
		go io.Copy(struct{ io.Writer }{peer}, struct{ io.Reader }{peer}) // ends with the connection
		b := make([]byte, 1)
		return pairs.Variant{Run: func(n int) error {
			for range n {
				if _, err := conn.Write(b); err != nil {
					return err
				}
				if _, err := conn.Read(b); err != nil {
					return err
				}
			}
			return nil
		}}
	})
}
