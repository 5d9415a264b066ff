// Package goredis shows github.com/redis/go-redis/v9 with tcpstate.
package goredis

import (
	"context"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// New returns a client whose connections are dialed by go-redis as ever, with
// the timeouts, keepalive and TLS of opt, and watched by d.
func New(d *dialer.Dialer, opt *redis.Options) *redis.Client {
	opt.Dialer = d.Wrap(redis.NewDialer(opt))
	return redis.NewClient(opt)
}

// NewTLS is New for TLS, with the handshake made by d: findings then know what was
// read, and by whom, which New does not see below TLS. Keepalive is that of
// d.NetDialer.
func NewTLS(d *dialer.Dialer, opt *redis.Options) *redis.Client {
	opt.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialTLS(ctx, network, addr, opt.TLSConfig)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return redis.NewClient(opt)
}

// WatchPool tells tracker how many connections called name the pool of client has
// and how many are missed, until stop is called, so that one that is kept is
// found. Subscriptions have connections beside the pool: make them with another
// client, of another name.
func WatchPool(tracker *tcpstate.Tracker, name string, client *redis.Client) (stop func()) {
	return tracker.WatchPool(tcpstate.Origin{Name: name}, func() (tcpstate.PoolStats, bool) {
		s := client.PoolStats()
		return tcpstate.PoolStats{
			Idle: int(s.IdleConns), Used: int(s.TotalConns) - int(s.IdleConns), Max: client.Options().PoolSize,
			Pending: int(s.PendingRequests), Timeouts: int64(s.Timeouts),
			Waits:    tcpstate.PoolTimes{Count: int64(s.WaitCount), Time: time.Duration(s.WaitDurationNs)},
			Uses:     tcpstate.PoolTimes{Count: -1},
			Creates:  tcpstate.PoolTimes{Count: -1},
			Database: true,
		}, true
	})
}
