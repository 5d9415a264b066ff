package tcpstate

import (
	"time"
)

// This file finds the words for connections that are open and do not move.

func (s *story) unresponsive() {
	switch silent := age(s.f.Age()); s.f.Cause {
	case "window_closed":
		s.say("%s had closed its window, and for %s it has not answered the kernel, which has asked %s: it is not slow, it is gone.",
			s.peer(), silent, often(int(s.ev.Probes)))
	default:
		s.say("nothing acknowledged for %s; the %s in flight were sent again %s. A slow program at the other end would not matter: its kernel acknowledges.",
			silent, counted(s.ev.SendQueue, "byte"), often(int(s.ev.Timeouts)))
	}
	s.kernelGivesUp()
	switch s.f.Cause {
	case "large_segments":
		s.f.Title = "path drops large segments"
		s.f.Fix = "let ICMP \"fragmentation needed\" through, or lower the MTU; net.ipv4.tcp_mtu_probing=1 works around it"
		s.say("Meanwhile %s was heard, and what was acknowledged so far was small: the path drops large segments (MTU).", s.peer())
	case "one_way":
		s.say("Meanwhile %s was heard: what we send is lost, what it sends arrives.", s.peer())
	case "after_idle":
		s.say("The connection had been idle before: a middlebox that forgot it looks like this (their limits are often 4 to 15 min).")
		s.f.Fix = "keepalive below the idle limit of the path, and a user timeout (both by DetectWithin on the dialer)"
	}
}

// kernelGivesUp says until when callers wait, unless a deadline ends it before.
func (s *story) kernelGivesUp() {
	if at := s.ev.GivesUpAt; !at.IsZero() {
		s.say("Callers without a deadline hang until about %s.", at.Format(time.TimeOnly))
	}
}

func (s *story) deadProbes() {
	s.say("%s in a row got no answer; the last sign of %s was %s ago.", counted(int(s.ev.Probes), "keepalive probe"), s.peer(), age(s.f.Age()))
}

func (s *story) peerNotReading() {
	s.say("%s has had its window closed for %s; it answers probes (last ACK %s ago), so its host is alive and its program does not read. %s wait here.",
		s.peer(), age(s.f.Age()), s.ev.ACK, upperFirst(counted(s.ev.SendQueue, "byte")))
}

func (s *story) noResponse() {
	what := "no answer"
	if s.f.Cause == "body" {
		what = "no more of its answer"
	}
	s.say("%s has the request, every byte of it is acknowledged, and %s has come for %s.", s.peer(), what, age(s.f.Age()))
}

func (s *story) heartbeatMissing() {
	s.say("nothing has come from %s for %s.", s.peer(), age(s.f.Age()))
	switch {
	case s.ev.Unacked > 0:
		s.say("What we sent is not acknowledged either: the host or the path is gone.")
	case s.ev.NoWindow && s.ev.NotSent > 0:
		s.say("Its window is closed: what we write, pings too, waits here.")
	case s.ev.DataOut >= 0 && time.Duration(s.ev.DataOut) < s.f.Age():
		s.say("What we sent meanwhile was acknowledged: the host is there, its program says nothing.")
	}
}

func (s *story) localNotReading() {
	s.say("%s for %s, and nobody reads.", s.unread("", "bytes wait"), age(s.f.Age()))
	if s.ev.NoWindow && s.ev.NotSent > 0 {
		s.say("The other end does not read either: both write, and each waits for the other.")
	}
	if !s.ev.ReadsSeen {
		s.say("Attached without the wrapper: only the queue is known, not who reads.")
	}
}

func (s *story) idleUnverifiable() {
	s.say("nothing came from %s for %s and nothing asked for it. Whether it is still there cannot be known from this end.", s.peer(), age(s.f.Age()))
}

func (s *story) keepaliveOff() {
	s.say("connections made here lie idle with keepalive off; nothing would notice that the peer is gone.")
}

func (s *story) keepaliveSlow() {
	s.say("the first keepalive probe comes late; load balancers and NATs forget idle connections after 4 to 15 min.")
}

func (s *story) keepaliveUserTimeout() {
	s.say("the user timeout is over by the second keepalive timer: one lost probe ends a healthy connection.")
}

func (s *story) keepaliveContradictory() {
	s.say("the user timeout is shorter than the silence before the first keepalive probe.")
}

func (s *story) poolPerCall() {
	s.say("this line made at least %d pools within a minute, and none of them has used a connection twice.", manyPools)
}

func (s *story) notReturned() {
	held := s.f.Cause == causeHeld
	if out := s.fact(noteLentOut); out != "" && !s.sub.UseOpen {
		waited := ", and somebody has had to wait"
		if held {
			waited = ""
		}
		s.say("%s connections of its pool are lent out%s; this one has moved no byte for %s.", out, waited, min(s.ev.DataIn, s.ev.DataOut))
		s.say("The line is the last one that read from it.")
		return
	}
	waits := ", and others wait for a connection"
	if held {
		waits = ""
	}
	s.say("was taken out of its pool %s ago, has moved no byte for %s%s.", s.sub.UseFor, age(s.f.Age()), waits)
}

// often says how often.
func often(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return thousands(n) + " times"
}
