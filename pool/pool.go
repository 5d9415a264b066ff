package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// ErrClosed is returned by Get after Close.
var ErrClosed = errors.New("pool: closed")

// Defaults of the fields of Pool.
const (
	DefaultMaxConns        = 64
	DefaultMaxConnLifetime = time.Hour
	DefaultMaxConnIdleTime = 30 * time.Minute
	DefaultProbeAfter      = time.Minute
	DefaultDialTimeout     = 30 * time.Second
	DefaultCloseTimeout    = 5 * time.Second
)

// Pool keeps connections for reuse, separately for each network and address. The
// zero value is ready for use. A Pool must not be copied, and its fields must
// not change after the first Get. All methods may be called from any goroutine.
//
// While there are connections, a timer looks after them every second. It keeps
// them, and the pool, from being collected: a pool that is not used any more has
// to be closed.
//
// A duration of 0 is the default, a negative one means off.
type Pool struct {
	// Dialer makes the connections. Its name is that of the pool where it has
	// none of its own.
	Dialer dialer.Dialer

	// Dial, if it is set, makes the connections in place of Dialer.NetDialer:
	// to go through a proxy, or to return a *tls.Conn. The rest of Dialer goes
	// on to apply, see dialer.Dialer.Wrap. The context is that of the Get which
	// needs the connection, without its end: a connection that comes too late
	// for one borrower serves another. A dialer.Dialer that is used within has
	// to have the Tracker of Dialer; its connections keep its name.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Name is the name of the pool in reports and metrics: "payments", "cache".
	Name string

	// MaxConns limits the connections to one address, idle, lent out and being
	// dialed. Zero is DefaultMaxConns. A negative value is an error of the
	// program, and as good as 1.
	MaxConns int

	// MinIdleConns is how many idle connections are kept ready for each address
	// that was asked for within MaxConnIdleTime, as far as MaxConns allows. They
	// are dialed in the background, within about a second; at most 64 a second,
	// so that a server which comes back is not met by all at once.
	MinIdleConns int

	// MaxConnLifetime is the age after which a connection is not handed out any
	// more, so that addresses that move and load balancers are followed. Each
	// connection lives longer by a random part of MaxConnLifetimeJitter, which
	// is a tenth of MaxConnLifetime by default: those made together do not end
	// together. Zero is DefaultMaxConnLifetime.
	MaxConnLifetime       time.Duration
	MaxConnLifetimeJitter time.Duration

	// MaxConnIdleTime is how long a connection may be idle before it is closed.
	// Zero is DefaultMaxConnIdleTime.
	MaxConnIdleTime time.Duration

	// ProbeAfter is how long a connection may be idle before its peer is asked
	// by a keepalive probe whether it is still there, when the connection is
	// about to be handed out (see tcpstate.Watch.Probe). That takes a round trip
	// and up to 10 ms more, and for one that is dead a quarter of a second or
	// four round trips. Where the kernel cannot ask (see tcpstate.ProbeUnknown),
	// the connection is handed out. Zero is DefaultProbeAfter.
	ProbeAfter time.Duration

	// DialTimeout limits a dial, which goes on when the Get that began it has
	// returned because of its context. Zero is DefaultDialTimeout.
	DialTimeout time.Duration

	// CloseTimeout is how long Close waits for connections that are lent out,
	// and for sockets whose close takes long. Zero is DefaultCloseTimeout; with a
	// negative value Close waits for no loan.
	CloseTimeout time.Duration

	// FIFO hands out the connection that has been idle longest, so that all are
	// kept in use. Otherwise it is the one returned last, so that those that are
	// not needed end by MaxConnIdleTime.
	FIFO bool

	once    sync.Once
	dial    dialer.DialFunc
	tracker *tcpstate.Tracker
	known   *tcpstate.Pool
	untell  func() // ends what tell has begun
	limits  limits
	base    time.Time     // time 0 of now
	skew    *atomic.Int64 // what tests add to now; nil outside them

	closing     context.Context // ends with Close
	cancel      context.CancelFunc
	background  sync.WaitGroup // goroutines of the pool
	first       atomic.Pointer[target]
	eventsAt    atomic.Int64 // all events that came before are known
	captureNext atomic.Int64 // when all of the burst may be captured again

	mu       sync.Mutex // guards following fields; taken before that of a target
	targets  map[key]*target
	gone     totals // of targets that were dropped
	closed   bool
	timer    *time.Timer   // calls maintain; nil: never was
	armed    bool          // timer is, or maintain runs
	returned chan struct{} // closed when something comes back during Close
	doomed   []*conn       // to be closed
	closings int           // of these, and of those that are being closed
	closers  int           // goroutines that close them

	behind atomic.Uint64 // times the events were not handled yet
}

// limits is what the fields of Pool come to. Durations are in nanoseconds and
// never when off.
type limits struct {
	max, min                               int
	lifetime, jitter, idle, probe, dialing int64
	old                                    int64 // idle for so long, a connection is looked at closely
	closing                                time.Duration
}

const never = int64(1) << 62

// key is what a target is found by.
type key struct{ network, address string }

func (p *Pool) init() { p.once.Do(p.setUp) }

func (p *Pool) setUp() {
	d := p.Dialer
	if d.Name == "" {
		d.Name = p.Name
	}
	d.Expect.Pooled = true
	p.dial = d.DialContext
	if p.Dial != nil {
		p.dial = d.Wrap(p.Dial)
	}
	p.tracker = d.Tracker
	if p.tracker == nil {
		p.tracker = tcpstate.Default()
	}
	p.known = p.tracker.NewPool(tcpstate.Origin{Name: d.Name, Expect: d.Expect})
	orNever := func(d, def time.Duration) int64 {
		switch {
		case d == 0:
			return int64(def)
		case d < 0:
			return never
		}
		return int64(d)
	}
	l := limits{
		max: p.MaxConns, min: p.MinIdleConns,
		lifetime: orNever(p.MaxConnLifetime, DefaultMaxConnLifetime),
		idle:     orNever(p.MaxConnIdleTime, DefaultMaxConnIdleTime),
		probe:    orNever(p.ProbeAfter, DefaultProbeAfter),
		dialing:  orNever(p.DialTimeout, DefaultDialTimeout),
		closing:  p.CloseTimeout,
	}
	if l.max == 0 {
		l.max = DefaultMaxConns
	}
	l.max = max(l.max, 1)
	l.min = min(max(l.min, 0), l.max)
	switch {
	case p.MaxConnLifetimeJitter > 0:
		l.jitter = int64(p.MaxConnLifetimeJitter)
	case p.MaxConnLifetimeJitter == 0 && l.lifetime != never:
		l.jitter = l.lifetime / 10
	}
	if l.closing == 0 {
		l.closing = DefaultCloseTimeout
	}
	l.old = min(l.probe, l.idle, lookAfter)
	p.limits = l
	p.base = time.Now()
	p.closing, p.cancel = context.WithCancel(context.Background())
	p.targets = make(map[key]*target)
	p.returned = make(chan struct{})
	p.tell(d.Name)
}

// now returns the pool's time, in nanoseconds.
func (p *Pool) now() int64 {
	at := int64(time.Since(p.base))
	if p.skew != nil {
		at += p.skew.Load()
	}
	return at
}

// expiry returns when a connection that is made now has lived long enough.
func (p *Pool) expiry(now int64) int64 {
	l := &p.limits
	if l.lifetime == never {
		return never
	}
	at := now + l.lifetime
	if l.jitter > 0 {
		at += rand.Int64N(l.jitter)
	}
	return at
}

// Get returns a connection to address: one that is idle, or else a new one. When
// MaxConns are lent out it waits for one until ctx ends. The connection is
// returned by Close.
//
// An idle connection whose peer has closed it or is found to be gone, or that is
// too old, is closed instead of being handed out; one that has been idle for a
// second also when bytes have come that nobody asked for, except above TLS. A
// peer that closes a new connection at once, without a word, is dialed three
// times; then the borrower may see for himself. Beyond Linux the socket is asked
// each time, and on Windows a peer that has closed shows only in use.
//
// An error of the dial comes back unchanged. A dial that panics is a
// *DialPanicError. When ctx ends, Get returns its error, and a dial or a probe
// that it has begun goes on for the next borrower. After Close, Get returns
// ErrClosed.
func (p *Pool) Get(ctx context.Context, network, address string) (Conn, error) {
	p.init()
	if err := ctx.Err(); err != nil {
		return Conn{}, err
	}
	t := p.first.Load()
	for {
		if t == nil || t.key.address != address || t.key.network != network {
			var err error
			if t, err = p.target(key{network, address}); err != nil {
				return Conn{}, err
			}
		}
		c, err := t.get(ctx)
		if err != errDropped {
			if err != nil {
				return Conn{}, err
			}
			return Conn{c: c, loan: c.state.Load() >> opBits}, nil
		}
		t = nil
	}
}

// errDropped says that a target was not in use and has been dropped.
var errDropped = errors.New("dropped")

// target returns the target of k, which it makes if there is none.
func (p *Pool) target(k key) (*target, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	t := p.targets[k]
	if t == nil {
		t = newTarget(p, k)
		p.targets[k] = t
		p.first.CompareAndSwap(nil, t)
	}
	return t, nil
}

const (
	// captureEvery and captureBurst limit what Get spends on remembering who
	// calls it: a thousandth of a core. What they leave out is made up for by
	// the borrower's first read or write.
	captureEvery = int64(time.Millisecond)
	captureBurst = 100 * captureEvery
)

// capture reports whether a Get may remember its caller.
func (p *Pool) capture(now int64) bool {
	next := p.captureNext.Load()
	return next-captureBurst <= now && p.captureNext.CompareAndSwap(next, max(next, now)+captureEvery)
}
