package tcptest

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A filter (SO_ATTACH_FILTER, socket(7)) sees a segment from its TCP header on.
const (
	dataOffset = 12 // header length in words, in the upper half of this byte
	flags      = 13

	flagFIN = 0x01
	flagSYN = 0x02
)

const (
	dropSegment = 0
	keepSegment = 1<<32 - 1 // the verdict is the number of bytes to keep
)

// DropFIN makes c lose the segments that carry a FIN, as if the close of the
// peer never arrived. heal ends that, and so does the cleanup of the test; the
// peer's retransmission then brings the FIN.
//
// A socket has one filter: a second helper of this kind on the same socket
// replaces the first. Sockets accepted from a filtered listener start with its
// filter. Where the kernel gives filters to the privileged only (seen on Linux
// 6.18.44, for TCP sockets), the test is skipped.
func DropFIN(t testing.TB, c syscall.Conn) (heal func()) {
	t.Helper()
	return attach(t, c, []unix.SockFilter{
		loadByte(flags),
		jumpIfSet(flagFIN, 1, 0),
		ret(keepSegment),
		ret(dropSegment),
	})
}

// DropData makes c lose the segments that carry payload, so that handshakes,
// acknowledgements, keepalives and bare FINs still work: a path that swallows
// large packets. Otherwise as [DropFIN].
func DropData(t testing.TB, c syscall.Conn) (heal func()) {
	t.Helper()
	return attach(t, c, []unix.SockFilter{
		loadByte(dataOffset),
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xf0},
		{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 2}, // words in the upper half to bytes
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_X, Jt: 1},
		ret(keepSegment),
		ret(dropSegment),
	})
}

// DropLarge makes c lose the segments that are longer than limit, TCP header
// included: a path with a smaller MTU that tells nobody. Otherwise as [DropFIN].
func DropLarge(t testing.TB, c syscall.Conn, limit int) (heal func()) {
	t.Helper()
	return attach(t, c, []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, Jt: 1, K: uint32(limit)},
		ret(keepSegment),
		ret(dropSegment),
	})
}

// OnlySYN makes a listener lose everything but SYNs. The last ACK of every
// handshake is then missing: the client is ESTABLISHED, the server stays in
// SYN-RECEIVED. Otherwise as [DropFIN].
func OnlySYN(t testing.TB, ln syscall.Conn) (heal func()) {
	t.Helper()
	return attach(t, ln, []unix.SockFilter{
		loadByte(flags),
		jumpIfSet(flagSYN, 0, 1),
		ret(keepSegment),
		ret(dropSegment),
	})
}

func attach(t testing.TB, c syscall.Conn, program []unix.SockFilter) (heal func()) {
	t.Helper()
	raw := rawOf(t, c)
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	err := inControl(raw, func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
	})
	if errors.Is(err, unix.EPERM) {
		t.Skipf("tcptest: %v", explain("attach filter", err))
	}
	if err != nil {
		t.Fatalf("tcptest: %v", explain("attach filter", err))
	}
	heal = sync.OnceFunc(func() {
		// Fails once closed.
		_ = inControl(raw, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		})
	})
	t.Cleanup(heal)
	return heal
}

func loadByte(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: offset}
}

func jumpIfSet(bits uint32, set, clear uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: bits, Jt: set, Jf: clear}
}

func ret(verdict uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict}
}
