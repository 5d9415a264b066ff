package tcpstate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// listenSubject is a listener as the subject of a finding.
type listenSubject struct {
	l       *Listening
	which   int      // aboutQueue or aboutSilence
	finding *finding // owned by the loop
}

func (s *listenSubject) label() string { return s.l.origin.Name }

func (s *listenSubject) dimension() (name string, role Role) {
	series := s.l.t.judge.seriesOf(Server, s.l.origin.Name)
	return series.name, Server
}

func (s *listenSubject) ownerSite(_ Kind, hide []string) sites.ID {
	if len(s.l.site.Owner(hide)) == 0 {
		return 0
	}
	return s.l.site
}

func (s *listenSubject) reported(*finding) {}

// describe implements subject.
func (s *listenSubject) describe(t *Tracker, f *finding, _ *subscriber, now int64, pub *Finding) {
	l := s.l
	pub.State = Listen
	pub.Subject = Subject{
		Type: SubjectListener, Role: Server, Name: l.origin.Name, Target: l.origin.Target, Local: addrString(l.addr),
	}
	pub.Evidence = unknownEvidence()
	add := func(role string, id sites.ID) {
		if frames := publicFrames(id.Owner(t.judge.hide)); len(frames) > 0 {
			same := func(o Site) bool { return slices.Equal(o.Frames, frames) }
			if !slices.ContainsFunc(pub.Sites, same) {
				pub.Sites = append(pub.Sites, Site{Role: role, Frames: frames})
			}
		}
	}
	if e := l.watch.queue.reading; e != nil && f.kind == KindListenerBlockedInAccept {
		l.mu.Lock()
		read := l.insideSite
		l.mu.Unlock()
		add("read", read)
		pub.Subject.Remote = addrString(e.remote)
	}
	add("listen", l.site)
	add("accept", sites.ID(l.acceptSite.Load()))
	switch s.which {
	case aboutSilence:
		l.tellSilence(pub, now)
	case aboutSYNs:
		l.tellSYNs(pub)
	default:
		l.tellQueue(pub, now)
	}
}

// The names of the facts that the words of a finding are made from.
const (
	factQueue       = "queue"
	factLimit       = "limit"
	factLastAccept  = "last Accept"
	factAccepted    = "accepted"
	factRate        = "accepts per second"
	factError       = "last error"
	factErrorAge    = "error age"
	factClient      = "client"
	factBytesIn     = "bytes from it"
	factReading     = "reading for"
	factHandshakes  = "handshakes"
	factRetries     = "SYN-ACK sent again, at most"
	factSilent      = "silent"
	factConns       = "connections"
	factOldest      = "oldest"
	factNetwork     = "busiest network"
	factFromNetwork = "from there"
)

// tellQueue notes the facts about the accept queue.
func (l *Listening) tellQueue(pub *Finding, now int64) {
	ev, q, h := &pub.Evidence, &l.watch.queue, &l.watch.hist
	ev.note(factQueue, thousands(q.queue))
	ev.note(factLimit, thousands(q.limit))
	last := "never"
	if at := l.acceptedAt.Load(); at != 0 {
		last = age(time.Duration(now-at)) + " ago"
	}
	ev.note(factLastAccept, last)
	ev.note(factAccepted, thousands(int(l.accepted.Load())))
	if r, ok := h.perSecond(); ok && pub.Kind == KindListenerOverflow {
		ev.note(factRate, perMinute(r))
	}
	if f := l.failure.Load(); f != nil {
		ev.note(factError, errorText(f.err))
		ev.note(factErrorAge, age(time.Duration(now-f.at)))
	}
	if e := q.reading; e != nil && pub.Kind == KindListenerBlockedInAccept {
		ev.note(factClient, addrString(e.remote))
		ev.note(factBytesIn, strconv.FormatUint(e.last.in, 10))
		ev.note(factReading, age(l.t.wall(now).Sub(e.born)))
	}
}

// errorText is err without the addresses that package net puts in front.
func errorText(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": accept"); i >= 0 {
		return text[i+2:]
	}
	return text
}

// tellSilence notes the facts about connections whose clients are silent.
func (l *Listening) tellSilence(pub *Finding, now int64) {
	ev := &pub.Evidence
	oldest, nets := l.silentClients(now)
	ev.note(factSilent, thousands(l.watch.silent))
	ev.note(factConns, thousands(int(l.conns.Load())))
	if oldest > 0 {
		ev.note(factOldest, age(oldest))
	}
	most, where := 0, netip.Prefix{}
	for p, n := range nets {
		if n > most || n == most && p.String() < where.String() {
			most, where = n, p
		}
	}
	if most > 1 {
		ev.note(factNetwork, where.String())
		ev.note(factFromNetwork, thousands(most))
	}
}

// tellSYNs notes the facts about handshakes that do not get on.
func (l *Listening) tellSYNs(pub *Finding) {
	ev, n := &pub.Evidence, &l.watch.syns
	ev.note(factHandshakes, thousands(n.entries))
	ev.note(factRetries, strconv.Itoa(n.retries))
	if n.most > 1 {
		ev.note(factNetwork, n.network.String())
		ev.note(factFromNetwork, thousands(n.most))
	}
}
