// Package gomongo shows go.mongodb.org/mongo-driver/v2 with tcpstate.
package gomongo

import (
	"sync/atomic"

	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Connect returns a client whose connections are dialed by d, and whose pool is
// known to tracker: a program that connects for every call is told so.
//
// A client that is forgotten without Disconnect is never collected, because its
// monitors run for ever.
func Connect(d *dialer.Dialer, tracker *tcpstate.Tracker, opt *options.ClientOptions) (*mongo.Client, error) {
	pooled := *d
	pooled.Expect.Pooled = true
	pool := tracker.NewPool(tcpstate.Origin{Name: d.Name})
	var taken atomic.Int64
	opt.SetDialer(&pooled)
	opt.SetPoolMonitor(&event.PoolMonitor{Event: func(e *event.PoolEvent) {
		if e.Type == event.ConnectionCheckedOut && taken.Add(1) > 1 {
			pool.Reused()
		}
	}})
	return mongo.Connect(opt)
}
