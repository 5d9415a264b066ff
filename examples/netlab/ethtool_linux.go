package netlab

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// plainSegments makes the device send what a wire would carry: one segment in a
// packet, with its checksum computed. Otherwise several segments travel between
// namespaces as one packet, and are lost as one.
func plainSegments(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_STXCSUM} {
		value := struct{ command, data uint32 }{command, 0}
		// struct ifreq of linux/if.h: the name, then a union.
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:unix.IFNAMSIZ-1], device)
		req.data = unsafe.Pointer(&value)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		if errno != 0 {
			return fmt.Errorf("ethtool command %#x on %s: %w", command, device, errno)
		}
	}
	return nil
}
