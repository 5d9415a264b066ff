package tcpstate

import (
	"net"
	"net/netip"
	"time"
)

// pathWatch notices that addresses leave the machine. A connection goes on with
// the address it was made with: what its peer sends no longer arrives, and
// nothing tells the application.
//
// Only an address that has been on an interface can leave it. So a transparent
// proxy, which answers from addresses of others, is not asked, nor is a
// connection of another network namespace.
type pathWatch struct {
	needed bool                    // a connection has an address that may leave
	had    map[netip.Addr]struct{} // as of the last look
	gone   map[netip.Addr]struct{} // that connections still have
	err    error                   // of the last look
}

// note takes note of the address of e.
func (p *pathWatch) note(e *entry) {
	p.needed = p.needed || e.mayMove
}

// lookAtAddresses compares the addresses of the machine with those of the last
// sweep. Only when one has left, or has come back, are connections searched.
func (t *Tracker) lookAtAddresses(now int64) {
	p := &t.judge.paths
	if !p.needed {
		p.had = nil // what was long ago says nothing
		return
	}
	p.needed = false
	addrs, err := t.seam.addrs()
	if p.err = err; err != nil || len(addrs) == 0 {
		return
	}
	has := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			has[plainIP(n.IP)] = struct{}{}
		}
	}
	left, back := make(map[netip.Addr]struct{}), false
	for a := range p.had {
		if _, ok := has[a]; !ok {
			left[a] = struct{}{}
		}
	}
	for a := range p.gone {
		if _, ok := has[a]; ok {
			back = true
		}
	}
	p.had = has
	if len(left) > 0 || back {
		t.searchAddresses(left, now)
	}
}

// searchAddresses marks the connections whose address has left, and takes the
// mark off those whose address is back.
func (t *Tracker) searchAddresses(left map[netip.Addr]struct{}, now int64) {
	p := &t.judge.paths
	gone := make(map[netip.Addr]struct{})
	for _, e := range t.entries() {
		a := plainIP(e.local.IP)
		_, has := p.had[a]
		_, lost := left[a]
		switch marked := e.sus != nil && e.sus.addrGone != 0; {
		case marked && has:
			e.sus.addrGone = 0
			t.look(e, now, 0)
		case marked:
			gone[a] = struct{}{}
		case lost && t.cutOff(e, now):
			gone[a] = struct{}{}
		}
	}
	p.gone = gone
}

// cutOff marks e, whose address has left, and judges it.
func (t *Tracker) cutOff(e *entry, now int64) bool {
	s := t.judge.sampler
	s.sample = sample{}
	s.again(e)
	if !s.sample.ok || s.sample.mptcp {
		return false // MPTCP may go on by way of another address
	}
	if e.sus == nil {
		e.sus = new(suspicion)
	}
	e.sus.addrGone, e.sus.heardThen = now, s.sample.signs()
	t.look(e, now, 0)
	return true
}

// signs grows with everything that comes from the peer but mere keepalives.
func (s *sample) signs() uint64 { return s.bytesReceived + s.bytesAcked }

// cutOff returns when the local address was seen to have left, or 0 when
// something has come from the peer since: then there is a way without it.
func (sus *suspicion) cutOff(now int64) int64 {
	const slack = 2 * time.Second
	s := &sus.sample
	last := s.heard()
	if sus.addrGone == 0 || s.signs() > sus.heardThen || time.Duration(now-sus.addrGone) > last+slack {
		return 0
	}
	return sus.addrGone
}

// plainIP returns ip as it is compared. InterfaceAddrs tells no zones: an
// address counts as there while any interface has it.
func plainIP(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// pathGone asks about connections whose local address has left.
func (o *openLook) pathGone() bool { return o.e.sus != nil && o.e.sus.addrGone != 0 }

// pathVerdict judges a connection whose local address may have left.
func (f *facts) pathVerdict() verdict {
	if f.addrGone == 0 {
		return verdict{}
	}
	return verdict{kind: KindPathLocalAddressGone, since: f.addrGone}
}

func (p *pathWatch) facility(t *Tracker) Facility {
	f := Facility{Name: "interface_addrs", OK: true, Detail: "it is noticed when a connection's address leaves the machine"}
	err := p.err
	if err == nil && len(p.had) == 0 {
		_, err = t.seam.addrs() // nobody has needed them yet
	}
	if err != nil {
		f.OK = false
		f.Detail = "the addresses of the interfaces could not be read: " + err.Error() + "; that a connection's address leaves the machine is not noticed"
		f.Kinds = []Kind{KindPathLocalAddressGone}
	}
	return f
}
