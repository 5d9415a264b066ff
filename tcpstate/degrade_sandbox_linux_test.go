package tcpstate_test

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"net"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// inSandbox runs the test in a child of this process, to which the kernel may
// refuse what it likes. It reports whether this is that child.
func inSandbox(t *testing.T) bool {
	t.Helper()
	const mark = "TCPSTATE_TEST_SANDBOX"
	if os.Getenv(mark) != "" {
		return true
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
	return false
}

// refuseNetlink makes socket(AF_NETLINK) fail with EPERM in every thread of the
// process, for good (seccomp(2)). Where socket goes by another call, as on 386,
// it skips the test.
func refuseNetlink(t *testing.T) {
	t.Helper()
	if runtime.GOARCH == "386" || runtime.GOARCH == "s390x" {
		t.Skip("socket is a part of socketcall(2) here, whose arguments a filter cannot see")
	}
	// Offsets are those of struct seccomp_data (include/uapi/linux/seccomp.h).
	const nr, domain = 0, 16
	low := uint32(domain)
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) == 0 {
		low += 4 // the half of 64 bits that counts
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: low},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_NETLINK, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	install(t, filter)
	_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	require.ErrorIs(t, err, unix.EPERM)
}

// refuse makes a system call fail with EPERM in every thread of the process.
func refuse(t *testing.T, call uint32) {
	t.Helper()
	install(t, []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	})
}

func install(t *testing.T, filter []unix.SockFilter) {
	t.Helper()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno == unix.ENOSYS || errno == unix.EINVAL {
		t.Skipf("no seccomp filters here: %v", errno)
	}
	require.Zero(t, errno)
}

// Without netlink nothing is known of closed sockets, of all sockets of the host
// and of the addresses of the interfaces. Everything else is as ever.
func TestWithoutNetlink(t *testing.T) {
	if !inSandbox(t) {
		return
	}
	refuseNetlink(t)
	_, err := net.InterfaceAddrs()
	require.ErrorIs(t, err, unix.EPERM)

	r := newRig(t)
	require.Equal(t, map[string][]tcpstate.Kind{
		"sock_diag":       {tcpstate.KindClosingFINUnacked, tcpstate.KindClosingDataUndelivered, tcpstate.KindPeerKeepsHalfOpen},
		"ports":           {tcpstate.KindDialPorts},
		"syn_recv":        {tcpstate.KindListenerSYNRecv},
		"interface_addrs": {tcpstate.KindPathLocalAddressGone},
	}, lost(r.tr), "before anybody has tried")

	leaked, client := r.accepted()
	r.say(client, "hello", leaked)
	r.closes(client, leaked.TCPConn)

	full, _ := tcptest.Pair(t, tcptest.SmallBuffers())
	stuck := r.tr.Track(full, tcpstate.Origin{Name: "db", Target: "db:5432"})
	tcptest.FillWindow(t, full)

	addr := tcptest.DeadListener(t)
	cancel, wait := r.dialing(&dialer.Dialer{Tracker: r.tr, NetDialer: plain()}, addr)
	r.resent(2)
	r.clk.Advance(45 * time.Second)
	kinds := map[tcpstate.Kind]int{}
	for _, f := range r.tr.Findings() {
		kinds[f.Kind]++
	}
	require.Equal(t, map[tcpstate.Kind]int{
		tcpstate.KindCloseWaitNotReading: 1, tcpstate.KindPeerNotReading: 1, tcpstate.KindDialNoAnswer: 1,
	}, kinds)
	cancel()
	require.Error(t, wait())

	// The kernel has data that the peer does not take, and nobody can know.
	require.NoError(t, stuck.Close())
	require.NoError(t, leaked.Close())
	r.clk.Advance(5 * time.Second)
	require.Zero(t, r.tr.Stats().Closing)
	require.NotZero(t, r.tr.Stats().Unfollowed, "it is counted")
	require.Contains(t, facility(t, r.tr, "sock_diag").Detail, "operation not permitted")
	require.Contains(t, facility(t, r.tr, "interface_addrs").Detail, "operation not permitted")

	again, peer := r.accepted()
	r.say(again, "works", peer)
	r.say(peer, "works", again)
	require.NoError(t, again.Close())
	require.Zero(t, r.tr.Stats().Panics)
}

// lost returns the facilities that are missing, and the kinds that each takes
// with it.
func lost(tr *tcpstate.Tracker) map[string][]tcpstate.Kind {
	all := make(map[string][]tcpstate.Kind)
	for _, f := range tr.Facilities() {
		if !f.OK {
			all[f.Name] = f.Kinds
		}
	}
	return all
}

// Go cannot do without epoll, but it needs only one: a sandbox that is closed
// after that refuses the one of the tracker.
func TestWithoutAnEpollOfItsOwn(t *testing.T) {
	if !inSandbox(t) {
		return
	}
	tcptest.Pair(t) // with which Go has its own
	refuse(t, unix.SYS_EPOLL_CREATE1)
	r := newRig(t)
	leaked, client := r.accepted()
	r.say(client, "hello", leaked)
	r.say(leaked, "hello", client)
	r.closes(client, leaked.TCPConn)
	r.clk.Advance(45 * time.Second)
	f := r.one(tcpstate.KindCloseWaitNotReading)
	require.Zero(t, r.tr.Stats().Watched)
	missing := lost(r.tr)
	require.Len(t, missing, 1)
	require.Contains(t, missing["epoll"], f.Kind)
	require.Contains(t, facility(t, r.tr, "epoll").Detail, "operation not permitted")
	r.clears(leaked)
	require.Zero(t, r.tr.Stats().Panics)
}
