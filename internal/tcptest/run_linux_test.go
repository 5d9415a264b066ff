package tcptest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// pace is the scale of the suite: a tracker's minute is a second of the kernel.
// Every threshold is the default one.
const pace = 60

// patience is how long, in real time, a script waits for the kernel.
const patience = 15 * time.Second

// run is a script that runs, with a tracker of its own.
type run struct {
	testing.TB
	s    *script
	rng  *rand.Rand
	tr   *tcpstate.Tracker
	clk  *testclock.Clock
	unit time.Duration // T
	wg   sync.WaitGroup

	conns     map[string]net.Conn
	addrs     map[string][2]net.Addr // of connections that were closed, too
	others    []net.Conn             // without a name
	listeners map[string]net.Listener
	targets   map[string]string // addresses of listeners
	dials     map[string]*backgroundDial
	uses      map[string]func()
	restores  map[string]func()
	heals     map[string]func()
	servers   map[string]*server
	clients   map[string]*httppool.Transport
	responses map[string]*http.Response
	waiters   map[string]chan error // background work by the name of its connection
	pools     map[string]*dbPool
	drips     map[string]*dripConn
	hosts     map[string]*host
	heads     map[net.Conn]int // bytes of a request head that were sent
	ports     [2]uint16        // that dials may use; zeros: any

	tlsServer, tlsClient *tls.Config

	begun    time.Time // by the clock
	acted    time.Time // by the clock: when the last statement ended that does not only wait
	waited   time.Duration
	expected []expectation
	verdict  time.Duration
	allowed  []tcpstate.Kind
	seen     []tcpstate.Kind

	mu     sync.Mutex // guards following fields
	opened []tcpstate.Finding
	dialed []tcpstate.DialInfo
}

// expectation is a finding that must be there.
type expectation struct {
	kind     tcpstate.Kind
	severity string // "": any
	count    int
}

// result is what came of a script.
type result struct {
	verdict time.Duration // from the beginning of the fault, by the tracker's clock
	seen    []tcpstate.Kind
	took    time.Duration
}

// runScript runs s and returns what was found, and an error that names the line
// when that is not what was expected.
func runScript(t testing.TB, s *script, seed uint64) (result, error) {
	start := time.Now()
	r := newRun(t, s, seed)
	err := r.do(s.body)
	if err == nil {
		err = r.finish()
	}
	return result{verdict: r.verdict, seen: r.seen, took: time.Since(start)}, err
}

func newRun(t testing.TB, s *script, seed uint64) *run {
	h := fnv.New64a()
	h.Write([]byte(s.file))
	r := &run{
		TB: t, s: s, rng: rand.New(rand.NewPCG(seed, h.Sum64())),
		tr:        &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)},
		unit:      s.threshold(),
		conns:     make(map[string]net.Conn),
		addrs:     make(map[string][2]net.Addr),
		listeners: make(map[string]net.Listener),
		targets:   make(map[string]string),
		dials:     make(map[string]*backgroundDial),
		uses:      make(map[string]func()),
		restores:  make(map[string]func()),
		heals:     make(map[string]func()),
		servers:   make(map[string]*server),
		clients:   make(map[string]*httppool.Transport),
		responses: make(map[string]*http.Response),
		waiters:   make(map[string]chan error),
		pools:     make(map[string]*dbPool),
		drips:     make(map[string]*dripConn),
		hosts:     make(map[string]*host),
		heads:     make(map[net.Conn]int),
	}
	everythingOn(&r.tr.Config)
	r.clk = testclock.Install(r.tr)
	r.clk.Pace(pace)
	stop := r.tr.Observe(&tcpstate.Observer{
		Opened:  r.told,
		Changed: r.told,
		DialDone: func(d tcpstate.DialInfo) any {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.dialed = append(r.dialed, d)
			return nil
		},
	})
	r.begun, r.acted = r.clk.Now(), r.clk.Now()
	t.Cleanup(func() {
		stop()
		r.tr.Close()
		testclock.Remove(r.tr)
	})
	leaktest.Check(t, r.tr, leaktest.IgnoreFindings()) // the script looks at them
	t.Cleanup(r.close)
	return r
}

func (r *run) told(f tcpstate.Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = append(r.opened, f)
}

// close ends what the script has left open, and waits for what ran in the
// background.
func (r *run) close() {
	for _, p := range r.pools {
		p.shut()
	}
	for _, s := range r.servers {
		s.releaseAll()
	}
	for _, d := range r.drips {
		d.flow()
	}
	for _, resp := range r.responses {
		resp.Body.Close()
	}
	for _, d := range r.dials {
		d.cancel()
	}
	for _, c := range slices.AppendSeq(r.others, maps.Values(r.conns)) {
		if tc := tcpOf(c); tc != nil {
			_ = tc.SetLinger(0) // nothing is to stay in TIME-WAIT
		}
		c.Close()
	}
	for _, ln := range r.listeners {
		ln.Close()
	}
	for _, c := range r.clients {
		c.CloseIdleConnections()
	}
	for _, s := range r.servers {
		s.close()
	}
	r.wg.Wait()
}

// do runs statements, with a pause here and there, but not where something may
// be found at once.
func (r *run) do(body []statement) error {
	for i := range body {
		st := &body[i]
		if err := st.verb.run(r, st); err != nil {
			return at(st, err)
		}
		if !slices.Contains([]string{"wait", "expect", "allow"}, st.name) {
			r.acted = r.clk.Now()
		}
		expects := i+1 < len(body) && body[i+1].name == "expect"
		if r.rng.IntN(3) == 0 && !expects {
			if err := r.pass(time.Duration(r.rng.IntN(300)) * time.Millisecond); err != nil {
				return at(st, err)
			}
		}
	}
	return nil
}

// placed is an error that names its line.
type placed struct{ error }

func at(st *statement, err error) error {
	if p := (placed{}); errors.As(err, &p) {
		return err // of a line in its block
	}
	return placed{fmt.Errorf("%s: %s: %w", st.at, st.name, err)}
}

// pass lets time pass, and refuses what is found meanwhile.
func (r *run) pass(d time.Duration) error {
	r.clk.Settle()
	for d > 0 {
		step := min(d, time.Second)
		d -= step
		r.clk.Advance(step)
		if err := r.check(); err != nil {
			return err
		}
	}
	return nil
}

// check refuses findings that nobody expects.
func (r *run) check() error {
	for _, f := range r.findings() {
		if err := admits(&f); err != nil {
			return err
		}
		if !slices.Contains(r.allowed, f.Kind) && !slices.Contains(r.allowed, tcpstate.Kind(f.Severity.String()+" "+string(f.Kind))) {
			return fmt.Errorf("after %v: unexpected %s\n%s", r.elapsed(), describeFinding(&f), f.String())
		}
	}
	return nil
}

// oneSided are the kinds whose cause only the other end knows, or something
// between. Their reports say so, and no others.
var oneSided = []tcpstate.Kind{"dial.tuple_stuck", "idle.unverifiable", "reset.unexplained"}

func admits(f *tcpstate.Finding) error {
	const words = "cannot be known from this end"
	text := strings.Join(strings.Fields(f.String()), " ")
	if says := strings.Contains(text, words); says != slices.Contains(oneSided, f.Kind) {
		return fmt.Errorf("%q is in the report: %v\n%s", words, says, f.String())
	}
	return nil
}

func (r *run) elapsed() time.Duration { return r.clk.Now().Sub(r.begun).Round(time.Millisecond) }

// findings returns what is open now and notes its kinds. Single events that are
// only counted matter to scripts about them, and to mixtures.
func (r *run) findings() []tcpstate.Finding {
	fs := r.tr.Findings()
	for _, f := range r.tr.Counted() {
		if r.s.class == mixture || f.Kind == r.s.kind {
			fs = append(fs, f)
		}
	}
	for i := range fs {
		if !slices.Contains(r.seen, fs[i].Kind) {
			r.seen = append(r.seen, fs[i].Kind)
		}
	}
	return fs
}

// finish lets a case go on for a while, in which its findings stay what they
// are, and asks whether a twin was long enough.
func (r *run) finish() error {
	if r.s.twin {
		if longEnough := 3 * r.unit; r.waited < longEnough {
			return fmt.Errorf("%s: the twin runs for %v, of at least %v", r.s.file, r.waited, longEnough)
		}
		return nil
	}
	if err := r.pass(r.unit / 2); err != nil {
		return fmt.Errorf("%s: at its end: %w", r.s.file, err)
	}
	left := r.findings()
	for _, x := range r.expected {
		if n := len(ofKind(left, x.kind, x.severity)); n != x.count {
			return fmt.Errorf("%s: at its end %d of %d %s are open", r.s.file, n, x.count, x.kind)
		}
	}
	if r.s.class != mixture {
		return nil
	}
	for _, k := range []tcpstate.Kind{r.s.kind, r.s.also} {
		if !slices.Contains(r.seen, k) {
			return fmt.Errorf("%s: nobody expected %s", r.s.file, k)
		}
	}
	for _, k := range r.seen {
		if !r.s.about(k) {
			return fmt.Errorf("%s: a mixture of two kinds, and %s", r.s.file, k)
		}
	}
	return nil
}

// ofKind returns those of kind. Some are a warning while single events of the
// same kind are counted: when there are some of the severity, it is those.
func ofKind(fs []tcpstate.Finding, kind tcpstate.Kind, severity string) []tcpstate.Finding {
	var all, some []tcpstate.Finding
	for _, f := range fs {
		if f.Kind != kind {
			continue
		}
		all = append(all, f)
		if f.Severity.String() == severity {
			some = append(some, f)
		}
	}
	if len(some) > 0 {
		return some
	}
	return all
}

func countKind(fs []tcpstate.Finding, k tcpstate.Kind) int {
	n := 0
	for i := range fs {
		if fs[i].Kind == k {
			n++
		}
	}
	return n
}

func describeFinding(f *tcpstate.Finding) string {
	site := ""
	if len(f.Sites) > 0 {
		site = " site=" + f.Sites[0].Role
	}
	return fmt.Sprintf("%s cause=%q severity=%s phase=%s name=%q role=%s%s", f.Kind, f.Cause, f.Severity, f.Phase, f.Subject.Name, f.Subject.Role, site)
}

// until polls cond in real time; the tracker's clock stands still.
func (r *run) until(what string, cond func() (bool, error)) error {
	for end, pause := time.Now().Add(patience), 100*time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		ok, err := cond()
		if ok || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s", patience, what)
		}
		time.Sleep(pause)
	}
}

// background runs f, whose result belongs to name.
func (r *run) background(name string, f func() error) {
	done := make(chan error, 1)
	r.waiters[name] = done
	r.wg.Go(func() { done <- f() })
}

func (r *run) number(text string) (int, error) { return number(r.rng, text) }

func (r *run) duration(text string) (time.Duration, error) { return duration(r.rng, text, r.unit) }

func (r *run) conn(name string) (net.Conn, error) {
	if c := r.conns[name]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("there is no connection %q", name)
}

// tcp returns the *net.TCPConn of a connection, for the fault kit.
func (r *run) tcp(name string) (*net.TCPConn, error) {
	c, err := r.conn(name)
	if err != nil {
		return nil, err
	}
	if tc := tcpOf(c); tc != nil {
		return tc, nil
	}
	return nil, fmt.Errorf("%q is no TCP connection", name)
}

// socket returns the connection, the listener or the dial in progress of that
// name.
func (r *run) socket(name string) (syscall.Conn, error) {
	if d := r.dials[name]; d != nil && r.conns[name] == nil {
		return d.socket()
	}
	if ln := r.listeners[name]; ln != nil {
		return ln.(syscall.Conn), nil
	}
	return r.tcp(name)
}

func (r *run) watch(name string) (*tcpstate.Watch, error) {
	c, err := r.conn(name)
	if err != nil {
		return nil, err
	}
	w := r.tr.Of(c)
	if w == nil {
		return nil, fmt.Errorf("%q is not tracked", name)
	}
	return w, nil
}

// keep gives c a name. Whatever had it goes on without one.
func (r *run) keep(name string, c net.Conn) {
	if old := r.conns[name]; old != nil {
		r.others = append(r.others, old)
	}
	r.conns[name] = c
	r.addrs[name] = [2]net.Addr{c.LocalAddr(), c.RemoteAddr()}
}

func tcpOf(c net.Conn) *net.TCPConn {
	for c != nil {
		switch v := c.(type) {
		case *net.TCPConn:
			return v
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// expectOf returns what the options declare.
func (r *run) expectOf(st *statement) (x tcpstate.Expect, err error) {
	_, x.Pooled = st.opts["pooled"]
	_, x.HalfClose = st.opts["halfclose"]
	_, x.LongLived = st.opts["longlived"]
	if d := st.opts["silence"]; d != "" {
		if x.Silence, err = r.duration(d); err != nil {
			return x, err
		}
	}
	if d := st.opts["heartbeat"]; d != "" {
		if x.Heartbeat, err = r.duration(d); err != nil {
			return x, err
		}
	}
	if k := st.opts["ignore"]; k != "" {
		for k := range strings.SplitSeq(k, ",") {
			x.Ignore = append(x.Ignore, tcpstate.Kind(k))
		}
	}
	return x, nil
}

// context returns the context of the options of st.
func (r *run) context(st *statement) (context.Context, error) {
	ctx := r.Context()
	if text := st.opts["deadline"]; text != "" {
		d, err := r.duration(text)
		if err != nil {
			return nil, err
		}
		// It is far away in real time.
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.clk.Now().Add(d))
		r.Cleanup(cancel)
	}
	return ctx, nil
}

// deadline is for operations that must end soon.
func deadline() time.Time { return time.Now().Add(tcptest.Deadline) }
