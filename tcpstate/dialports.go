package tcpstate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// This file watches the local ports. A connection to one address and port needs
// a local port of its own, and keeps it for a minute after the close when it
// was closed here first (TIME-WAIT).

// portWatch is guarded by dialingChore.mu, but for counting.
type portWatch struct {
	read      bool // facts were
	facts     portFacts
	err       error // why facts, or a count, is not known; nil before
	asking    bool  // a count is being made
	notBefore int64 // for the next one
	counting  sync.WaitGroup
}

// portFacts is how the kernel hands out ports.
type portFacts struct {
	lo, hi int
	// reuse is net.ipv4.tcp_tw_reuse: a connection may take the pair of
	// addresses over from one in TIME-WAIT that is a second old: 0 never, 1
	// always, 2 on loopback.
	reuse int
}

func (p *portFacts) size() int { return p.hi - p.lo + 1 }

// reuses reports whether TIME-WAIT does not keep ports to remote taken.
func (p *portFacts) reuses(remote netip.Addr) bool {
	return p.reuse == 1 || p.reuse == 2 && remote.IsLoopback()
}

// readPortFacts asks the machine.
func readPortFacts() (f portFacts, err error) {
	if f.lo, f.hi, err = sockdiag.PortRange(); err != nil {
		return f, err
	}
	f.reuse = 2 // since Linux 4.19, if it cannot be read
	if n, err := readNumber("/proc/sys/net/ipv4/tcp_tw_reuse"); err == nil {
		f.reuse = n
	}
	return f, nil
}

// portPair is what shares one range of local ports.
type portPair struct {
	local  netip.Addr
	remote netip.AddrPort
}

// portCount is how many local ports are taken between two addresses.
type portCount struct {
	portPair
	at             int64 // 0: not counted
	live, timeWait int
}

// countPorts counts by a dump, which walks the table of the whole host, the
// sockets to port of one of the addresses, and returns the fullest pair.
func countPorts(port uint16, to []netip.Addr, in portFacts) (best portCount, cost time.Duration, err error) {
	conn, err := sockdiag.Open()
	if err != nil {
		return best, 0, err
	}
	defer conn.Close()
	pairs := make(map[portPair]*portCount)
	d, err := conn.Dump(sockdiag.Query{RemotePort: port, Max: 1 << 18, Timeout: time.Second}, func(s *sockdiag.Socket) bool {
		if p := int(s.Local.Port()); p < in.lo || p > in.hi || !among(to, s.Remote.Addr()) {
			return true
		}
		key := portPair{s.Local.Addr(), s.Remote}
		n := pairs[key]
		if n == nil {
			if len(pairs) >= maxTargets {
				return true
			}
			n = &portCount{portPair: key}
			pairs[key] = n
		}
		if State(s.State) == TimeWait {
			n.timeWait++
		} else {
			n.live++
		}
		return true
	})
	if err == nil && !d.Complete {
		err = errors.New("the table of sockets was not read to its end")
	}
	for _, n := range pairs {
		if n.live+n.timeWait > best.live+best.timeWait {
			best = *n
		}
	}
	return best, d.Cost, err
}

func among(all []netip.Addr, a netip.Addr) bool {
	for _, b := range all {
		if a == b {
			return true
		}
	}
	return len(all) == 0
}

const (
	// Shares of the port range, in percent, in which counting begins, a
	// finding opens, and one that is open stays so.
	portsCount = 60
	portsWarn  = 80
	portsStay  = 70
	// portsCause is the share from which a dial that found no port found none
	// for want of ports. The same error says that the local address is not
	// there.
	portsCause = 50

	// portsPause is the least time between two counts, which also cost at most
	// a hundredth of a core.
	portsPause = 10 * time.Second
	// portsFresh is how long a count, or a dial without a port, tells something.
	portsFresh = int64(time.Minute)
)

// wants reports whether so many connections call for a count.
func (p *portWatch) wants(taken int) bool {
	return p.read && p.facts.hi > 0 && taken*100 >= p.facts.size()*portsCount
}

// learn reads, once, how the kernel hands out ports.
func (p *portWatch) learn(t *Tracker) {
	if p.read {
		return
	}
	p.read = true
	p.facts, p.err = t.seam.portFacts()
}

// judgePorts judges the ports that connections to tg take. It reports whether
// it has to be called again.
func (c *dialingChore) judgePorts(t *Tracker, tg *target, now int64) (again bool) {
	c.mu.Lock()
	p := &c.ports
	f := portsFacts{
		ports: p.facts, count: tg.counted, unable: p.err != nil, taken: tg.taken(now),
		portless: tg.portless != 0 && now-tg.portless < portsFresh,
		open:     tg.port != nil && tg.port.finding != nil,
	}
	if f.count.at == 0 || now-f.count.at > portsFresh {
		f.count = portCount{}
	}
	wanted := f.portless && tg.portless > tg.counted.at || p.wants(f.taken) || f.open
	ask := wanted && !p.asking && now >= p.notBefore
	if ask {
		p.asking = true
		c.countLater(t, tg)
	}
	again = wanted || f.portless || p.asking
	c.mu.Unlock()

	v := f.verdict()
	if v.kind != "" && (tg.origin.Expect.ignores(v.kind) || t.cfg.Load().Off) {
		v = verdict{}
	}
	if v.kind == "" && !f.open {
		return again
	}
	if !f.open {
		c.mu.Lock()
		tg.port = tg.thing(t)
		c.mu.Unlock()
		tg.port.facts = func(pub *Finding, now int64) { c.describePorts(t, tg, pub, now) }
		v.since = now
	}
	tg.port.judge(t, v, now)
	return true
}

// countLater counts on a goroutine of its own. The caller holds mu.
func (c *dialingChore) countLater(t *Tracker, tg *target) {
	var to []netip.Addr
	port := tg.portlessTo.Port()
	if port != 0 {
		to = append(to, tg.portlessTo.Addr())
	}
	for _, r := range tg.reached {
		if r.at != 0 {
			to = append(to, r.to.Addr())
			port = r.to.Port()
		}
	}
	c.ports.counting.Go(func() {
		facts, err := t.seam.portFacts()
		var n portCount
		var cost time.Duration
		if err == nil {
			n, cost, err = t.seam.countPorts(port, to, facts)
		}
		now := t.now()
		n.at = now
		c.mu.Lock()
		defer c.mu.Unlock()
		p := &c.ports
		p.asking, p.notBefore = false, now+int64(max(portsPause, 100*cost))
		if p.err = err; err != nil {
			return
		}
		p.facts, tg.counted = facts, n
	})
}

// portsFacts is what a verdict on the ports to a target rests on.
type portsFacts struct {
	ports    portFacts
	count    portCount // at is 0 without a recent one
	unable   bool      // counts cannot be made
	taken    int       // by our own connections, at most
	portless bool      // a dial has found no port in the last minute
	open     bool      // a finding is
}

func (f *portsFacts) verdict() verdict {
	if f.ports.hi == 0 {
		return verdict{} // the range is not known
	}
	size := f.ports.size()
	v := verdict{kind: KindDialPorts}
	all := f.count.live + f.count.timeWait
	if f.count.at == 0 {
		all = 0
		if f.unable {
			all = f.taken
		}
	}
	if f.portless && all*100 >= size*portsCause {
		v.severity, v.cause = Error, "none_left"
		return v
	}
	if f.count.at == 0 {
		return verdict{}
	}
	blocked := f.count.live
	if !f.ports.reuses(f.count.remote.Addr()) {
		blocked += f.count.timeWait
	}
	share := portsWarn
	if f.open {
		share = portsStay
	}
	if blocked*100 < size*share {
		return verdict{}
	}
	return v
}

// describePorts adds to a finding what is known of the ports to tg.
func (c *dialingChore) describePorts(t *Tracker, tg *target, pub *Finding, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size, ev := tg.counted, c.ports.facts.size(), &pub.Evidence
	if n.at != 0 {
		pub.Subject.Local, pub.Subject.Remote = n.local.String(), n.remote.String()
		ev.note(notePorts, fmt.Sprintf("%s of %s", thousands(n.live+n.timeWait), thousands(size)))
		ev.note(noteTimeWait, thousands(n.timeWait))
		ev.note(noteFrom, n.local.String())
	} else {
		ev.note(notePorts, fmt.Sprintf("at most %s of %s", thousands(tg.taken(now)), thousands(size)))
	}
	ev.note(noteClosedFirst, counted(tg.churn[0]+tg.churn[1], "connection"))
	if tg.usedTimes > 0 && tg.ended > 0 {
		ev.note(notePerConn, strconv.FormatFloat(float64(tg.usedTimes)/float64(tg.ended), 'f', 1, 64))
	}
	t.judge.churning.describe(tg.key, ev, now)
}

const (
	notePorts       = "ports taken"
	noteTimeWait    = "in TIME-WAIT"
	noteClosedFirst = "closed by this end first"
	notePerConn     = "uses per connection"
)

// failedAt returns the address that a dial with this error has tried.
func failedAt(err error) netip.AddrPort {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr != nil {
		return addrPort(op.Addr)
	}
	return netip.AddrPort{}
}
