package tcpstate

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// dial is what is known of a dial in progress. Most dials are over before
// anybody else has looked at them, and the next one takes their place: so nobody
// but the loop, who says so by shared, finds a dial otherwise than through its
// Dialing.
type dial struct {
	mu sync.Mutex // guards of, and following fields where it is said
	of *Dialing   // whose it is; nil: in the pool
	dialFields
}

type dialFields struct {
	t       *Tracker
	ctx     context.Context
	network string
	origin  Origin
	site    sites.ID
	tokens  *token
	start   time.Time
	ended   time.Time
	dest    *target

	next, prev *dial // in dialingChore; guarded by its mu
	shared     bool  // others than its Dialing have seen it; likewise

	// Guarded by mu.
	first    attempt // most dials make one
	more     []*attempt
	tried    int // attempts, first included
	dns      *lookup
	over     bool
	plain    bool // it is not for MPTCP
	kept     bool // its context may be used when it is over
	awaited  bool // the loop wants to know of the end
	starving bool // failed before the second family of addresses was tried
}

var dials = sync.Pool{New: func() any { return new(dial) }}

// release ends the dial for its Dialing.
func (d *dial) release() {
	if d.shared { // nobody can find it any more who has not
		return
	}
	d.mu.Lock()
	d.of, d.dialFields = nil, dialFields{}
	d.mu.Unlock()
	dials.Put(d)
}

// attempt is the try of one address.
type attempt struct {
	address  string          // "host:port" of the address
	raw      syscall.RawConn // nil: not known, or the dial has ended
	start    time.Time
	deadline time.Time // zero: none
	resent   uint8     // SYNs, as far as somebody has looked
	ended    bool      // as far as it was told

	look *attemptLook // owned by the loop; nil before it has looked
}

// lookup is the resolution of the name that is dialed.
type lookup struct {
	start, end time.Time // end is zero while it goes on
	v4, v6     int       // addresses found
	failed     bool
	told       bool // a finding was made of it
}

// maxAttempts bounds the addresses of one dial that are remembered.
const maxAttempts = 32

// tryingLocked is Dialing.Trying. The caller holds mu.
func (d *dial) tryingLocked(address string, c syscall.RawConn, deadline time.Time) {
	if d.over {
		return
	}
	a := d.openLocked(address)
	if a == nil {
		if d.tried == maxAttempts {
			d.t.count.dialsMissed.Add(1)
			return
		}
		a = &d.first
		if d.tried > 0 {
			a = new(attempt)
			d.more = append(d.more, a)
			a.start = d.t.seam.now()
		} else if d.dns != nil {
			a.start = d.t.seam.now()
		} else {
			a.start = d.start // an address needs no resolution
		}
		a.address = address
		d.tried++
	}
	if c != nil {
		a.raw = c
	}
	if !deadline.IsZero() {
		a.deadline = deadline
	}
}

// openLocked returns the attempt at address that has not ended. The caller
// holds mu.
func (d *dial) openLocked(address string) *attempt {
	for i := range d.tried {
		if a := d.attemptLocked(i); a.address == address && !a.ended {
			return a
		}
	}
	return nil
}

// attemptLocked returns attempt i of those that were tried. The caller holds
// mu.
func (d *dial) attemptLocked(i int) *attempt {
	if i == 0 {
		return &d.first
	}
	return d.more[i-1]
}

// resolvedLocked is Dialing.Resolved. The caller holds mu.
func (d *dial) resolvedLocked(addrs []net.IPAddr, err error) {
	if d.dns == nil || d.over {
		return
	}
	d.dns.end, d.dns.failed = d.t.seam.now(), err != nil
	for _, a := range addrs {
		if a.IP.To4() != nil {
			d.dns.v4++
		} else {
			d.dns.v6++
		}
	}
}

// socket returns the RawConn of the connection that the dial has made, where it
// is known. That of package net does not hold the connection, so that it serves
// the registry as one from SyscallConn would.
func (d *dial) socket() syscall.RawConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tried != 1 {
		return nil
	}
	return d.first.raw
}
