package tcptest

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Dialing starts a dial that is not expected to end and returns its socket as
// soon as that exists, for [State] and the like. The cleanup cancels the dial
// and waits for it. A nil d is a zero net.Dialer; d is not changed, and its
// Control hooks still run, just before the kernel sends the SYN.
//
// The returned Conn outlives the dial: its methods then report net.ErrClosed.
func Dialing(t testing.TB, d *net.Dialer, address string) syscall.Conn {
	t.Helper()
	dialer := net.Dialer{}
	if d != nil {
		dialer = *d
	}
	before := dialer.ControlContext
	if old := dialer.Control; before == nil && old != nil {
		before = func(_ context.Context, network, address string, c syscall.RawConn) error {
			return old(network, address, c)
		}
	}
	sockets := make(chan syscall.RawConn, 1)
	dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		if before != nil {
			if err := before(ctx, network, address, c); err != nil {
				return err
			}
		}
		select {
		case sockets <- c:
		default: // a second address of the same dial
		}
		return nil
	}

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	failed := make(chan error, 1)
	wg.Go(func() {
		c, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			failed <- err
			return
		}
		<-ctx.Done() // keeps the socket open for the test
		c.Close()
	})

	select {
	case c := <-sockets:
		return Raw(c)
	case err := <-failed:
		t.Fatalf("tcptest: dial %s: %v", address, err)
	case <-time.After(Deadline):
		t.Fatalf("tcptest: dial %s: no socket after %v", address, Deadline)
	}
	return nil
}

// Raw makes a syscall.Conn out of the RawConn that a Control hook receives.
func Raw(c syscall.RawConn) syscall.Conn { return rawConn{c} }

type rawConn struct{ c syscall.RawConn }

func (r rawConn) SyscallConn() (syscall.RawConn, error) { return r.c, nil }
