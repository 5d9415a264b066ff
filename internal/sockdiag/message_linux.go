package sockdiag

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Not in x/sys. From include/uapi/linux/inet_diag.h.
const (
	tcpDiagGetSock = 18 // message type before SOCK_DIAG_BY_FAMILY

	diagReqProtocol = 3 // attributes of a question
	diagInfo        = 2 // attributes of an answer
	diagShutdown    = 8
	attrKind        = 0x3fff // NLA_TYPE_MASK, include/uapi/linux/netlink.h

	diagMsgLen    = 72 // struct inet_diag_msg
	diagIDLen     = 48 // struct inet_diag_sockid
	diagReqLen    = 8 + diagIDLen
	diagOldReqLen = 12 + diagIDLen
	protocolLen   = unix.SizeofNlAttr + 4
)

const (
	lookupLen = unix.NLMSG_HDRLEN + diagReqLen
	dumpLen   = unix.NLMSG_HDRLEN + diagOldReqLen + protocolLen // the longest
)

const lastState = 12 // TCP_NEW_SYN_RECV

var native = binary.NativeEndian

// header is struct nlmsghdr without its length.
type header struct {
	kind, flags uint16
	seq         uint32
}

// cut splits the first message from b. ok is false when there is no whole one,
// and then the rest of b cannot be read either.
func cut(b []byte) (h header, body, rest []byte, ok bool) {
	if len(b) < unix.NLMSG_HDRLEN {
		return header{}, nil, nil, false
	}
	n := native.Uint32(b)
	if n < unix.NLMSG_HDRLEN || uint64(n) > uint64(len(b)) {
		return header{}, nil, nil, false
	}
	h = header{kind: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:])}
	return h, b[unix.NLMSG_HDRLEN:n:n], b[min(aligned(int(n)), len(b)):], true
}

// errorOf reads the errno of an NLMSG_ERROR or NLMSG_DONE message: 0 is
// success. The end of a dump need not have one.
func errorOf(h header, body []byte) (errno unix.Errno, ok bool) {
	if len(body) == 0 && h.kind == unix.NLMSG_DONE {
		return 0, true
	}
	if len(body) < 4 {
		return 0, false
	}
	v := int32(native.Uint32(body))
	if v > 0 || v < -4095 { // MAX_ERRNO, include/linux/err.h
		return 0, false
	}
	return unix.Errno(-v), true
}

// parseSocket reads a struct inet_diag_msg with its attributes into s, or
// changes nothing. s.Info is a part of b, or nil.
func parseSocket(s *Socket, b []byte) (ok bool) {
	if len(b) < diagMsgLen {
		return false
	}
	found := Socket{
		State:     b[1],
		Timer:     Timer(b[2]),
		Retrans:   b[3],
		Expires:   expires(native.Uint32(b[52:])),
		RecvQueue: native.Uint32(b[56:]),
		SendQueue: native.Uint32(b[60:]),
		UID:       native.Uint32(b[64:]),
		Inode:     native.Uint32(b[68:]),
		Device:    native.Uint32(b[40:]),
		Cookie:    uint64(native.Uint32(b[44:])) | uint64(native.Uint32(b[48:]))<<32,
	}
	if found.State == 0 || found.State > lastState {
		return false
	}
	var local, remote netip.Addr
	switch b[0] {
	case unix.AF_INET:
		local, remote = netip.AddrFrom4([4]byte(b[8:])), netip.AddrFrom4([4]byte(b[24:]))
	case unix.AF_INET6:
		local, remote = netip.AddrFrom16([16]byte(b[8:])).Unmap(), netip.AddrFrom16([16]byte(b[24:])).Unmap()
	default:
		return false
	}
	found.Local = netip.AddrPortFrom(local, binary.BigEndian.Uint16(b[4:]))
	found.Remote = netip.AddrPortFrom(remote, binary.BigEndian.Uint16(b[6:]))
	if !parseAttributes(&found, b[diagMsgLen:]) {
		return false
	}
	*s = found
	return true
}

func parseAttributes(s *Socket, b []byte) (ok bool) {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return false
		}
		n := int(native.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return false
		}
		value := b[unix.SizeofNlAttr:n:n]
		switch native.Uint16(b[2:]) & attrKind {
		case diagInfo:
			s.Info = value
		case diagShutdown:
			if len(value) != 1 {
				return false
			}
			s.Shutdown, s.HasShutdown = Shutdown(value[0]), true
		}
		b = b[min(aligned(n), len(b)):]
	}
	return true
}

// fellBack reads mptcpi_flags of a struct mptcp_info
// (include/uapi/linux/mptcp.h).
func fellBack(info []byte) bool {
	const end, fallback = 12, 1 // of the field; MPTCP_INFO_FLAG_FALLBACK
	return len(info) >= end && native.Uint32(info[end-4:])&fallback != 0
}

// expires turns milliseconds into a duration. Where the kernel does not stop at
// 0 a timer that is overdue is a huge number.
func expires(ms uint32) time.Duration {
	if ms > 1<<31 {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// appendLookup appends the question for one socket.
func appendLookup(b []byte, seq uint32, t Tuple, info bool) []byte {
	b = appendHeader(b, lookupLen, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_REQUEST, seq)
	family := uint8(unix.AF_INET)
	if t.Local.Addr().Is6() {
		family = unix.AF_INET6
	}
	b = append(b, family, unix.IPPROTO_TCP, extensions(info), 0)
	b = native.AppendUint32(b, ^uint32(0))
	return appendID(b, t)
}

// appendDump appends the question for all sockets of a query. mask is sent as
// it is: without a state the kernel only says whether it would answer.
//
// Both families at once are a question of the kind before sock_diag(7), which
// Linux goes on answering.
func appendDump(b []byte, seq uint32, q Query, mask uint32) []byte {
	n, kind := unix.NLMSG_HDRLEN+diagReqLen, uint16(unix.SOCK_DIAG_BY_FAMILY)
	if q.Family == Both {
		n, kind = unix.NLMSG_HDRLEN+diagOldReqLen, tcpDiagGetSock
	}
	info := q.Info
	if q.MPTCP {
		n += protocolLen
		info = true // a struct mptcp_info, see fellBack
	}
	id := Tuple{Local: netip.AddrPortFrom(netip.Addr{}, q.LocalPort), Remote: netip.AddrPortFrom(netip.Addr{}, q.RemotePort)}
	b = appendHeader(b, n, kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq)
	if q.Family == Both {
		b = append(b, unix.AF_UNSPEC, 0, 0, extensions(info))
		b = appendID(b, id)
		b = native.AppendUint32(b, mask)
		b = native.AppendUint32(b, 0)
	} else {
		family := uint8(unix.AF_INET)
		if q.Family == IPv6 {
			family = unix.AF_INET6
		}
		b = append(b, family, unix.IPPROTO_TCP, extensions(info), 0)
		b = native.AppendUint32(b, mask)
		b = appendID(b, id)
	}
	if q.MPTCP { // its number does not fit into the byte of the protocol
		b = native.AppendUint16(b, protocolLen)
		b = native.AppendUint16(b, diagReqProtocol)
		b = native.AppendUint32(b, unix.IPPROTO_MPTCP)
	}
	return b
}

func appendHeader(b []byte, n int, kind, flags uint16, seq uint32) []byte {
	b = native.AppendUint32(b, uint32(n))
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, flags)
	b = native.AppendUint32(b, seq)
	return native.AppendUint32(b, 0)
}

// appendID appends a struct inet_diag_sockid that any cookie matches.
func appendID(b []byte, t Tuple) []byte {
	b = binary.BigEndian.AppendUint16(b, t.Local.Port())
	b = binary.BigEndian.AppendUint16(b, t.Remote.Port())
	b = appendAddr(b, t.Local.Addr())
	b = appendAddr(b, t.Remote.Addr())
	b = native.AppendUint32(b, t.Device)
	return native.AppendUint64(b, ^uint64(0))
}

func appendAddr(b []byte, a netip.Addr) []byte {
	var room [16]byte
	switch {
	case a.Is4():
		v := a.As4()
		copy(room[:], v[:])
	case a.Is6():
		room = a.As16()
	}
	return append(b, room[:]...)
}

func extensions(info bool) uint8 {
	if info {
		return 1 << (diagInfo - 1)
	}
	return 0
}

func aligned(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
