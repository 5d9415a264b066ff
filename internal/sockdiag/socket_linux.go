package sockdiag

import (
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A transport carries datagrams to and from the kernel. recv does not wait:
// without a datagram it fails with EAGAIN. n is the length of the datagram,
// which may be more than b holds, and port is the netlink port of the sender:
// 0 is the kernel.
type transport interface {
	send(b []byte) error
	recv(b []byte) (n int, port uint32, err error)
	device(name string) (index uint32, err error)
	close() error
}

// socket is a netlink socket. It is no os.File, which would cost one of the
// user's epoll watches: nobody waits for it.
type socket int

func openSocket() (transport, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return socket(fd), nil
}

// send needs no address: a netlink socket that is not connected sends to the
// kernel (net/netlink/af_netlink.c, netlink_sendmsg).
func (s socket) send(b []byte) error {
	for {
		n, err := unix.Write(int(s), b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("write", err)
		case n != len(b):
			return io.ErrShortWrite
		default:
			return nil
		}
	}
}

// recv is no unix.Recvfrom, which allocates the address. MSG_TRUNC returns the
// true length (recv(2)).
func (s socket) recv(b []byte) (int, uint32, error) {
	var from unix.RawSockaddrNetlink
	for {
		size := uint32(unsafe.Sizeof(from))
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
		switch errno {
		case unix.EINTR:
		case 0:
			return int(n), from.Pid, nil
		default:
			return 0, 0, errno
		}
	}
}

// device asks with the same socket: any can (netdevice(7)).
func (s socket) device(name string) (uint32, error) {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(int(s), unix.SIOCGIFINDEX, r); err != nil {
		return 0, os.NewSyscallError("ioctl", err)
	}
	return r.Uint32(), nil
}

func (s socket) close() error { return os.NewSyscallError("close", unix.Close(int(s))) }
