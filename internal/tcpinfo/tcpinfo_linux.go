package tcpinfo

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Not in x/sys. From include/linux/socket.h and include/uapi/linux/mptcp.h.
const (
	solMPTCP  = 284
	mptcpInfo = 1

	mptcpFlagsEnd     = 12 // of mptcpi_flags in struct mptcp_info
	mptcpFlagFallback = 1
)

func get(fd uintptr, buf []byte) (int, error) {
	n, errno := getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(unsafe.SliceData(buf)), len(buf))
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt", errno)
	}
	return n, nil
}

func state(fd uintptr) (uint8, error) {
	var b [1]byte
	_, errno := getsockopt(fd, unix.IPPROTO_TCP, unix.TCP_INFO, unsafe.Pointer(&b), len(b))
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt", errno)
	}
	return b[0], nil
}

func unread(fd uintptr) (int, error) {
	in, errno := ioctlInt(fd, unix.SIOCINQ)
	if errno != 0 {
		return 0, os.NewSyscallError("ioctl", errno)
	}
	return int(in), nil
}

func queues(fd uintptr) (recv, send int, err error) {
	in, errno := ioctlInt(fd, unix.SIOCINQ)
	if errno != 0 {
		return 0, 0, os.NewSyscallError("ioctl", errno)
	}
	out, errno := ioctlInt(fd, unix.SIOCOUTQ)
	if errno != 0 {
		return 0, 0, os.NewSyscallError("ioctl", errno)
	}
	return int(in), int(out), nil
}

func mptcp(fd uintptr) bool {
	// SO_PROTOCOL still says MPTCP after a fallback. MPTCP_INFO then fails
	// with EOPNOTSUPP (IPv4) or ENOPROTOOPT (IPv6), as on a plain TCP socket.
	var b [16]byte
	n, errno := getsockopt(fd, solMPTCP, mptcpInfo, unsafe.Pointer(&b), len(b))
	if errno != 0 || n < mptcpFlagsEnd {
		return false
	}
	flags := *(*uint32)(unsafe.Pointer(&b[mptcpFlagsEnd-4]))
	return flags&mptcpFlagFallback == 0
}

func mptcpSocket(fd uintptr) bool {
	p, ok := protocol(fd)
	return ok && p == unix.IPPROTO_MPTCP
}

func notTCP(fd uintptr, err error) bool {
	if errors.Is(err, unix.ENOTSOCK) {
		return true
	}
	// EOPNOTSUPP and ENOPROTOOPT alone prove nothing: MPTCP sockets gave
	// them before Linux 5.16, and a sandbox may.
	p, ok := protocol(fd)
	return ok && p != unix.IPPROTO_TCP && p != unix.IPPROTO_MPTCP
}

// protocol returns what the socket was made for.
func protocol(fd uintptr) (p int32, ok bool) {
	_, errno := getsockopt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, unsafe.Pointer(&p), int(unsafe.Sizeof(p)))
	return p, errno == 0
}

// getsockopt returns the length the kernel wrote, which the typed wrappers of
// x/sys drop. On 386 and s390x the direct call, in place of socketcall, needs
// Linux 4.3; an older kernel gives ENOSYS.
//
// It is no RawSyscall: the kernel takes the socket lock, and may sleep for it.
func getsockopt(fd uintptr, level, name int, p unsafe.Pointer, size int) (int, unix.Errno) {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(name),
		uintptr(p), uintptr(unsafe.Pointer(&n)), 0)
	return int(n), errno
}

// ioctlInt reads the C int that the kernel writes. unix.IoctlGetInt hands it a
// Go int, whose wrong half is filled on 64-bit big-endian machines.
func ioctlInt(fd, req uintptr) (int32, unix.Errno) {
	var v int32
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, req, uintptr(unsafe.Pointer(&v)))
	return v, errno
}
