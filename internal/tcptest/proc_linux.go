package tcptest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TableState returns the state of a 4-tuple in the kernel's table
// (/proc/net/tcp and tcp6), which also knows the sockets that no fd shows:
// SYN-RECEIVED, TIME-WAIT and whatever was closed before its peer agreed. For a
// listener remote is nil. [Absent] means not in the table.
func TableState(t testing.TB, local, remote net.Addr) uint8 {
	t.Helper()
	l, r := addrPort(t, local), netip.AddrPort{}
	if remote != nil {
		r = addrPort(t, remote)
	}
	// IPv4 connections of IPv6 sockets are in tcp6, as IPv4-mapped addresses.
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			t.Fatalf("tcptest: %v", err)
		}
		for line := range strings.Lines(string(content)) {
			if found, ok := row(line); ok && found.is(l, r) {
				return found.state
			}
		}
	}
	return Absent
}

// FDCount returns the number of open file descriptors of the process. Go's own
// two (epoll and its eventfd) are always in it.
func FDCount(t testing.TB) int {
	t.Helper()
	fds, err := openFDs()
	if err != nil {
		t.Fatalf("tcptest: %v", err)
	}
	return len(fds)
}

// EpollWatches returns the entries of every epoll instance of the process, Go's
// own included. A socket of the net package is once in Go's.
func EpollWatches(t testing.TB) []EpollWatch {
	t.Helper()
	fds, err := openFDs()
	if err != nil {
		t.Fatalf("tcptest: %v", err)
	}
	var watches []EpollWatch
	for fd, target := range fds {
		if target != "anon_inode:[eventpoll]" {
			continue
		}
		content, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
		if err != nil {
			continue // closed since
		}
		for line := range strings.Lines(string(content)) {
			w := EpollWatch{Epoll: fd}
			var data, pos uint64
			// fs/eventpoll.c, ep_show_fdinfo
			_, err := fmt.Sscanf(line, "tfd: %d events: %x data: %x pos:%d ino:%x", &w.FD, &w.Events, &data, &pos, &w.Inode)
			if err == nil {
				watches = append(watches, w)
			}
		}
	}
	return watches
}

// openFDs returns what the descriptors of the process point to, without the one
// that reads the directory.
func openFDs() (map[int]string, error) {
	const self = "/proc/self/fd"
	dir, err := os.Open(self)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	fds := make(map[int]string, len(names))
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return nil, err
		}
		target, err := os.Readlink(self + "/" + name)
		if err != nil {
			continue // closed since
		}
		fds[fd] = target
	}
	// The directory has the highest number only by chance: it is the entry that
	// points to itself.
	for fd, target := range fds {
		if strings.HasPrefix(target, "/proc/") && strings.HasSuffix(target, "/fd") {
			delete(fds, fd)
		}
	}
	return fds, nil
}

func addrPort(t testing.TB, a net.Addr) netip.AddrPort {
	t.Helper()
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		t.Fatalf("tcptest: %T is not a TCP address", a)
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

type tableRow struct {
	local, remote netip.AddrPort
	state         uint8
}

// row parses a line of /proc/net/tcp; the heading is none.
func row(line string) (r tableRow, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return r, false
	}
	state, err := strconv.ParseUint(fields[3], 16, 8)
	if err != nil {
		return r, false
	}
	r.state = uint8(state)
	var okLocal, okRemote bool
	r.local, okLocal = rowAddress(fields[1])
	r.remote, okRemote = rowAddress(fields[2])
	return r, okLocal && okRemote
}

// is reports whether the row is that of local and remote, or of the listener
// on local when remote is zero.
func (r tableRow) is(local, remote netip.AddrPort) bool {
	if !remote.IsValid() {
		return r.state == Listening && r.local == local
	}
	return r.state != Listening && r.local == local && r.remote == remote
}

// rowAddress parses an address such as 0100007F:1F90: words of 32 bits in the
// byte order of the machine, and the port.
func rowAddress(field string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(field, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	words, err := hex.DecodeString(address)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i+4 <= len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	a, ok := netip.AddrFromSlice(words)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}
