package tcptest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Deafen makes c lose every segment that arrives for it, so that it is a black
// hole for its peer, while it can still send. heal ends that; the cleanup of
// the test does too. Healing a closed socket does nothing, so a socket closed
// while deaf never answers its peer again. Sockets accepted from a deaf
// listener are deaf too.
//
// It needs no privileges, and is independent of the filters of [DropFIN] and
// the like.
func Deafen(t testing.TB, c syscall.Conn) (heal func()) {
	t.Helper()
	raw := rawOf(t, c)
	if err := requireTTL(raw, noTTL); err != nil {
		t.Fatalf("tcptest: %v", err)
	}
	heal = sync.OnceFunc(func() { _ = requireTTL(raw, anyTTL) }) // fails once closed
	t.Cleanup(heal)
	return heal
}

// DeafControl is a Control hook for a net.Dialer or net.ListenConfig that makes
// the socket deaf, see [Deafen], before the first segment.
func DeafControl(_, _ string, c syscall.RawConn) error { return requireTTL(c, noTTL) }

// DeadListener returns the address of a listener that loses every SYN: who
// dials it stays in SYN-SENT.
func DeadListener(t testing.TB, opts ...Option) (address string) {
	t.Helper()
	ln := Listen(t, opts...)
	Deafen(t, ln)
	return ln.Addr().String()
}

// FullBacklogListener returns a listener whose accept queue is full: who dials
// it stays in SYN-SENT until the test accepts. The client that fills the queue
// lives until the cleanup.
func FullBacklogListener(t testing.TB, opts ...Option) *net.TCPListener {
	t.Helper()
	ln := Listen(t, opts...)
	SetBacklog(t, ln, 0)
	Connect(t, ln, opts...) // the kernel admits one more than the limit
	WaitUntil(t, "a full accept queue", func() bool {
		i := info(t, ln)
		return i.Unacked > i.Sacked // in LISTEN: queue length, limit
	})
	return ln
}

// Linux sends with a TTL of 64 (net.ipv4.ip_default_ttl), so nothing on
// loopback reaches 255.
const (
	anyTTL = 0
	noTTL  = 255
)

// requireTTL makes the socket drop what arrives with a TTL below lowest, which
// is meant to keep strangers from BGP sessions (RFC 5082).
func requireTTL(raw syscall.RawConn, lowest int) error {
	err := inControl(raw, func(fd int) error {
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		// An IPv6 socket obeys both: its peer may be an IPv4-mapped address.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, lowest)
		if err == nil && domain == unix.AF_INET6 {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, lowest)
		}
		return os.NewSyscallError("setsockopt", err)
	})
	return explain("require TTL", err)
}

// explain adds to an error what the kernel meant by it.
func explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOPROTOOPT):
		return fmt.Errorf("%s: %w (MPTCP sockets refuse it: SetMultipathTCP(false))", what, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w (needs CAP_NET_ADMIN over the network namespace: root, or unshare --map-root-user --net with lo up)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
