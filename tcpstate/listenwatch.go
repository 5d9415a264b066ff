package tcpstate

import (
	"math"
	"runtime"
	"strings"
	"sync"

	"github.com/tcpstate/tcpstate-go/internal/sites"
	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// listeningChore looks at the accept queues: with the sweep, and every second
// while somebody waits in one. Its zero value has no listeners.
type listeningChore struct {
	mu   sync.Mutex // guards following fields; taken after judgement.mu, before Tracker.mu
	m    map[*Listening]struct{}
	gone []*Listening // left, not yet known to the loop
	due  int64        // 0: nothing to do

	syn synWatch
	buf [tcpinfo.MaxSize]byte // of the loop
}

// add takes l in and keeps the loop running for it.
func (c *listeningChore) add(t *Tracker, l *Listening) {
	c.mu.Lock()
	if c.m == nil {
		c.m = make(map[*Listening]struct{})
	}
	c.m[l] = struct{}{}
	c.due = t.now()
	c.mu.Unlock()
	l.follow()
}

// tellsQueues: elsewhere there is nothing to look at.
const tellsQueues = runtime.GOOS == "linux"

// follow keeps the loop running for l, unless the tracker is off.
func (l *Listening) follow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pin.hold(l.t, tellsQueues && !l.removed && !l.t.cfg.Load().Off)
}

// remove takes l out. The loop, if it runs, ends what is open about it.
func (c *listeningChore) remove(t *Tracker, l *Listening) {
	t.mu.Lock()
	running := t.running
	t.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.m[l]; !ok {
		return
	}
	delete(c.m, l)
	if running {
		c.gone = append(c.gone, l)
		c.due = t.now()
	}
}

// soon makes the loop look at the listeners.
func (c *listeningChore) soon(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) > 0 {
		c.due = now
	}
}

// reconfigured follows Config.Off.
func (c *listeningChore) reconfigured(now int64) {
	c.soon(now)
	for _, l := range c.sorted() {
		l.follow()
	}
}

func (c *listeningChore) sorted() []*Listening {
	all := c.all()
	sortListeners(all)
	return all
}

func (c *listeningChore) all() []*Listening {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*Listening, 0, len(c.m))
	for l := range c.m {
		all = append(all, l)
	}
	return all
}

func (c *listeningChore) next() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.due
}

func (c *listeningChore) run(t *Tracker, now int64) {
	c.mu.Lock()
	gone := c.gone
	c.gone, c.due = nil, 0
	c.mu.Unlock()
	for _, l := range gone {
		l.watch.silence(t, now)
	}
	counts := c.syn.take()
	off := t.cfg.Load().Off
	// Where nobody waits the next sweep is soon enough: then the loop is awake.
	next := int64(math.MaxInt64)
	all := c.all()
	for _, l := range all {
		if off {
			l.watch.silence(t, now)
			continue
		}
		next = t.judge.agenda.sweep
		if l.look(now, c.buf[:]) {
			next = min(next, now+int64(suspectInterval))
		}
		if n, ok := counts[l]; ok && l.drain(now) == notDraining {
			l.judgeSYNs(n, now)
		}
	}
	if !off && len(all) > 0 {
		c.syn.look(t, all, now)
	}
	c.plan(now, next)
}

// plan sets when the chore runs next, unless something has come meanwhile.
func (c *listeningChore) plan(now, next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.due != 0 || next == math.MaxInt64 {
		return
	}
	c.due = max(next, now+1)
}

// listenWatch is what the loop knows of a listener.
type listenWatch struct {
	hist        queueHistory
	queue       queueLook // the last one
	silent      int       // connections that never got a byte and sent none
	silentSince int64
	about       [3]listenSubject
	syns        synCount
	synSince    int64 // since when handshakes do not get on; 0: they do
}

// The findings about a listener: about its queue, its connections, and those
// that do not become connections.
const (
	aboutQueue = iota
	aboutSilence
	aboutSYNs
)

func (w *listenWatch) openKinds() []Kind {
	var kinds []Kind
	for i := range w.about {
		if f := w.about[i].finding; f != nil {
			kinds = append(kinds, f.kind)
		}
	}
	return kinds
}

// silence ends the findings about a listener.
func (w *listenWatch) silence(t *Tracker, now int64) {
	for i := range w.about {
		if s := &w.about[i]; s.finding != nil {
			t.settle(s, &s.finding, verdict{}, now)
		}
	}
}

// look judges l. It reports whether to look again soon.
func (l *Listening) look(now int64, buf []byte) (soon bool) {
	t, w := l.t, &l.watch
	queue, limit, known, err := l.readQueue(buf)
	if err != nil {
		l.leave() // closed behind our back; what is open ends in the next pass
		return true
	}
	if l.drain(now) != notDraining {
		w.silence(t, now)
		w.hist, w.synSince = queueHistory{}, 0
		return false
	}
	if !known {
		return false
	}
	seen := queueLook{
		queue: queue, limit: limit, accepting: l.accepting.Load() > 0, accepted: l.accepted.Load(),
		failed: l.failed.Load(), serving: l.serving.Load() != 0,
	}
	w.hist.observe(now, seen)
	if w.hist.since != 0 {
		seen.reading = l.blockedIn()
	}
	w.queue = seen
	s := l.subject(aboutQueue)
	open := Kind("")
	if s.finding != nil {
		open = s.finding.kind
	}
	t.settle(s, &s.finding, w.hist.verdict(&seen, open, &t.cfg.Load().limits), now)
	l.judgeSilence(now)
	return queue > 0 || s.finding != nil
}

func (l *Listening) subject(which int) *listenSubject {
	s := &l.watch.about[which]
	if s.l == nil {
		s.l, s.which = l, which
	}
	return s
}

// blockedIn returns the connection that an outer Accept is reading from, while
// nobody is in ours: a Read that began there and has neither got a byte nor
// ended. It is nil where there is none, or where that cannot be told.
func (l *Listening) blockedIn() *entry {
	l.mu.Lock()
	e, site := l.inside, l.insideSite
	l.mu.Unlock()
	if e == nil || acceptAbove(site) == 0 {
		return nil
	}
	s := l.t.judge.sampler
	s.full, s.ask, s.poll, s.fresh = true, false, false, false
	var seen observation
	if err := e.sampled(s, &seen); err != nil || !s.sample.ok || seen.readErr != readNothing || e.readEpoch.Load() >= markFirst || s.sample.consumed() > 0 {
		return nil
	}
	return e
}

// firstRead notes where the first Read of a connection is made, when nobody
// accepts meanwhile and it may be an outer Accept that reads.
func (e *entry) firstRead() {
	l := e.listener
	if l == nil || !l.nested.Load() || l.accepting.Load() > 0 {
		return
	}
	id := sites.Capture(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.removed {
		l.inside, l.insideSite = e, id
	}
}

// acceptAbove counts the methods named Accept on a stack.
func acceptAbove(id sites.ID) (n int) {
	for _, f := range id.Frames() {
		if strings.HasSuffix(f.Function, ").Accept") || strings.HasSuffix(f.Function, ".Accept") && !isPackageFunc(f.Function) {
			n++
		}
	}
	return n
}

// isPackageFunc reports whether a function, as the runtime names it, has no
// receiver.
func isPackageFunc(function string) bool {
	name := function[strings.LastIndexByte(function, '/')+1:]
	return strings.Count(name, ".") == 1
}
