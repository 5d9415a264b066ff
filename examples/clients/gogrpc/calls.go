package gogrpc

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// calls counts the calls of a client: with the second it is of some use.
type calls struct {
	pool *tcpstate.Pool
	made atomic.Int64
}

// TagRPC implements stats.Handler.
func (c *calls) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if c.made.Add(1) == 2 {
		c.pool.Reused()
	}
	return ctx
}

// HandleRPC implements stats.Handler.
func (c *calls) HandleRPC(context.Context, stats.RPCStats) {}

// TagConn implements stats.Handler.
func (c *calls) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (c *calls) HandleConn(context.Context, stats.ConnStats) {}
