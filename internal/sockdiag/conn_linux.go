package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many questions are sent at once. The kernel answers all of
	// them before anyone can read: of SO_RCVBUF, 208 kB by default, each answer
	// takes 1.25 kB. More at once is not faster.
	batch = 64

	// The kernel fills no more than 32 kB of a dump at a time
	// (net/netlink/af_netlink.c, netlink_recvmsg).
	bufferSize = 32 << 10

	// noise is how many datagrams that are no answers a call reads at most.
	noise = 256

	defaultMax     = 1 << 16
	defaultTimeout = 100 * time.Millisecond
)

type conn struct {
	connect func() (transport, error)
	t       transport // nil when a dump was left unfinished
	closed  bool
	seq     uint32 // of the last question
	count   Stats

	*buffers // nil when closed
	answered [batch]bool
	moved    [batch]bool // answered with a socket that was leaving the table
	yielded  Socket
}

// buffers are used again: a conn is opened whenever there is something to ask,
// and closed when there is not.
type buffers struct {
	send []byte
	recv []byte
}

var freeBuffers = sync.Pool{New: func() any {
	return &buffers{send: make([]byte, 0, max(batch*lookupLen, dumpLen)), recv: make([]byte, bufferSize)}
}}

func open() (*Conn, error) { return openWith(openSocket) }

func openWith(connect func() (transport, error)) (*Conn, error) {
	c := &Conn{conn{connect: connect, buffers: freeBuffers.Get().(*buffers)}}
	if err := c.ready(); err != nil {
		return nil, err
	}
	// Without its module the kernel answers every lookup as if the socket were
	// gone. A dump of no state tells, and walks nothing.
	d, err := c.walk(Query{Family: IPv4, Max: 1, Timeout: defaultTimeout}, 0, func(*Socket) bool { return false })
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("sock_diag: no tcp_diag in this kernel: %w", errors.ErrUnsupported)
	} else if err == nil && !d.Complete {
		err = errors.New("sock_diag: no answer")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	c.count = Stats{}
	return c, nil
}

func (c *conn) close() error {
	if c.closed {
		return os.ErrClosed
	}
	c.closed = true
	if c.buffers != nil {
		freeBuffers.Put(c.buffers)
		c.buffers = nil
	}
	return c.disconnect()
}

func (c *conn) disconnect() error {
	t := c.t
	c.t = nil
	if t == nil {
		return nil
	}
	return t.close()
}

// ready makes sure that there is a transport.
func (c *conn) ready() (err error) {
	if c.closed || c.connect == nil {
		return os.ErrClosed
	}
	if c.t == nil {
		c.t, err = c.connect()
	}
	return err
}

func (c *conn) stats() Stats { return c.count }

func (c *conn) lookup(dst []Result, info []byte, tuples []Tuple, withInfo bool) ([]Result, []byte, error) {
	start := len(dst)
	dst = slices.Grow(dst, len(tuples))
	for _, t := range tuples {
		dst = append(dst, Result{Tuple: t})
	}
	err := c.ready()
	if err != nil {
		return dst, info, err
	}
	a := asking{info: info, withInfo: withInfo}
	for part := range slices.Chunk(dst[start:], batch) {
		if !c.ask(part, &a) {
			break
		}
		// A range over an array is one over its copy.
		for i, moved := range c.moved {
			if !moved {
				continue
			}
			if !c.ask(part[i:i+1], &a) {
				return dst, a.info, a.err
			}
			if c.moved[0] {
				a.failed(errMoved)
			}
		}
	}
	return dst, a.info, a.err
}

// asking is what the batches of a lookup share.
type asking struct {
	info     []byte
	withInfo bool
	err      error // the first
}

func (a *asking) failed(err error) {
	if a.err == nil {
		a.err = err
	}
}

// ask sends one batch and reads the answers. It returns false when the next one
// would fare no better.
func (c *conn) ask(results []Result, a *asking) bool {
	first := c.seq + 1
	c.seq += uint32(len(results))
	c.send = c.send[:0]
	c.moved = [batch]bool{}
	open := 0
	for i := range results {
		t, err := c.plain(results[i].Tuple)
		c.answered[i] = err != nil
		if err != nil {
			a.failed(err)
			continue
		}
		c.send = appendLookup(c.send, first+uint32(i), t, a.withInfo)
		open++
	}
	if open == 0 {
		return true
	}
	c.count.Asked += uint64(open)
	if err := c.t.send(c.send); err != nil {
		c.count.Lost += uint64(open)
		a.failed(err)
		return false
	}
	for reads := open + noise; open > 0 && reads > 0; reads-- {
		b, err := c.receive()
		if err != nil {
			if err != unix.EAGAIN {
				a.failed(os.NewSyscallError("recvfrom", err))
			}
			if err == unix.ENOBUFS || err == errUnreadable {
				continue // the answers that did fit come next
			}
			break
		}
		for len(b) > 0 {
			h, body, rest, ok := cut(b)
			if !ok {
				c.count.Malformed++
				break
			}
			b = rest
			i := h.seq - first
			switch {
			case h.kind == unix.NLMSG_NOOP:
			case h.kind == unix.NLMSG_OVERRUN:
				c.count.Overruns++
			case i >= uint32(len(results)):
				c.count.Stray++
			case c.answered[i]:
				c.count.Duplicate++
			case c.answer(&results[i], &c.moved[i], h, body, a):
				c.answered[i] = true
				open--
			}
		}
	}
	if open > 0 {
		c.count.Lost += uint64(open)
		a.failed(errLost)
	}
	return true
}

var (
	errLost       = errors.New("sock_diag: the kernel has not answered")
	errMoved      = errors.New("sock_diag: the socket was leaving the table")
	errTuple      = errors.New("sock_diag: not a pair of addresses of one family")
	errUnreadable = errors.New("sock_diag: datagram that cannot be read")
)

// answer fills r. It returns false when the message says nothing.
func (c *conn) answer(r *Result, moved *bool, h header, body []byte, a *asking) bool {
	switch h.kind {
	case unix.NLMSG_ERROR:
		errno, ok := errorOf(h, body)
		switch {
		case !ok:
			c.count.Malformed++
			return false
		case errno == 0: // an acknowledgement, which nobody asked for
			c.count.Stray++
			return false
		case errno == unix.ENOENT:
			c.count.Gone++
			r.Status = Gone
		default:
			c.count.Refused++
			a.failed(os.NewSyscallError("sock_diag", errno))
		}
		return true
	case unix.SOCK_DIAG_BY_FAMILY:
		var s Socket
		if !parseSocket(&s, body) {
			c.count.Malformed++
			return false
		}
		switch {
		case s.State == tcpListen && r.Tuple.Remote.IsValid():
			// Without a connection the kernel finds who would accept it.
			c.count.Gone++
			r.Status = Gone
		case s.State == tcpClose || !s.is(r.Tuple):
			// Between being found and being described it has lost its state or
			// its port (net/ipv4/tcp.c, tcp_set_state).
			c.count.Moved++
			*moved = true
		default:
			c.count.Found++
			if s.Info != nil {
				n := len(a.info)
				a.info = append(a.info, s.Info...)
				s.Info = a.info[n:len(a.info):len(a.info)]
			}
			r.Socket, r.Status = s, Found
		}
		return true
	}
	c.count.Stray++
	return false
}

// From include/net/tcp_states.h. Of the last, which exists since Linux 6.8, a
// dump lists every socket, whatever the ports asked for (net/ipv4/inet_diag.c).
const (
	tcpClose         = 7
	tcpListen        = 10
	tcpBoundInactive = 13
)

// is reports whether s is the socket that was asked for. A listener may be
// bound to any address.
func (s *Socket) is(t Tuple) bool {
	if !t.Remote.IsValid() {
		return s.State == tcpListen && s.Local.Port() == t.Local.Port()
	}
	return s.Local == bare(t.Local) && s.Remote == bare(t.Remote)
}

func bare(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// plain returns the tuple to send: no mapped addresses, and the device that a
// zone names.
func (c *conn) plain(t Tuple) (Tuple, error) {
	zone := t.Local.Addr().Zone()
	if zone == "" {
		zone = t.Remote.Addr().Zone()
	}
	p := Tuple{Local: bare(t.Local), Device: t.Device}
	if !p.Local.IsValid() || p.Local.Port() == 0 {
		return p, errTuple
	}
	if t.Remote.IsValid() {
		p.Remote = bare(t.Remote)
		if p.Local.Addr().Is4() != p.Remote.Addr().Is4() {
			return p, errTuple
		}
	} else if t.Remote != (netip.AddrPort{}) {
		return p, errTuple
	}
	if zone == "" || p.Device != 0 {
		return p, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		p.Device = uint32(n)
		return p, nil
	}
	var err error
	p.Device, err = c.t.device(zone)
	return p, err
}

func (c *conn) dump(q Query, yield func(*Socket) bool) (Dumped, error) {
	if q.Max <= 0 {
		q.Max = defaultMax
	}
	if q.Timeout <= 0 {
		q.Timeout = defaultTimeout
	}
	mask := q.States
	if mask == 0 {
		mask = ^uint32(0)
	}
	mask &^= 1 << tcpBoundInactive
	if err := c.ready(); err != nil {
		return Dumped{}, err
	}
	c.count.Dumps++
	return c.walk(q, mask, yield)
}

// walk is dump with every limit set.
func (c *conn) walk(q Query, mask uint32, yield func(*Socket) bool) (d Dumped, err error) {
	start := time.Now()
	over := false // the kernel has nothing more to say
	defer func() {
		d.Cost = time.Since(start)
		c.count.Dumped += uint64(d.Sockets)
		if !over {
			// A dump in progress would go on, and be in the way of the next.
			c.disconnect()
		}
	}()
	c.seq++
	c.send = appendDump(c.send[:0], c.seq, q, mask)
	if err := c.t.send(c.send); err != nil {
		c.count.Lost++
		return d, err
	}
	disturbed := false
	for spare := noise; ; {
		useful := false
		b, err := c.receive()
		switch {
		case err == unix.ENOBUFS, err == errUnreadable:
			disturbed = true
		case err == unix.EAGAIN:
			c.count.Lost++
			return d, nil
		case err != nil:
			c.count.Lost++
			return d, os.NewSyscallError("recvfrom", err)
		}
		for len(b) > 0 {
			h, body, rest, ok := cut(b)
			if !ok {
				c.count.Malformed++
				disturbed = true
				break
			}
			b = rest
			switch {
			case h.kind == unix.NLMSG_NOOP:
				continue
			case h.kind == unix.NLMSG_OVERRUN:
				c.count.Overruns++
				disturbed = true
				continue
			case h.seq != c.seq:
				c.count.Stray++
				continue
			}
			if h.flags&unix.NLM_F_DUMP_INTR != 0 {
				disturbed = true
			}
			switch h.kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				errno, ok := errorOf(h, body)
				switch {
				case !ok:
					c.count.Malformed++
					return d, nil
				case errno != 0:
					over = true
					c.count.Refused++
					return d, os.NewSyscallError("sock_diag", errno)
				case h.kind == unix.NLMSG_DONE:
					over = true
					d.Complete = !disturbed
					return d, nil
				}
				c.count.Stray++ // an acknowledgement, which nobody asked for
			case unix.SOCK_DIAG_BY_FAMILY, tcpDiagGetSock:
				s := &c.yielded
				if !parseSocket(s, body) {
					c.count.Malformed++
					disturbed = true
					continue
				}
				if q.MPTCP {
					s.Fallback, s.Info = fellBack(s.Info), nil
				}
				useful = true
				if mask>>s.State&1 == 0 || s.Local.Port() == 0 {
					continue // it has changed since it was found
				}
				if d.Sockets == q.Max {
					return d, nil
				}
				d.Sockets++
				if !yield(s) {
					return d, nil
				}
			default:
				c.count.Stray++
			}
		}
		if !useful {
			if spare--; spare == 0 {
				c.count.Lost++
				return d, nil
			}
		}
		if time.Since(start) > q.Timeout {
			return d, nil
		}
	}
}

// receive reads one datagram. An empty one came from a stranger.
func (c *conn) receive() ([]byte, error) {
	n, port, err := c.t.recv(c.recv)
	switch {
	case err == unix.ENOBUFS:
		c.count.Overruns++
		return nil, err
	case err != nil:
		return nil, err
	case port != 0:
		c.count.Foreign++
		return nil, nil
	case n > len(c.recv):
		c.count.Oversized++
		return nil, errUnreadable
	case n < unix.NLMSG_HDRLEN:
		c.count.Malformed++
		return nil, errUnreadable
	}
	return c.recv[:n], nil
}
