package tcpstate

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// SocketState returns the state of the TCP socket with these addresses in the
// network namespace of the calling thread, whoever owns it, and also when no
// descriptor shows it: what became of a connection after Close. It is what ss
// shows, and Closed where ss shows nothing. A remote that is nil or has no
// address other than a wildcard asks for a listener that accepts on local.
//
// It is meant for tests and debug pages. The Watch of a connection that is held
// tells more, at a fraction of the cost.
//
// The kernel is asked with sock_diag(7), which needs no privileges. Of a
// Multipath TCP connection the state is that of the connection, as ss -M shows
// it; once its two ends have finished, or if it fell back to TCP, that of the
// TCP socket of its first path, as ss -t shows it. A further path is asked for
// by its own addresses.
//
// A socket in CLOSE is in no table of the kernel, held or not. A connection
// whose both ends have finished is in TimeWait although its descriptor, if it
// is still open, shows Closed.
//
// Each call opens a netlink socket and makes the kernel walk its table of
// Multipath TCP connections; before the answer is Closed, and on Linux before
// 5.9, its table of all TCP sockets, too. These are the tables of the host, of
// all network namespaces: the call takes a tenth of a millisecond, three for
// Closed, and more on a host with large tables.
//
// The State is Unknown with every error. The error matches [ErrNotTCP] for an
// address that is not one of TCP, and [errors.ErrUnsupported] everywhere but on
// Linux, and in kernels without TCP diagnostics. SocketState may be called from
// any goroutine.
func SocketState(local, remote net.Addr) (State, error) {
	t, err := tupleOf(local, remote)
	if err == nil {
		var s State
		if s, err = askState(t); err == nil {
			return s, nil
		}
	}
	return Unknown, fmt.Errorf("tcpstate: socket state: %w", err)
}

// tupleOf returns what to look up.
func tupleOf(local, remote net.Addr) (t sockdiag.Tuple, err error) {
	if t.Local, err = addrPortOf(local); err != nil {
		return t, fmt.Errorf("local address: %w", err)
	}
	if t.Remote, err = addrPortOf(remote); err != nil {
		return t, fmt.Errorf("remote address: %w", err)
	}
	if !t.Local.IsValid() || t.Local.Port() == 0 {
		return t, fmt.Errorf("local address %v: no IP address and port", local)
	}
	if !t.Remote.IsValid() || t.Remote.Addr().IsUnspecified() {
		t.Remote = netip.AddrPort{}
		return t, nil
	}
	if t.Remote.Port() == 0 {
		return t, fmt.Errorf("remote address %v: no port", remote)
	}
	if t.Local.Addr().Is4() != t.Remote.Addr().Is4() {
		return t, fmt.Errorf("%v and %v are of two families", local, remote)
	}
	return t, nil
}

// addrPortOf returns the zero AddrPort for nil and for an address without IP.
func addrPortOf(a net.Addr) (netip.AddrPort, error) {
	var p netip.AddrPort
	switch a := a.(type) {
	case nil:
		return p, nil
	case *net.TCPAddr:
		if a == nil {
			return p, nil
		}
		p = a.AddrPort()
	default:
		if !strings.HasPrefix(a.Network(), "tcp") {
			return p, fmt.Errorf("%w: %s address", ErrNotTCP, a.Network())
		}
		var err error
		if p, err = netip.ParseAddrPort(a.String()); err != nil {
			return p, fmt.Errorf("%s: %w", a, err)
		}
	}
	if !p.Addr().IsValid() {
		return netip.AddrPort{}, nil
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), nil
}

func askState(t sockdiag.Tuple) (State, error) {
	c, err := sockdiag.Open()
	if err != nil {
		return Unknown, err
	}
	defer c.Close()

	if t.Remote.IsValid() {
		// Before the lookup: the TCP sockets of a connection outlast it.
		s, err := stateInDump(c, t, true)
		if errors.Is(err, fs.ErrNotExist) {
			s, err = Closed, nil // no MPTCP in this kernel
		}
		if err != nil || s != Closed {
			return s, err
		}
	}
	found, err := c.Lookup(nil, []sockdiag.Tuple{t})
	if err != nil {
		return Unknown, err
	}
	if found[0].Status == sockdiag.Found {
		return State(found[0].Socket.State), nil
	}
	// A lookup does not find a socket that is bound to a network device.
	return stateInDump(c, t, false)
}

var errNotAll = errors.New("the kernel did not list all of its sockets")

// stateInDump returns Closed when the kernel lists no such socket.
func stateInDump(c *sockdiag.Conn, t sockdiag.Tuple, mptcp bool) (State, error) {
	const listening = 1 << Listen
	q := sockdiag.Query{
		MPTCP: mptcp, States: ^uint32(listening),
		LocalPort: t.Local.Port(), RemotePort: t.Remote.Port(),
	}
	if !t.Remote.IsValid() {
		q.States = listening
	}
	for range 3 {
		s := Closed
		d, err := c.Dump(q, func(found *sockdiag.Socket) bool {
			if sameSocket(found, t) && !found.Fallback {
				s = State(found.State)
			}
			return s == Closed
		})
		if err != nil {
			return Unknown, err
		}
		if s != Closed || d.Complete {
			return s, nil
		}
	}
	return Unknown, errNotAll
}

// sameSocket reports whether s has the addresses of t. A listener may be bound
// to any address.
func sameSocket(s *sockdiag.Socket, t sockdiag.Tuple) bool {
	local := netip.AddrPortFrom(t.Local.Addr().WithZone(""), t.Local.Port())
	remote := netip.AddrPortFrom(t.Remote.Addr().WithZone(""), t.Remote.Port())
	if remote.IsValid() {
		return s.Local == local && s.Remote == remote
	}
	if s.Local.Port() != local.Port() {
		return false
	}
	any := s.Local.Addr()
	return s.Local == local || any.IsUnspecified() && (any.Is6() || local.Addr().Is4())
}
