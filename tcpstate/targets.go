package tcpstate

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// target is what is known of the dials to one address, as it was dialed, under
// one name. Fields without a remark are guarded by dialingChore.mu.
type target struct {
	key     targetKey
	index   uint16
	usedAt  int64
	dialing int // dials in progress
	live    int // connections that are open
	window  [stormWindow]dialSecond
	reached [8]reached

	// Connections that have ended: of those that we closed first, in this
	// minute and the one before.
	minute     int64
	churn      [2]int
	usedTimes  uint64 // uses of all of them
	ended      uint64
	portless   int64 // when a dial last found no local port; 0: never
	portlessTo netip.AddrPort
	counted    portCount // of the kernel; at is 0 before

	// Of the dial that ended last without an answer, or without a port.
	origin Origin
	site   sites.ID
	tokens *token

	hot         bool   // the loop is to judge it
	storm, port *thing // owned by the loop; nil: was never judged
}

type targetKey struct{ name, target string }

// dialSecond is what happened within one second.
type dialSecond struct {
	at    int64 // number of the second
	dials uint32
	lost  uint32        // of those, given up by ourselves
	took  time.Duration // all lost ones together
}

// reached is an address that a dial has reached.
type reached struct {
	to netip.AddrPort
	at int64
}

const (
	// maxTargets bounds the targets that are told apart. The rest shares one
	// that is not judged.
	maxTargets = 256
	// forgetTarget is how long an unused target is kept when room is needed.
	forgetTarget = int64(time.Minute)

	noTarget     = 0 // of a connection that was not dialed through BeginDial
	sharedTarget = 1
)

// targetTable finds targets by key and by index.
type targetTable struct {
	byKey  map[targetKey]*target
	all    []*target // by index; nil: free
	pruned int64     // when room was last looked for
}

// of returns the target with this key, the shared one when there are too many.
func (tab *targetTable) of(key targetKey, now int64) *target {
	if tg := tab.byKey[key]; tg != nil {
		return tg
	}
	if tab.byKey == nil {
		tab.byKey = make(map[targetKey]*target)
		tab.all = []*target{noTarget: nil, sharedTarget: {key: targetKey{name: otherNames}, index: sharedTarget}}
	}
	if len(tab.byKey) >= maxTargets && !tab.prune(now) {
		return tab.all[sharedTarget]
	}
	tg := &target{key: key}
	for i := sharedTarget + 1; i < len(tab.all); i++ {
		if tab.all[i] == nil {
			tg.index = uint16(i)
			tab.all[i] = tg
			break
		}
	}
	if tg.index == 0 {
		tg.index = uint16(len(tab.all))
		tab.all = append(tab.all, tg)
	}
	tab.byKey[key] = tg
	return tg
}

// prune forgets the targets that nobody uses, and reports whether that made
// room. It looks at most every second.
func (tab *targetTable) prune(now int64) bool {
	if now-tab.pruned < int64(time.Second) {
		return false
	}
	tab.pruned = now
	for i, tg := range tab.all {
		if i <= sharedTarget || tg == nil || tg.hot || tg.live > 0 || tg.dialing > 0 || now-tg.usedAt < forgetTarget {
			continue
		}
		delete(tab.byKey, tg.key)
		tab.all[i] = nil
	}
	return len(tab.byKey) < maxTargets
}

func (tab *targetTable) at(i uint16) *target {
	if int(i) < len(tab.all) {
		return tab.all[i]
	}
	return nil
}

// count counts a dial that has ended.
func (tg *target) count(how dialEnd, took time.Duration, now int64) {
	n := now / int64(time.Second)
	s := &tg.window[n%stormWindow]
	if s.at != n {
		*s = dialSecond{at: n}
	}
	s.dials++
	if how == dialTimeout || how == dialCancel {
		s.lost++
		s.took += took
	}
}

// recent adds up what the window holds now.
func (tg *target) recent(now int64) (sum dialSecond) {
	n := now / int64(time.Second)
	for _, s := range tg.window {
		if n-s.at < stormWindow {
			sum.dials += s.dials
			sum.lost += s.lost
			sum.took += s.took
		}
	}
	return sum
}

// reach notes that to has answered.
func (tg *target) reach(to netip.AddrPort, now int64) {
	oldest := &tg.reached[0]
	for i := range tg.reached {
		r := &tg.reached[i]
		if r.to == to {
			r.at = now
			return
		}
		if r.at < oldest.at {
			oldest = r
		}
	}
	*oldest = reached{to, now}
}

// reachedSince reports whether to has answered since at.
func (tg *target) reachedSince(to netip.AddrPort, at int64) bool {
	for _, r := range tg.reached {
		if r.to == to && r.at > at {
			return true
		}
	}
	return false
}

// churned notes a connection that we closed first: its address pair stays taken
// for the 60 s of TIME-WAIT (TCP_TIMEWAIT_LEN in include/net/tcp.h).
func (tg *target) churned(now int64) {
	tg.turn(now)
	tg.churn[0]++
}

// taken is an upper bound of the local ports that connections to tg take now.
func (tg *target) taken(now int64) int {
	tg.turn(now)
	return tg.live + tg.churn[0] + tg.churn[1]
}

func (tg *target) turn(now int64) {
	switch m := now / int64(time.Minute); {
	case m == tg.minute:
	case m == tg.minute+1:
		tg.minute, tg.churn = m, [2]int{0, tg.churn[0]}
	default:
		tg.minute, tg.churn = m, [2]int{}
	}
}

// Of a dial storm: every dial takes a place in the peer's SYN and accept
// queues, and the next one comes before the last is answered.
const (
	// stormWindow is in seconds: longer than the retry of a lost SYN, so that
	// those who wait for it are counted with those who do not.
	stormWindow = 10
	// stormDials is how many dials in the window are worth a look, on a machine
	// of any size: below that the peer's queues, of 128 at least by default,
	// hardly notice.
	stormDials = 50
)

// stormy reports whether dials are being made and given up in numbers. was is
// whether they were: then it has to calm down by half first.
func (s *dialSecond) stormy(was bool) bool {
	if was {
		return s.dials >= stormDials/2 && s.lost >= s.dials/4
	}
	return s.dials >= stormDials && s.lost >= s.dials/2
}

// opened counts a connection that begins.
//
// It may call for a count of the ports that are taken. It reports whether the
// loop has to be pinned for that. The caller holds Tracker.mu.
func (c *dialingChore) opened(e *entry) (pin bool) {
	if e.dest == noTarget {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	tg := c.targets.at(e.dest)
	if tg == nil {
		return false
	}
	tg.live++
	return c.ports.wants(tg.live) && c.heatLocked(tg, e, e.tokens, e.t.now())
}

// heatLocked has tg judged if its connections take many ports. It reports
// whether the loop has to be pinned for that. The caller holds mu.
func (c *dialingChore) heatLocked(tg *target, e *entry, tokens *token, now int64) (pin bool) {
	if tg.index == sharedTarget || tg.hot || !c.ports.wants(tg.taken(now)) {
		return false
	}
	tg.hot = true
	tg.origin = Origin{Role: e.role, Name: e.name}
	tg.site, tg.tokens = e.site, tokens
	return c.callLocked(now)
}

// closed counts a connection that has ended. It may call for a count of the
// ports that are taken.
func (c *dialingChore) closed(t *Tracker, e *entry) {
	if e.dest == noTarget {
		return
	}
	e.mu.Lock()
	last, uses, tokens := e.final(), e.useCount, e.tokens
	e.mu.Unlock()
	first := last.ok && last.state == Established && last.recvQueue == 0 && e.flags.Load()&(flagLinger|flagCloseWrite) == 0
	now := t.now()
	c.mu.Lock()
	tg := c.targets.at(e.dest)
	if tg == nil {
		c.mu.Unlock()
		return
	}
	tg.live = max(tg.live-1, 0)
	tg.usedAt = now
	tg.ended++
	tg.usedTimes += uint64(uses)
	if first {
		tg.churned(now)
	}
	pin := first && c.heatLocked(tg, e, tokens, now)
	c.mu.Unlock()
	if pin {
		t.pin(+1)
	}
}

// thing returns a subject that stands for tg.
func (tg *target) thing(t *Tracker) *thing {
	return &thing{
		kind: SubjectTarget, role: tg.origin.Role, name: tg.key.name, target: tg.key.target,
		series: t.judge.seriesOf(tg.origin.Role, tg.key.name),
		site:   tg.site, siteRole: "dial", tokens: tg.tokens,
	}
}

// judgeTargets judges the targets that something was noticed about, and reports
// whether there are any left.
func (c *dialingChore) judgeTargets(t *Tracker, now int64) (busy bool) {
	var hot []*target
	c.mu.Lock()
	for _, tg := range c.targets.all {
		if tg != nil && tg.hot {
			hot = append(hot, tg)
		}
	}
	c.mu.Unlock()
	for _, tg := range hot {
		storm, ports := c.judgeStorm(t, tg, now), c.judgePorts(t, tg, now)
		if storm || ports {
			busy = true
			continue
		}
		c.mu.Lock()
		tg.hot = false
		c.mu.Unlock()
	}
	return busy
}

// judgeStorm reports whether it has to be called again.
func (c *dialingChore) judgeStorm(t *Tracker, tg *target, now int64) (again bool) {
	open := tg.storm != nil && tg.storm.finding != nil
	c.mu.Lock()
	sum := tg.recent(now)
	v := verdict{}
	if sum.stormy(open) && !tg.origin.Expect.ignores(KindDialStorm) && !t.cfg.Load().Off {
		v = verdict{kind: KindDialStorm, since: now - int64(stormWindow*time.Second)}
		if !open {
			tg.storm = tg.thing(t)
			tg.storm.facts = func(pub *Finding, now int64) { c.describeStorm(tg, pub, now) }
		}
	}
	c.mu.Unlock()
	if v.kind == "" && !open {
		return false
	}
	tg.storm.judge(t, v, now)
	return v.kind != ""
}

// describeStorm adds to a finding what is known of the dials to tg.
func (c *dialingChore) describeStorm(tg *target, pub *Finding, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum, ev := tg.recent(now), &pub.Evidence
	if sum.dials == 0 {
		return
	}
	ev.note(noteDials, fmt.Sprintf("%s times in %ds", thousands(int(sum.dials)), stormWindow))
	ev.note(noteGivenUp, fmt.Sprintf("%s (%d %%)", thousands(int(sum.lost)), 100*sum.lost/sum.dials))
	if sum.lost > 0 {
		ev.note(noteAfter, age(sum.took/time.Duration(sum.lost))+" on average")
	}
	ev.note(noteInProgress, thousands(tg.dialing))
}

const (
	noteDials      = "dialed"
	noteGivenUp    = "given up by this program"
	noteAfter      = "after"
	noteInProgress = "in progress"
)

// remoteOf returns the address of the peer, in the form of attempts.
func remoteOf(c *net.TCPConn) netip.AddrPort { return addrPort(c.RemoteAddr()) }
