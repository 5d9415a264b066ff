// Package goredis shows github.com/redis/go-redis/v9 with tcpstate.
package goredis

import (
	"github.com/redis/go-redis/v9"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// New returns a client whose connections are dialed by go-redis as ever, with
// the timeouts, keepalive and TLS of opt, and watched by d.
func New(d *dialer.Dialer, opt *redis.Options) *redis.Client {
	opt.Dialer = d.Wrap(redis.NewDialer(opt))
	return redis.NewClient(opt)
}
