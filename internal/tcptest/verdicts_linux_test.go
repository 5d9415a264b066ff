package tcptest_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// promise is how soon a kind is reported: after t of its condition, and then
// within the time in which the tracker looks. Scripts have the default
// thresholds.
type promise struct {
	t      time.Duration
	look   look
	builds time.Duration // over what time the evidence may come together before t begins; 0: it is there at once
}

// look is how a tracker comes to look at a subject.
type look time.Duration

const (
	// event is for what the kernel or the program tells, and for subjects that
	// are watched every second because there is a question.
	event = look(time.Second)
	// sample is for what only the sweep sees: 10 s and a tenth, by which it
	// varies, and the second that a suspect waits for the next look.
	sample = look(12 * time.Second)
)

// rtos is how long n retransmission timeouts take on loopback, by a clock that
// is ahead of the kernel's: the first is 200 ms and each next one twice as long
// (TCP_RTO_MIN of include/net/tcp.h), after a probe of the tail (RFC 8985), and
// each timer may be late.
func rtos(n int) time.Duration {
	const late = 70 * time.Millisecond
	return pace * (200*time.Millisecond*(1<<n-1) + time.Duration(n)*late)
}

// promises has every kind: how long its condition lasts by default, and
// zero for what is reported at once.
var promises = func() map[tcpstate.Kind]promise {
	th := tcpstate.DefaultThresholds()
	return map[tcpstate.Kind]promise{
		noFinding: {10 * time.Second, sample, 0},

		"close_wait.unread_body":  {th.CloseWait, event, 0},
		"close_wait.not_reading":  {th.CloseWait, event, 0},
		"close_wait.eof_seen":     {th.CloseWait, event, 0},
		"close_wait.error_path":   {th.CloseWait, event, 0},
		"close_wait.never_read":   {th.CloseWait, event, 0},
		"close_wait.idle_in_pool": {0, event, 0},

		"leak.collected":     {0, event, 10 * time.Second},
		"leak.dead_socket":   {th.DeadSocket, event, 0},
		"leak.pool_per_call": {0, event, time.Minute}, // at the tenth pool
		"leak.unused_dial":   {th.UnusedDial, sample, 0},
		"leak.not_returned":  {th.Borrowed, sample, 0},

		"listener.overflow":          {0, sample, 50 * time.Second}, // three of five samples
		"listener.not_accepting":     {th.Accept, sample, 0},
		"listener.blocked_in_accept": {th.BlockedAccept, sample, 0},
		"listener.syn_recv":          {0, sample, 10 * time.Second},

		"accept.never_read":  {th.Accepted, sample, 0},
		"accept.peer_silent": {th.Accepted, sample, 0},
		"accept.trickle":     {th.Accepted, sample, 0},

		"dial.no_answer":        {th.Dial, event, 0},
		"dial.tuple_stuck":      {th.Dial, event, 0},
		"dial.fallback_starved": {0, event, 0},
		"dial.dns_slow":         {th.DNS, event, 0},
		"dial.storm":            {0, event, time.Minute},
		"dial.ports":            {0, event, 0},

		// A timeout of the same length comes first.
		"handshake.stalled": {th.Handshake + time.Second, event, 0},

		"peer.unresponsive":    {th.Unresponsive, sample, 0},
		"peer.dead_probes":     {0, sample, 10 * time.Second},
		"peer.not_reading":     {th.NotReading, sample, 0},
		"peer.no_response":     {30 * time.Second, sample, 0}, // as the scripts declare
		"peer.silent":          {45 * time.Second, sample, 0}, // of a declared heartbeat of 30 s
		"peer.keeps_half_open": {th.HalfOpen, event, 0},

		"local.not_reading":       {th.NotReading, sample, 0},
		"path.local_address_gone": {0, sample, 0},

		"pool.churn": {0, event, time.Minute},

		"idle.unverifiable": {th.Idle, sample, 0},

		"keepalive.off":                    {30 * time.Second, sample, 0},
		"keepalive.slow":                   {30 * time.Second, sample, 0},
		"keepalive.user_timeout_overrides": {30 * time.Second, sample, 0},
		"keepalive.contradictory":          {30 * time.Second, sample, 0},

		"closing.fin_unacked":      {th.FINUnacked, event, 0},
		"closing.data_undelivered": {th.Undelivered, event, 0},
		"closing.peer_open":        {th.HalfOpen, sample, 0},

		"reset.by_us_unread":    {0, event, 0},
		"reset.by_us_linger":    {0, event, 0},
		"reset.reuse_after_fin": {0, event, 0},
		"reset.unexplained":     {0, event, 10 * time.Second},
		"reset.before_accept":   {0, event, 0},

		"tunnel.half_closed_idle": {th.HalfOpen, event, 0},
		"tunnel.truncated":        {0, event, 0},
		"tunnel.upstream_orphan":  {th.Orphan, event, 0},

		"fds.pressure": {0, sample, 0},
	}
}()

// scale is T as scripts know it: of what is reported at once it is the interval
// of the sweep, and a twin is healthy for three.
func (p promise) scale() time.Duration {
	if p.t == 0 {
		return max(p.builds, 10*time.Second)
	}
	return max(p.t, p.builds)
}

// resent has the kinds that wait for the third retransmission.
var resent = []tcpstate.Kind{"peer.unresponsive", "closing.fin_unacked"}

// latest is how long after its cause a finding of kind k may come.
func (p promise) latest(k tcpstate.Kind) time.Duration {
	t := p.t
	if slices.Contains(resent, k) {
		t = max(t, rtos(3))
	}
	return t + time.Duration(p.look) + time.Millisecond
}

// punctual measures how long the verdict took: from the condition's beginning,
// as the finding tells it, or from the script's last action where that came
// first, so that a finding cannot be punctual by a late beginning.
func (r *run) punctual(f *tcpstate.Finding, opts map[string]string) error {
	p := promises[f.Kind]
	began := r.acted
	if !f.Since.IsZero() && (p.builds == 0 && f.Since.Before(began) || opts["within"] != "") {
		began = f.Since
	}
	if text := opts["after"]; text != "" {
		var err error
		if p.t, err = r.duration(text); err != nil {
			return err
		}
	}
	took, latest := f.DetectedAt.Sub(began), p.latest(f.Kind)
	if r.s.class == mixture {
		latest += time.Duration(event) // of two faults of one subject, one may wait for the other
	}
	r.verdict = max(r.verdict, took)
	if took > latest {
		return fmt.Errorf("the verdict took %v of at most %v: since %v, last action %v, detected %v",
			took, latest, f.Since.Sub(r.begun), r.acted.Sub(r.begun), f.DetectedAt.Sub(r.begun))
	}
	return nil
}
