package deadpeer_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/deadpeer"
)

func TestWithin(t *testing.T) {
	for d, want := range map[time.Duration][3]int{ // idle, interval, count
		-time.Second:            {1, 1, 1},
		time.Millisecond:        {1, 1, 1},
		2 * time.Second:         {1, 1, 1},
		3 * time.Second:         {1, 1, 2},
		3999 * time.Millisecond: {1, 1, 2},
		4 * time.Second:         {1, 1, 3},
		5 * time.Second:         {1, 1, 3},
		8 * time.Second:         {3, 1, 3},
		10 * time.Second:        {2, 2, 3},
		20 * time.Second:        {4, 4, 3},
		time.Minute:             {12, 12, 3},
		90 * time.Second:        {15, 19, 3},
		188 * time.Second:       {15, 15, 9}, // what package net sets
		10 * time.Minute:        {15, 51, 9},
		24 * time.Hour:          {15, 7678, 9},
		365 * 24 * time.Hour:    {15, 7678, 9},
	} {
		p := deadpeer.Within(d)
		sec := func(n int) time.Duration { return time.Duration(n) * time.Second }
		assert.Equal(t, deadpeer.Plan{
			KeepAlive: net.KeepAliveConfig{Enable: true, Idle: sec(want[0]), Interval: sec(want[1]), Count: want[2]},
			User:      sec(want[0]+want[1]*want[2]) - sec(want[1])/2,
		}, p, "%v", d)
	}
}

func TestEveryPlanKeepsItsPromise(t *testing.T) {
	for d := deadpeer.Shortest; d <= deadpeer.Longest; d += d/97 + 7*time.Millisecond {
		p := deadpeer.Within(d)
		k := p.KeepAlive
		total := k.Idle + time.Duration(k.Count)*k.Interval
		require.LessOrEqual(t, total, d)
		require.Less(t, p.User, total)
		require.Greater(t, p.User, total-k.Interval, "all probes are sent before")
		require.GreaterOrEqual(t, k.Idle, time.Second)
		require.GreaterOrEqual(t, k.Interval, time.Second)
		require.LessOrEqual(t, k.Idle, 15*time.Second)
		if d >= 4*time.Second {
			require.GreaterOrEqual(t, k.Count, 3)
		}
		require.GreaterOrEqual(t, total, d/2, "%v: not much earlier than asked for", d)
	}
}

func TestConfigured(t *testing.T) {
	assert.False(t, deadpeer.Configured(0, net.KeepAliveConfig{}))
	assert.False(t, deadpeer.Configured(0, net.KeepAliveConfig{Idle: time.Second}), "net ignores it too")
	assert.True(t, deadpeer.Configured(time.Minute, net.KeepAliveConfig{}))
	assert.True(t, deadpeer.Configured(-1, net.KeepAliveConfig{}))
	assert.True(t, deadpeer.Configured(0, net.KeepAliveConfig{Enable: true}))
}

// loop is a connection that claims to be its own wrapper.
type loop struct{ net.Conn }

func (l loop) NetConn() net.Conn { return l }

func TestApplyToWhatIsNotTCP(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, c := range []net.Conn{nil, a, loop{}, (*net.TCPConn)(nil), new(net.TCPConn)} {
		deadpeer.Apply(c, time.Minute, false)
		deadpeer.Apply(c, time.Minute, true)
	}
}
