package tcpstate_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// inNamespace runs the test in a network namespace of its own: in a child of
// this process, of which it reports whether this is one.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "TCPSTATE_TEST_NAMESPACE"
	if os.Getenv(mark) != "" {
		loopbackUp(t)
		return true
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("a network namespace needs CAP_SYS_ADMIN: %v", err)
	}
	require.NoError(t, err, "%s", out)
	return false
}

func loopbackUp(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	require.NoError(t, err)
	ifr.SetUint16(unix.IFF_UP)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(ifr)))
	require.Zero(t, errno)
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
		t.Skipf("net.ipv4.%s cannot be set: %v", name, err)
	}
}

// churn dials and closes first, so that the ports stay in TIME-WAIT.
func churn(t *testing.T, d *dialer.Dialer, ln *net.TCPListener, n int) error {
	t.Helper()
	for range n {
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			return err
		}
		peer, err := ln.AcceptTCP()
		require.NoError(t, err)
		require.NoError(t, c.Close())
		_, err = peer.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, peer.Close())
		tcptest.WaitTable(t, c.LocalAddr(), c.RemoteAddr(), tcptest.TimeWait)
	}
	return nil
}

// counted lets the tracker count until it has found n findings.
func (r *rig) counted(n int) {
	r.Helper()
	tcptest.WaitUntil(r, "the sockets to be counted", func() bool {
		r.clk.Advance(time.Second)
		return len(r.tr.Findings()) == n
	})
}

func TestPortsThatRunOutAreReported(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	sysctl(t, "ip_local_port_range", "40000 40019")
	sysctl(t, "tcp_tw_reuse", "0")
	r := newRig(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "payments"}
	listen := func() *net.TCPListener {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:80")
		if err != nil {
			ln, err = lc.Listen(t.Context(), "tcp", "127.0.0.1:81")
		}
		require.NoError(t, err)
		t.Cleanup(func() { ln.Close() })
		return ln.(*net.TCPListener)
	}
	ln, other := listen(), listen()

	// The same number, over two targets: none of them is short of ports.
	require.NoError(t, churn(t, d, ln, 10))
	require.NoError(t, churn(t, d, other, 10))
	r.clk.Advance(5 * time.Second)
	r.silent()

	require.NoError(t, churn(t, d, ln, 7))
	r.counted(1)
	f := r.one(tcpstate.KindDialPorts)
	require.Equal(t, tcpstate.Warning, f.Severity)
	require.Equal(t, "127.0.0.1:80", f.Subject.Target)
	require.Contains(t, f.Summary, "17 of 20 local ports to 127.0.0.1:80 are taken, 17 of them by TIME-WAIT")
	require.Contains(t, f.Fix, "MaxIdleConnsPerHost to the usual concurrency")

	p := r.tr.NewPool(tcpstate.Origin{Name: "payments"})
	closes(p, "127.0.0.1:81", 50, 60, 60)
	require.Equal(t, f.Fix, r.one(tcpstate.KindDialPorts).Fix, "another target")
	closes(p, "127.0.0.1:80", 15, 20, 17)
	f = r.one(tcpstate.KindDialPorts)
	require.Contains(t, f.Summary, "Its pool closed 15 connections only because enough of them lay idle. MaxIdleConnsPerHost is 2")
	require.Contains(t, f.Fix, "set MaxIdleConnsPerHost to ")

	require.ErrorIs(t, churn(t, d, ln, 4), syscall.EADDRNOTAVAIL)
	tcptest.WaitUntil(t, "the error", func() bool {
		r.clk.Advance(time.Second)
		fs := r.tr.Findings()
		return len(fs) == 1 && fs[0].Severity == tcpstate.Error
	})
	require.Contains(t, r.one(tcpstate.KindDialPorts).Summary, "every local port is taken")
}

func TestPortsThatTIMEWAITDoesNotKeepAreNotReported(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	sysctl(t, "ip_local_port_range", "40000 40019")
	sysctl(t, "tcp_tw_reuse", "2") // the default: on loopback
	r := newRig(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "payments"}
	ln := tcptest.Listen(t)
	require.NoError(t, churn(t, d, ln, 17))
	for range 20 {
		r.clk.Advance(time.Second)
		tcptest.WaitUntil(t, "a count to end", func() bool { return !tcpstate.Counting(r.tr) })
	}
	r.silent()

	// An address that does not exist gives the same error as a lack of ports.
	d.NetDialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9)}
	_, err := d.Dial("tcp", "127.0.0.1:1")
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	for range 20 {
		r.clk.Advance(time.Second)
		tcptest.WaitUntil(t, "a count to end", func() bool { return !tcpstate.Counting(r.tr) })
	}
	r.silent()
}
