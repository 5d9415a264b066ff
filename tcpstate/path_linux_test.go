package tcpstate_test

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// machine is a network namespace of its own, with loopback only.
type machine struct {
	*testing.T
	do    func(func()) // in the namespace
	looks atomic.Int32
	err   atomic.Pointer[error]
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip(8)")
	}
	m := &machine{T: t}
	work, ready := make(chan func()), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- err
			return
		}
		ready <- nil
		for f := range work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Skipf("needs the right to make a network namespace: %v", err)
	}
	t.Cleanup(func() { close(work) })
	m.do = func(f func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); f() }
		<-done
	}
	m.ip("link", "set", "lo", "up")
	return m
}

func (m *machine) ip(args ...string) {
	m.Helper()
	var out []byte
	var err error
	m.do(func() { out, err = exec.Command("ip", args...).CombinedOutput() })
	require.NoError(m, err, "%s", out)
}

// addrs is net.InterfaceAddrs of the machine.
func (m *machine) addrs() (all []net.Addr, err error) {
	m.looks.Add(1)
	if err := m.err.Load(); err != nil {
		return nil, *err
	}
	m.do(func() { all, err = net.InterfaceAddrs() })
	return all, err
}

// tracker returns a tracker of the machine, and its clock.
func (m *machine) tracker() (*tcpstate.Tracker, *testclock.Clock) {
	return lacking(m.T, tcpstate.Seam{Addrs: m.addrs})
}

// conn returns a connection from and to address, and its peer. The sockets
// stay in the namespace they were made in.
func (m *machine) conn(address string, transparent bool) (local, peer *net.TCPConn) {
	m.Helper()
	control := func(network, _ string, c syscall.RawConn) (err error) {
		if transparent {
			opt, level := unix.IP_TRANSPARENT, unix.IPPROTO_IP
			if network == "tcp6" {
				opt, level = unix.IPV6_TRANSPARENT, unix.IPPROTO_IPV6
			}
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, opt, 1) })
			err = errors.Join(err, cerr)
		}
		return err
	}
	var fail error
	try := func() {
		lc := net.ListenConfig{Control: control}
		lc.SetMultipathTCP(false)
		ln, err := lc.Listen(m.Context(), "tcp", net.JoinHostPort(address, "0"))
		if fail = err; err != nil {
			return
		}
		defer ln.Close()
		d := net.Dialer{Timeout: tcptest.Deadline, Control: control}
		d.LocalAddr = &net.TCPAddr{IP: ln.Addr().(*net.TCPAddr).IP}
		c, err := d.Dial("tcp", ln.Addr().String())
		if fail = err; err != nil {
			return
		}
		local = c.(*net.TCPConn)
		s, err := ln.Accept()
		if fail = err; err == nil {
			peer = s.(*net.TCPConn)
		}
	}
	// The kernel makes the routes of a new IPv6 address in the background.
	for deadline := time.Now().Add(tcptest.Deadline); ; {
		m.do(try)
		if fail == nil || local != nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	require.NoError(m, fail)
	m.Cleanup(func() { local.Close(); peer.Close() })
	return local, peer
}

func TestALocalAddressThatLeavesTheMachineIsReported(t *testing.T) {
	for name, addr := range map[string]string{
		"IPv4": "10.99.0.1", "IPv6": "fd99::1", "v4-mapped": "::ffff:10.99.0.1",
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			prefix, add := "10.99.0.1/32", []string{"address", "add", "10.99.0.1/32", "dev", "lo"}
			if name == "IPv6" {
				prefix, add = "fd99::1/128", []string{"address", "add", "fd99::1/128", "dev", "lo", "nodad"}
			}
			m.ip(add...)
			m.ip("address", "add", "10.99.0.2/32", "dev", "lo")
			tr, clk := m.tracker()
			local, peer := m.conn(addr, false)
			other, _ := m.conn("10.99.0.2", false)
			home, _ := m.conn("127.0.0.5", false)
			tr.Track(local, tcpstate.Origin{Name: "db", Target: "db:5432"})
			tr.Track(other, tcpstate.Origin{Name: "other"})
			tr.Track(home, tcpstate.Origin{Name: "home"})
			clk.Advance(13 * time.Second)
			require.Empty(t, tr.Findings())

			m.ip("address", "del", prefix, "dev", "lo")
			clk.Advance(12 * time.Second)
			fs := tr.Findings()
			require.Len(t, fs, 1)
			f := fs[0]
			require.Equal(t, tcpstate.KindPathLocalAddressGone, f.Kind)
			require.Equal(t, "db", f.Subject.Name)
			require.Contains(t, f.Summary, "left this machine")
			require.NotContains(t, f.Summary, "ffff")

			m.ip(add...)
			clk.Advance(12 * time.Second)
			require.Empty(t, tr.Findings(), "it is back")
			_, err := io.WriteString(peer, "still there")
			require.NoError(t, err)
			got := make([]byte, 11)
			_, err = io.ReadFull(local, got)
			require.NoError(t, err)

			m.ip("address", "del", prefix, "dev", "lo")
			clk.Advance(12 * time.Second)
			require.Len(t, tr.Findings(), 1)
			require.NoError(t, local.Close())
			clk.Advance(12 * time.Second)
			require.Empty(t, tr.Findings())
		})
	}
}

func TestAddressesThatCannotLeaveAreNotReported(t *testing.T) {
	t.Run("loopback", func(t *testing.T) {
		m := newMachine(t)
		tr, clk := m.tracker()
		local, _ := m.conn("127.0.0.9", false)
		tr.Track(local, tcpstate.Origin{})
		m.ip("address", "add", "10.99.0.1/32", "dev", "lo")
		clk.Advance(15 * time.Second)
		m.ip("address", "del", "10.99.0.1/32", "dev", "lo")
		clk.Advance(30 * time.Second)
		require.Empty(t, tr.Findings())
		require.Zero(t, m.looks.Load(), "nobody has looked")
	})
	t.Run("of somebody else", func(t *testing.T) {
		m := newMachine(t)
		m.ip("route", "add", "local", "10.98.0.0/24", "dev", "lo") // as a transparent proxy has it
		tr, clk := m.tracker()
		local, _ := m.conn("10.98.0.7", true)
		tr.Track(local, tcpstate.Origin{})
		m.ip("address", "add", "10.99.0.1/32", "dev", "lo")
		clk.Advance(15 * time.Second)
		m.ip("address", "del", "10.99.0.1/32", "dev", "lo")
		clk.Advance(30 * time.Second)
		require.Empty(t, tr.Findings())
		require.NotZero(t, m.looks.Load())
	})
	t.Run("still heard", func(t *testing.T) {
		m := newMachine(t)
		m.ip("route", "add", "local", "10.99.0.0/24", "dev", "lo") // the address is served without an interface
		m.ip("address", "add", "10.99.0.1/32", "dev", "lo")
		tr, clk := m.tracker()
		local, peer := m.conn("10.99.0.1", true)
		c := tr.Track(local, tcpstate.Origin{})
		clk.Advance(13 * time.Second)
		m.ip("address", "del", "10.99.0.1/32", "dev", "lo")
		clk.Advance(12 * time.Second)
		require.Len(t, tr.Findings(), 1, "nothing has come yet")
		_, err := io.WriteString(peer, "hello")
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 5))
		require.NoError(t, err)
		clk.Advance(12 * time.Second)
		require.Empty(t, tr.Findings())
	})
	t.Run("address that could not be looked up", func(t *testing.T) {
		m := newMachine(t)
		m.ip("address", "add", "10.99.0.1/32", "dev", "lo")
		tr, clk := m.tracker()
		local, _ := m.conn("10.99.0.1", false)
		tr.Track(local, tcpstate.Origin{})
		clk.Advance(13 * time.Second)
		err := errors.New("netlink: permission denied")
		m.err.Store(&err)
		clk.Advance(30 * time.Second)
		require.Empty(t, tr.Findings())
		f := facility(t, tr, "interface_addrs")
		require.False(t, f.OK)
		require.Contains(t, f.Detail, "permission denied")
		require.Equal(t, []tcpstate.Kind{tcpstate.KindPathLocalAddressGone}, f.Kinds)
		m.err.Store(nil)
		clk.Advance(30 * time.Second)
		require.Empty(t, tr.Findings())
		require.True(t, facility(t, tr, "interface_addrs").OK)
	})
}
