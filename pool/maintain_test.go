package pool_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/pool"
)

func TestAConnThatIsIdleForTooLongIsClosed(t *testing.T) {
	p, addr := &pool.Pool{MaxConnIdleTime: time.Minute, ProbeAfter: -1}, startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	a, b := get(t, p, addr), get(t, p, addr)
	require.NoError(t, a.Close())
	pool.Advance(p, 59*time.Second)
	require.NoError(t, b.Close())
	require.Equal(t, 2, p.Stats().Idle)
	pool.Advance(p, time.Second)
	require.Equal(t, 1, p.Stats().Idle)
	require.EqualValues(t, 1, p.Stats().Discarded.IdleTimeout)

	pool.Skew(p, time.Minute) // without maintenance, Get sees to it
	c := get(t, p, addr)
	require.EqualValues(t, 2, p.Stats().Discarded.IdleTimeout)
	require.NoError(t, c.Close())
}

func TestAConnThatIsTooOldIsNotLentAgain(t *testing.T) {
	p, addr := &pool.Pool{MaxConnLifetime: time.Minute, MaxConnLifetimeJitter: -1}, startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	a, b, c := get(t, p, addr), get(t, p, addr), get(t, p, addr)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	pool.Skew(p, time.Minute)
	require.NoError(t, c.Close())
	require.EqualValues(t, 1, p.Stats().Discarded.MaxLifetime, "when it is returned")
	d := get(t, p, addr)
	require.EqualValues(t, 3, p.Stats().Discarded.MaxLifetime, "when it would be lent")
	require.NoError(t, d.Close())
	pool.Advance(p, time.Minute)
	require.EqualValues(t, 4, p.Stats().Discarded.MaxLifetime, "while it is idle")
}

func TestConnsThatAreMadeTogetherDoNotEndTogether(t *testing.T) {
	p, addr := &pool.Pool{MaxConnLifetime: time.Hour}, startEcho(t) // and six minutes
	pool.Freeze(p)
	newPool(t, p)
	var cs []pool.Conn
	for range 20 {
		cs = append(cs, get(t, p, addr))
	}
	for _, c := range cs {
		require.NoError(t, c.Close())
	}
	const many = 20
	pool.Advance(p, 59*time.Minute)
	require.NotZero(t, p.Stats().Discarded.IdleTimeout, "the idle time is shorter")
	left := many - int(p.Stats().Closed)
	require.Zero(t, left)

	p = &pool.Pool{MaxConnLifetime: time.Hour, MaxConnIdleTime: -1}
	pool.Freeze(p)
	newPool(t, p)
	cs = cs[:0]
	for range many {
		cs = append(cs, get(t, p, addr))
	}
	for _, c := range cs {
		require.NoError(t, c.Close())
	}
	pool.Advance(p, time.Hour-time.Second)
	require.Equal(t, many, p.Stats().Idle)
	pool.Advance(p, 3*time.Minute)
	require.NotZero(t, p.Stats().Idle, "one in a million")
	require.NotEqual(t, many, p.Stats().Idle, "the same")
	pool.Advance(p, 4*time.Minute)
	require.Zero(t, p.Stats().Idle)
}

func TestIdleConnsAreKeptReady(t *testing.T) {
	p, addr := &pool.Pool{MinIdleConns: 3, MaxConns: 4, MaxConnIdleTime: time.Hour, ProbeAfter: -1}, startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	a := get(t, p, addr)
	settled := func(n int) {
		t.Helper()
		tcptest.WaitUntil(t, "idle connections", func() bool {
			pool.Advance(p, 0)
			s := p.Stats()
			return s.Idle == n && s.Constructing == 0
		})
	}
	settled(3)
	b := get(t, p, addr)
	require.EqualValues(t, 1, p.Stats().Hits)
	settled(2) // with two lent out there is no room for more
	require.EqualValues(t, 4, p.Stats().Dials)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	settled(4)
	pool.Advance(p, 2*time.Hour)
	settled(0) // nobody asks any more
	require.Zero(t, pool.Targets(p))
	s := p.Stats()
	require.EqualValues(t, 4, s.Dials, "what is forgotten stays counted")
	require.EqualValues(t, 2, s.Gets)
	require.NoError(t, get(t, p, addr).Close())
	require.Equal(t, 1, pool.Targets(p))
}

// The maintenance of a program runs by itself.
func TestMaintenanceRunsWhileThereAreConns(t *testing.T) {
	p, addr := newPool(t, &pool.Pool{MaxConnIdleTime: time.Millisecond}), startEcho(t)
	require.NoError(t, get(t, p, addr).Close())
	tcptest.WaitUntil(t, "it to be closed", func() bool { return p.Stats().Idle == 0 })
	tcptest.WaitUntil(t, "it to be forgotten", func() bool { return pool.Targets(p) == 0 && !pool.Armed(p) })
	require.NoError(t, get(t, p, addr).Close())
	tcptest.WaitUntil(t, "maintenance", func() bool { return pool.Armed(p) })
}

func TestANewConnIsLentHoweverShortItsLife(t *testing.T) {
	for name, p := range map[string]*pool.Pool{
		"lifetime":  {MaxConnLifetime: 1, MaxConnLifetimeJitter: -1},
		"idle time": {MaxConnIdleTime: 1},
	} {
		t.Run(name, func(t *testing.T) {
			newPool(t, p)
			addr := startEcho(t)
			for n := range uint64(3) {
				c := get(t, p, addr)
				require.EqualValues(t, n+1, p.Stats().Dials)
				require.NoError(t, c.Close())
			}
			require.Zero(t, p.Stats().Hits)
		})
	}
}

func TestDialsThatFailAtOnceAreRepeatedInTheNextRound(t *testing.T) {
	const ready, rounds = 60, 100
	var dials atomic.Int64
	var down atomic.Bool
	p := &pool.Pool{MinIdleConns: ready, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if down.Load() {
			dials.Add(1)
			return nil, errors.New("down")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	pool.Freeze(p)
	newPool(t, p)
	c := get(t, p, startEcho(t))
	down.Store(true)
	for n := range int64(rounds) {
		pool.Advance(p, 0)
		require.LessOrEqual(t, dials.Load(), (n+1)*ready)
		tcptest.WaitUntil(t, "the dials to fail", func() bool { return p.Stats().Constructing == 0 })
		require.LessOrEqual(t, dials.Load(), (n+1)*ready)
	}
	require.GreaterOrEqual(t, dials.Load(), int64(rounds))
	require.NoError(t, c.Close())
}

func TestConnsThatDoNotComeBackAreAskedForAllTheSame(t *testing.T) {
	p, addr := &pool.Pool{MinIdleConns: 1, MaxConnIdleTime: time.Hour, ProbeAfter: -1}, startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	ready := func() {
		t.Helper()
		tcptest.WaitUntil(t, "an idle connection", func() bool {
			pool.Advance(p, 0)
			return p.Stats().Idle == 1
		})
	}
	for range 3 {
		require.NoError(t, get(t, p, addr).Discard())
		ready()
		pool.Skew(p, 50*time.Minute)
	}
}

// Borrowers have all slips that there are, and more can be had.
func TestConnsAreKeptReadyBeyondThoseThatAreLentOut(t *testing.T) {
	p, addr := &pool.Pool{MaxConns: 300, MinIdleConns: 100, ProbeAfter: -1}, startEcho(t)
	pool.Freeze(p)
	newPool(t, p)
	var lent []pool.Conn
	for range 64 {
		lent = append(lent, get(t, p, addr))
	}
	round := func() int {
		pool.Advance(p, 0)
		n := p.Stats()
		tcptest.WaitUntil(t, "the dials", func() bool { return p.Stats().Constructing == 0 })
		return n.Idle + n.Constructing
	}
	require.Equal(t, 64, round(), "not all at once")
	require.Equal(t, 100, round())
	require.Equal(t, 100, round())
	for _, c := range lent {
		require.NoError(t, c.Close())
	}
}
