package main

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/jackc/puddle/v2"
	"github.com/redis/go-redis/v9"

	"github.com/tcpstate/tcpstate-go/internal/hangup"
	"github.com/tcpstate/tcpstate-go/pool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// contestant runs n cycles with one pool. note is what there is to say of it.
type contestant struct {
	name string
	run  func(n int, s *hangup.Server, sum *hangup.Tally) (note string, err error)
}

var contestants = []contestant{
	{"tcpstate pool, LIFO", func(n int, s *hangup.Server, sum *hangup.Tally) (string, error) { return ours(n, s, sum, false) }},
	{"tcpstate pool, FIFO", func(n int, s *hangup.Server, sum *hangup.Tally) (string, error) { return ours(n, s, sum, true) }},
	{"puddle", plainPuddle},
	{"go-redis", goRedis},
}

func ours(n int, s *hangup.Server, sum *hangup.Tally, fifo bool) (string, error) {
	tracker := new(tcpstate.Tracker)
	defer tracker.Close()
	p := &pool.Pool{Dial: hangup.Dial, FIFO: fifo}
	p.Dialer.Tracker = tracker
	hangup.Run(n, s.Table, sum, func() (hangup.Loan, error) {
		c, err := p.Get(context.Background(), "tcp", s.Addr)
		got := hangup.Now()
		return hangup.Loan{Conn: c, Got: got, GiveBack: func(bool) { c.Close() }}, err
	})
	note := "a system call for " + percent(p.Stats().Behind, n) + " of them"
	return note, p.Close()
}

func plainPuddle(n int, s *hangup.Server, sum *hangup.Tally) (string, error) {
	p, err := puddle.NewPool(&puddle.Config[net.Conn]{
		MaxSize:     pool.DefaultMaxConns,
		Constructor: func(ctx context.Context) (net.Conn, error) { return hangup.Dial(ctx, "tcp", s.Addr) },
		Destructor:  func(c net.Conn) { c.Close() },
	})
	if err != nil {
		return "", err
	}
	defer p.Close()
	hangup.Run(n, s.Table, sum, func() (hangup.Loan, error) {
		r, err := p.Acquire(context.Background())
		got := hangup.Now()
		if err != nil {
			return hangup.Loan{}, err
		}
		return hangup.Loan{Conn: r.Value(), Got: got, GiveBack: func(broken bool) {
			if broken {
				r.Destroy()
			} else {
				r.Release()
			}
		}}, nil
	})
	return "looks at nothing", nil
}

// goRedis keeps its pool to itself. What it hands out shows at the first write
// of each command, so each cycle is a PING, with no retry.
func goRedis(n int, s *hangup.Server, sum *hangup.Tally) (string, error) {
	c := redis.NewClient(&redis.Options{
		Addr: s.Addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1, PoolSize: pool.DefaultMaxConns,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := hangup.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &seen{TCPConn: nc.(*net.TCPConn), table: s.Table, sum: sum}, nil
		},
	})
	defer c.Close()
	hangup.Run(n, s.Table, sum, func() (hangup.Loan, error) {
		use := func() error { return nil }
		err := c.Ping(context.Background()).Err()
		return hangup.Loan{Use: use, GiveBack: func(bool) {}}, err
	})
	return "a system call and a PING for each", nil
}

// seen is a connection that tells when it is used. It has what go-redis looks
// for: the RawConn that it asks whether the peer has closed.
type seen struct {
	*net.TCPConn
	table   *hangup.Table
	sum     *hangup.Tally
	greeted atomic.Bool // the first exchange belongs to the dial
}

func (c *seen) Write(b []byte) (int, error) {
	now := hangup.Now()
	if c.greeted.Swap(true) {
		c.sum.See(c.table, c.LocalAddr(), now, now)
	}
	return c.TCPConn.Write(b)
}
