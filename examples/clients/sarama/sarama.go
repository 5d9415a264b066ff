// Package sarama shows github.com/IBM/sarama with tcpstate.
package sarama

import (
	"net"
	"sync/atomic"

	"github.com/IBM/sarama"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Watch makes the connections of a client of cfg known to d. They are dialed as
// d.NetDialer says, else with the timeout, keepalive and local address of
// cfg.Net; sarama makes TLS on top. It takes the place of a proxy. Each client
// has a cfg of its own.
//
// sarama asks each *net.TCPConn that it holds for errors, and replaces the dead
// ones: hence NoWrap. It reads a connection only while it awaits an answer: what
// the broker ends meanwhile lies as in a pool, hence Pooled.
func Watch(d *dialer.Dialer, tracker *tcpstate.Tracker, cfg *sarama.Config) {
	watched := *d
	watched.NoWrap = true
	watched.Expect.Pooled = true
	if watched.NetDialer == nil {
		watched.NetDialer = &net.Dialer{Timeout: cfg.Net.DialTimeout, KeepAlive: cfg.Net.KeepAlive, LocalAddr: cfg.Net.LocalAddr}
	}
	cfg.Net.Proxy.Enable = true
	cfg.Net.Proxy.Dialer = &watched
	u := &uses{pool: tracker.NewPool(tcpstate.Origin{Name: d.Name})}
	cfg.Producer.Interceptors = append(cfg.Producer.Interceptors, u)
	cfg.Consumer.Interceptors = append(cfg.Consumer.Interceptors, u)
}

// uses is an interceptor that tells whether a client does more than one thing.
type uses struct {
	pool *tcpstate.Pool
	n    atomic.Int64
}

// OnSend implements sarama.ProducerInterceptor.
func (u *uses) OnSend(*sarama.ProducerMessage) { u.count() }

// OnConsume implements sarama.ConsumerInterceptor.
func (u *uses) OnConsume(*sarama.ConsumerMessage) { u.count() }

func (u *uses) count() {
	if u.n.Add(1) > 1 {
		u.pool.Reused()
	}
}
