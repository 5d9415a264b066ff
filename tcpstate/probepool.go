package tcpstate

import (
	"context"
	"sync"
	"time"
)

// maxProbes bounds the probes of idle connections that are under way.
const maxProbes = 8

// pooledProbes are the probes that Config.ProbePooled asks for. Each waits for
// its answer on a goroutine of its own: the loop waits for nobody.
type pooledProbes struct {
	wg sync.WaitGroup
	n  chan struct{} // nil before the first one; a token for each that is under way
}

// pooledIdle reports whether the connection lies in a pool, as declared, and
// nothing was heard of its peer for longer than d.
func (o *openLook) pooledIdle(d time.Duration) bool {
	return o.seen.expect.Pooled && !o.seen.using && o.sample.state == Established && o.sample.heard() > d
}

// probePooled asks the peer of e for a sign of life, unless too many are being
// asked: the next sweep comes by again. It is called by the loop.
func (t *Tracker) probePooled(e *entry) {
	p := &t.judge.probes
	if p.n == nil {
		p.n = make(chan struct{}, maxProbes)
	}
	select {
	case p.n <- struct{}{}:
	default:
		return
	}
	p.wg.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				t.panicked(r)
			}
			<-p.n
		}()
		// What it finds stands in the socket: an answer, or a probe without one.
		(&Watch{e: e}).Probe(context.Background())
	})
}
