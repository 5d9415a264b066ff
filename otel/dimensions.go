package tcpotel

import (
	"net"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

const (
	maxNames     = 50
	maxTargets   = 100
	maxFunctions = 100

	// maxSets bounds the full sets of attributes of one instrument. Those
	// beyond share sets without name, target and function, of which there are
	// a few hundred, one for each kind and severity of findings; together they
	// stay below the 2,000 at which the SDK begins to drop.
	maxSets = 1500
)

// dimensions turns what happened into the attributes of metrics. The tables
// bound every value that comes from outside, the sets their combinations.
type dimensions struct {
	names, targets, functions table
	networkType               bool
	serverAddress             bool

	dials    sets // connect.duration
	syns     sets // connect.retransmits
	shakes   sets // tls.handshake.duration
	conns    sets // close_wait.duration, rtt
	closes   sets // connection.duration
	states   sets // connection.count
	bytes    sets // connection.io
	resent   sets // connection.retransmits
	findings sets // finding.count, .opened, .cleared
	queues   sets // listener.accept_queue.usage, .limit
	pools    sets // pool.connection.*
	reasons  sets // report.suppressed
}

func (d *dimensions) init(c *config) {
	d.networkType, d.serverAddress = c.networkType, c.serverAddress
	d.names.limit, d.targets.limit, d.functions.limit = maxNames, maxTargets, maxFunctions
}

func (d *dimensions) ofDial(dial *tcpstate.DialInfo) key {
	return key{name: d.names.of(dial.Name), target: d.targetOf(tcpstate.Client, dial.Target)}
}

func (d *dimensions) ofConn(c *tcpstate.ClosedInfo) key {
	return key{
		role: c.Role.String(), name: d.names.of(c.Name),
		target: d.targetOf(c.Role, c.Target), network: d.networkOf(c.Remote),
	}
}

func (d *dimensions) ofFinding(f *tcpstate.Finding) key {
	return d.ofGroup(f.Kind, f.Severity, f.Subject.Name, function(f.Sites))
}

func (d *dimensions) ofGroup(k tcpstate.Kind, s tcpstate.Severity, name, function string) key {
	return key{kind: k, severity: s, name: d.names.of(name), function: d.functions.of(function)}
}

func (d *dimensions) ofCount(f *tcpstate.FindingCount) key {
	return d.ofGroup(f.Kind, f.Severity, f.Name, f.Frame.Function)
}

func (d *dimensions) targetOf(r tcpstate.Role, target string) string {
	if !d.serverAddress || r != tcpstate.Client {
		return ""
	}
	return d.targets.of(target)
}

func (d *dimensions) networkOf(a net.Addr) string {
	if !d.networkType {
		return ""
	}
	return networkType(a)
}

// function returns the function to open first.
func function(sites []tcpstate.Site) string {
	if len(sites) == 0 || len(sites[0].Frames) == 0 {
		return ""
	}
	return sites[0].Frames[0].Function
}

// table is a bounded set of strings: the first ones stay, all later ones are
// _OTHER.
type table struct {
	limit int
	mu    sync.Mutex // guards following fields
	known map[string]bool
}

func (t *table) of(s string) string {
	if s == "" || s == valueOther || t.has(s) {
		return s
	}
	return valueOther
}

// has reports whether s is in the table, or has found room there.
func (t *table) has(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known[s] {
		return true
	}
	if len(t.known) >= t.limit {
		return false
	}
	if t.known == nil {
		t.known = make(map[string]bool)
	}
	t.known[s] = true
	return true
}

// key is a set of attributes before it is one. Empty fields are left out.
type key struct {
	role, name, target, network string
	errorType, reason           string
	state, direction            string
	kind                        tcpstate.Kind
	severity                    tcpstate.Severity // of the finding, which need not be that of its kind
	function                    string
	suppressed                  string
	pool, poolState, discard    string
	db                          bool // pool and poolState are called as for databases
}

// folded returns k without what multiplies the sets.
func (k key) folded() key {
	if k.kind != "" {
		k.name, k.function = valueOther, valueOther
	}
	for _, s := range []*string{&k.name, &k.target, &k.function, &k.pool} {
		if *s != "" {
			*s = valueOther
		}
	}
	return k
}

func (k *key) set() attribute.Set {
	var a attrs
	a.str(keyRole, k.role)
	a.str(keyConnName, k.name)
	a.target(k.target)
	a.str(keyNetworkType, k.network)
	a.str(keyErrorType, k.errorType)
	a.str(keyCloseReason, k.reason)
	a.str(keyState, k.state)
	a.str(keyDirection, k.direction)
	if k.kind != "" {
		a.str(keyKind, string(k.kind))
		a.str(keySeverity, k.severity.String())
	}
	a.str(keyCodeFunction, k.function)
	a.str(keySuppressed, k.suppressed)
	if k.db {
		a.str(keyDBPoolName, k.pool)
		a.str(keyDBPoolState, k.poolState)
	} else {
		a.str(keyPoolName, k.pool)
		a.str(keyPoolState, k.poolState)
	}
	a.str(keyDiscard, k.discard)
	return attribute.NewSet(a...)
}

// sets are the sets of attributes of one or a few instruments that have the
// same ones.
type sets struct {
	mu sync.Mutex // guards following fields
	m  map[key]*series
}

// series is a set in the forms that recording takes: made once, so that
// recording allocates nothing.
type series struct {
	add     []metric.AddOption
	record  []metric.RecordOption
	observe []metric.ObserveOption
}

func (s *sets) get(k key) *series {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.m[k]; found != nil {
		return found
	}
	if len(s.m) >= maxSets {
		k = k.folded()
		if found := s.m[k]; found != nil {
			return found
		}
	}
	if s.m == nil {
		s.m = make(map[key]*series)
	}
	o := metric.WithAttributeSet(k.set())
	made := &series{
		add:     []metric.AddOption{o},
		record:  []metric.RecordOption{o},
		observe: []metric.ObserveOption{o},
	}
	s.m[k] = made
	return made
}
