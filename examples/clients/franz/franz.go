// Package franz shows github.com/twmb/franz-go with tcpstate.
package franz

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// New returns a client whose connections are watched by d, with the dial
// timeout of franz-go unless d.NetDialer has its own. A config makes them TLS.
// franz-go refuses kgo.DialTLSConfig and kgo.DialTimeout next to this.
func New(d *dialer.Dialer, tracker *tcpstate.Tracker, config *tls.Config, opts ...kgo.Opt) (*kgo.Client, error) {
	watched := *d
	watched.Expect.Pooled = true // franz-go reads a connection only while it awaits an answer
	if watched.NetDialer == nil {
		watched.NetDialer = &net.Dialer{Timeout: 10 * time.Second}
	}
	dial := watched.DialContext
	if config != nil {
		dial = func(ctx context.Context, network, host string) (net.Conn, error) {
			c, err := watched.DialTLS(ctx, network, host, config)
			if err != nil {
				return nil, err // not a nil *tls.Conn
			}
			return c, nil
		}
	}
	pool := tracker.NewPool(tcpstate.Origin{Name: d.Name})
	return kgo.NewClient(append(opts, kgo.Dialer(dial), kgo.WithHooks(&uses{pool: pool}))...)
}

// uses is a hook that tells whether a client does more than one thing.
type uses struct {
	pool *tcpstate.Pool
	n    atomic.Int64
}

// OnBrokerE2E implements kgo.HookBrokerE2E. The first requests of a key that a
// client makes for itself do not count.
func (u *uses) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	const produce, fetch = 0, 1
	if (key == produce || key == fetch) && u.n.Add(1) > 1 {
		u.pool.Reused()
	}
}
