// Package deadpeer makes the kernel find a dead peer in a given time, whether
// the connection is idle or has data under way.
package deadpeer

import (
	"net"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// The limits of what can be asked for. The kernel counts keepalive in whole
// seconds: one of silence, and one for an answer.
const (
	Shortest = 2 * time.Second
	Longest  = 24 * time.Hour
)

const (
	mostIdle = 15 // seconds, as package net has it: middleboxes forget idle connections
	fewest   = 3  // probes, so that one or two may be lost
	most     = 9  // probes, as package net has it
)

// Plan is the settings of a socket: they end an idle connection after Idle and
// Count times Interval without a sign of the peer, and one with unacknowledged
// data after User.
type Plan struct {
	KeepAlive net.KeepAliveConfig
	User      time.Duration // TCP_USER_TIMEOUT
}

// Within returns the plan for d, between Shortest and Longest. It has three
// probes or more from 4 seconds on, else what there is room for.
//
// The kernel's timers are late by up to an eighth each (kernel/time/timer.c),
// retransmissions by more, so from 5 seconds on a fifth of d is kept for that.
func Within(d time.Duration) Plan {
	d = min(max(d, Shortest), Longest)
	total := int(max(d*4/5, min(d, 4*time.Second)) / time.Second)
	idle := min(max(total/4, 1), mostIdle)
	rest := total - idle
	count := min(max(rest/mostIdle, fewest), most, rest)
	interval := rest / count
	idle = min(total-count*interval, mostIdle)
	return Plan{
		KeepAlive: net.KeepAliveConfig{
			Enable: true, Count: count,
			Idle: time.Duration(idle) * time.Second, Interval: time.Duration(interval) * time.Second,
		},
		// With it the kernel does not count probes, but ends at the first one
		// that is due after this time (tcp_keepalive_timer in
		// net/ipv4/tcp_timer.c): that is to be the one after the last. For data
		// the clock starts with the first retransmission.
		User: time.Duration(idle+count*interval)*time.Second - time.Duration(interval)*time.Second/2,
	}
}

// Apply makes the kernel find a dead peer of c within d, if d is positive and c
// is a TCP connection, or a wrapper that tells so by a NetConn method. With
// configured, the keepalive of c is the application's and stays as it is.
//
// What the system refuses is left out: TCP_USER_TIMEOUT beyond Linux and on
// Multipath TCP.
func Apply(c net.Conn, d time.Duration, configured bool) {
	if d <= 0 {
		return
	}
	tc := tcpOf(c)
	if tc == nil {
		return
	}
	plan := Within(d)
	if !configured {
		_ = tc.SetKeepAliveConfig(plan.KeepAlive)
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		user := plan.User
		if configured {
			user = atLeastTwoProbes(fd, user)
		}
		_ = tcpinfo.SetUserTimeout(fd, user)
	})
}

// atLeastTwoProbes raises a user timeout that would make a single lost probe of
// the application's own keepalive fatal.
func atLeastTwoProbes(fd uintptr, user time.Duration) time.Duration {
	p, ok := tcpinfo.PatienceOf(fd)
	if !ok || !p.KeepAlive {
		return user
	}
	return max(user, p.Idle+2*p.Interval)
}

// Configured reports whether the keepalive settings of a net.Dialer or
// net.ListenConfig say something.
func Configured(period time.Duration, config net.KeepAliveConfig) bool {
	return config.Enable || period != 0
}

// tcpOf returns the TCP connection below c, or nil.
func tcpOf(c net.Conn) *net.TCPConn {
	for range 16 {
		switch x := c.(type) {
		case *net.TCPConn:
			return x
		case interface{ NetConn() net.Conn }:
			c = x.NetConn()
		default:
			return nil
		}
	}
	return nil
}
