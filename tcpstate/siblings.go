package tcpstate

import (
	"fmt"
	"math/bits"
	"time"
)

// maxSiblings bounds the connections that are looked at to tell whether a path
// or only one connection is in trouble.
const maxSiblings = 16

// siblings is what other connections to the same target look like.
type siblings struct {
	fine    int // the peer was heard within the time that e waits
	stuck   int // the same trouble
	unknown int // idle: nobody has asked
}

// askSiblings looks at other connections of the program to the target of e. The
// caller holds judgement.mu.
func (t *Tracker) askSiblings(e *entry, within time.Duration) (n siblings) {
	s := samplers.Get().(*sampler)
	defer samplers.Put(s)
	looked := 0
	for _, other := range t.entries() {
		if other == e || !e.sameTarget(other) {
			continue
		}
		if looked++; looked > maxSiblings {
			break
		}
		other.mu.Lock()
		s.full, s.ask, s.poll, s.fresh = false, false, false, false
		err := s.take(other, false)
		other.mu.Unlock()
		switch p := &s.sample; {
		case err != nil || !p.ok || p.state != Established:
		case p.retransmits > 1 || p.probes > 1:
			n.stuck++
		case p.heard() < within:
			n.fine++
		default:
			n.unknown++
		}
	}
	return n
}

// maxPathLooks bounds how many findings are described at once with what is known
// of their path: when everything is gone, nobody reads more.
const maxPathLooks = 32

// mayAskSiblings counts the findings that are described at one moment.
func (j *judgement) mayAskSiblings(now int64) bool {
	if j.pathLooksAt != now {
		j.pathLooksAt, j.pathLooks = now, 0
	}
	j.pathLooks++
	return j.pathLooks <= maxPathLooks
}

// sameTarget reports whether both connections lead to the same place: by what
// was dialed, or by address.
func (e *entry) sameTarget(other *entry) bool {
	switch {
	case e.role != Client || other.role != Client:
		return false
	case e.target != "" && e.target == other.target:
		return true
	}
	return e.remote.Port == other.remote.Port && e.remote.IP.Equal(other.remote.IP)
}

// describePath adds what is known of the path to a finding about a peer that
// does not answer.
func (e *entry) describePath(t *Tracker, f *finding, pub *Finding, now int64) {
	if f.kind != KindPeerUnresponsive && f.kind != KindPeerDeadProbes || e.rawConn() == nil {
		return
	}
	if !t.judge.mayAskSiblings(now) {
		return
	}
	waited := time.Duration(max(now-f.since, int64(time.Second)))
	switch n := t.askSiblings(e, waited); {
	case n.fine > 0:
		pub.Evidence.note("siblings", fmt.Sprintf("%d of %d other connections to the same target are fine", n.fine, n.fine+n.stuck+n.unknown))
	case n.stuck > 0:
		pub.Evidence.note("siblings", fmt.Sprintf("%d of %d other connections to the same target are stuck, too", n.stuck, n.stuck+n.unknown))
	}
	if left, ok := e.patienceLeft(f.kind, time.Duration(now-f.since)); ok {
		pub.Evidence.note("kernel gives up", "in about "+age(left))
		pub.Evidence.GivesUpAt = t.wall(now + int64(left))
	}
}

// patienceLeft returns how long the kernel goes on asking: until the user
// timeout, or else as often as the machine's settings say (tcp(7)).
func (e *entry) patienceLeft(k Kind, waited time.Duration) (left time.Duration, ok bool) {
	p, ok := e.patience()
	total := p.User
	if total == 0 {
		if k == KindPeerDeadProbes {
			return 0, false // that limit is for retransmissions
		}
		total = retransmitTime(tcpRetries())
	}
	return max(total-waited, 0), ok
}

const (
	rtoMin = 200 * time.Millisecond
	rtoMax = 120 * time.Second
)

// retransmitTime is how long the kernel sends again in vain when it is told to
// do so n times: it counts in time, from the smallest timeout on, whatever that
// of the connection is (tcp_model_timeout in net/ipv4/tcp_timer.c).
func retransmitTime(n int) time.Duration {
	doublings := bits.Len(uint(rtoMax/rtoMin)) - 1
	if n <= doublings {
		return rtoMin * (2<<n - 1)
	}
	return rtoMin*(2<<doublings-1) + time.Duration(n-doublings)*rtoMax
}

// tcpRetries reads net.ipv4.tcp_retries2.
func tcpRetries() int {
	const usual = 15
	n, err := readNumber("/proc/sys/net/ipv4/tcp_retries2")
	if err != nil || n < 0 || n > 255 {
		return usual
	}
	return n
}
