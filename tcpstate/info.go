package tcpstate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// ErrNotTCP is returned for a connection that is not TCP, such as a UDP or
// Unix socket.
var ErrNotTCP = errors.New("tcpstate: not a TCP connection")

// An Info is what the kernel knows about one TCP socket: struct tcp_info of
// include/uapi/linux/tcp.h, filled by tcp_get_info in net/ipv4/tcp.c and read
// with the TCP_INFO option of tcp(7). Only Linux fills it.
//
// Kernels fill more or less of it. A field that was not filled is zero;
// [Info.Has] tells such a zero from a measured one for the fields up from
// PacingRate, the others are always there. The zero Info has no field filled.
//
// An Info is a plain value: comparable, safe to copy, never updated.
// On a Multipath TCP connection the numbers are those of its first subflow.
type Info struct {
	// State is the state of the endpoint.
	State State
	// CongestionState is the state of loss recovery.
	CongestionState CongestionState
	// Retransmits counts the retransmission timeouts in a row of the oldest
	// segment that was not acknowledged; progress resets it. In SYN-SENT it
	// counts repeated SYNs.
	Retransmits uint8
	// Probes counts the keepalive or zero-window probes in a row without an
	// answer.
	Probes uint8
	// Backoff is how often the timer was doubled without an answer.
	Backoff uint8

	// Timestamps, SACK, WindowScaling and ECN tell what both SYNs agreed on.
	Timestamps, SACK, WindowScaling, ECN bool
	// ECNSeen is true after at least one segment that the sender marked as
	// ECN capable.
	ECNSeen bool
	// SYNData is true when data in a SYN was sent or received, and
	// acknowledged by the SYN-ACK (TCP Fast Open).
	SYNData bool
	// MicrosecondTimestamps is true when the timestamps option counts
	// microseconds. Older kernels never set it.
	MicrosecondTimestamps bool
	// FastOpenChild is true on an accepted socket whose SYN carried a valid
	// Fast Open cookie. Older kernels never set it.
	FastOpenChild bool

	// SendWindowScale and ReceiveWindowScale are the shifts (0 to 14) that
	// the peer and we apply to the window in a segment header.
	SendWindowScale, ReceiveWindowScale uint8
	// DeliveryRateAppLimited is true when DeliveryRate was measured while
	// the application, not the network, set the pace.
	DeliveryRateAppLimited bool
	// FastOpenClientFail says why Fast Open failed on a dialed connection:
	// 0 it did not or nobody tried, 1 there was no cookie, 2 the SYN-ACK did
	// not cover the data, 3 the SYN had to be repeated. Older kernels leave 0.
	FastOpenClientFail uint8

	// RTO is the time after which a segment is sent again.
	RTO time.Duration
	// ATO is the delay after which an acknowledgement is sent on its own.
	ATO time.Duration
	// SendMSS is the largest payload of a segment we send, ReceiveMSS the
	// estimate of the largest we receive, in bytes.
	SendMSS, ReceiveMSS uint32

	// Unacked counts segments sent and not acknowledged. On a listening
	// socket it is the length of the accept queue.
	Unacked uint32
	// Sacked counts segments the peer has out of order. On a listening
	// socket it is the limit of the accept queue.
	Sacked uint32
	// Lost counts segments in flight that are taken for lost.
	Lost uint32
	// Retrans counts segments in flight that were sent again. See
	// TotalRetransmits for the sum over the connection's life.
	Retrans uint32
	// Fackets is not filled by kernels since Linux 4.15.
	Fackets uint32

	// LastDataSent, LastDataReceived and LastAckReceived are ages: how long
	// ago it happened, in steps of a millisecond. Where it never happened
	// the age may be that of the socket, or of the machine in SYN-SENT.
	// (The kernel keeps no time for the last acknowledgement we sent.)
	LastDataSent, LastDataReceived, LastAckReceived time.Duration

	// PathMTU is the largest packet the path is believed to carry, in bytes.
	PathMTU uint32
	// ReceiveSlowStartThreshold limits the window we offer, in bytes.
	ReceiveSlowStartThreshold uint32
	// RTT is the smoothed round-trip time and RTTVar its mean deviation.
	// RTT is 0 before the first measurement.
	RTT, RTTVar time.Duration
	// SendSlowStartThreshold is in segments; 2147483647 means that it was
	// not set yet.
	SendSlowStartThreshold uint32
	// CongestionWindow is how many segments may be in flight.
	CongestionWindow uint32
	// AdvertisedMSS is the segment size we told the peer, in bytes.
	AdvertisedMSS uint32
	// Reordering is how many segments may overtake each other before one
	// counts as lost.
	Reordering uint32

	// ReceiveRTT is the round-trip time as a receiver estimates it.
	ReceiveRTT time.Duration
	// ReceiveSpace is the receive buffer's target, in bytes per round trip.
	ReceiveSpace uint32

	// TotalRetransmits counts the segments that were sent again since the
	// connection began.
	TotalRetransmits uint32

	// PacingRate and MaxPacingRate are in bytes per second; the largest
	// uint64 means unlimited. Since Linux 3.15.
	PacingRate, MaxPacingRate uint64

	// BytesAcked counts the bytes the peer acknowledged, BytesReceived those
	// that arrived in order. Our SYN, our FIN and the peer's FIN count as one
	// byte each: use differences. Since Linux 4.1.
	BytesAcked, BytesReceived uint64
	// SegmentsOut and SegmentsIn count segments of every kind, with
	// retransmissions. Since Linux 4.2.
	SegmentsOut, SegmentsIn uint32

	// NotSentBytes are written by the application and were never sent.
	// Since Linux 4.6.
	NotSentBytes uint32
	// MinRTT is the lowest round-trip time of the recent past, 0 before the
	// first measurement. Since Linux 4.6.
	MinRTT time.Duration
	// DataSegmentsIn and DataSegmentsOut count only segments with payload.
	// Since Linux 4.6.
	DataSegmentsIn, DataSegmentsOut uint32
	// DeliveryRate is the most recent rate at which data reached the peer, in
	// bytes per second. Since Linux 4.9.
	DeliveryRate uint64

	// BusyTime is how long there was data to send; ReceiveWindowLimited how
	// much of that the peer's window, and SendBufferLimited how much of it
	// our send buffer, held the sender back. Since Linux 4.10.
	BusyTime, ReceiveWindowLimited, SendBufferLimited time.Duration

	// Delivered counts segments that reached the peer, DeliveredCE those the
	// peer saw marked for congestion. Since Linux 4.18.
	Delivered, DeliveredCE uint32

	// BytesSent counts payload sent, with retransmissions, and
	// BytesRetransmitted the retransmissions alone. Since Linux 4.19.
	BytesSent, BytesRetransmitted uint64
	// DSACKDuplicates counts the duplicates that the peer reported.
	// Since Linux 4.19.
	DSACKDuplicates uint32
	// ReorderSeen counts reordering events. Since Linux 4.19.
	ReorderSeen uint32
	// OutOfOrderPackets counts packets that arrived out of order.
	// Since Linux 5.4.
	OutOfOrderPackets uint32

	// SendWindow is the window the peer offers, in bytes after scaling: 0
	// means that the peer must read before we may send. Since Linux 5.4.
	SendWindow uint32
	// ReceiveWindow is the window we offer, in bytes after scaling.
	// Since Linux 6.2.
	ReceiveWindow uint32
	// Rehash counts how often the flow was moved to another path because of
	// timeouts or load. Since Linux 6.2.
	Rehash uint32

	// TotalRTO counts retransmission timeouts, TotalRTORecoveries the
	// episodes they came in, and TotalRTOTime is the time spent in them, with
	// an episode that still lasts. Since Linux 6.7.
	TotalRTO, TotalRTORecoveries uint16
	TotalRTOTime                 time.Duration

	// ReceivedCE counts packets that arrived marked for congestion. Since
	// Linux 6.18, as are all the Accurate ECN fields.
	ReceivedCE uint32
	// DeliveredE1Bytes, DeliveredE0Bytes and DeliveredCEBytes count the
	// payload that the peer received with the marks ECT(1), ECT(0) and CE.
	// They wrap at 2^32.
	DeliveredE1Bytes, DeliveredE0Bytes, DeliveredCEBytes uint32
	// ReceivedE1Bytes, ReceivedE0Bytes and ReceivedCEBytes count the payload
	// that we received with those marks. They wrap at 2^32.
	ReceivedE1Bytes, ReceivedE0Bytes, ReceivedCEBytes uint32
	// AccECNWord is the last word as the kernel left it, undecoded: it began
	// as padding and then had two layouts of ECN mode and failures, all of the
	// same length, so that the length cannot tell which one this is.
	AccECNWord uint32

	// n is the length the kernel returned.
	n uint16
}

// A CongestionState is the state of the sender's loss recovery, with the
// kernel's numbers (enum tcp_ca_state in include/uapi/linux/tcp.h). The zero
// value is CongestionOpen, the normal state.
type CongestionState uint8

const (
	// CongestionOpen means that nothing looks lost.
	CongestionOpen CongestionState = iota
	// CongestionDisorder means that duplicate or selective acknowledgements
	// came, not yet enough to call a segment lost.
	CongestionDisorder
	// CongestionReduced is the kernel's CWR: the window shrinks because of a
	// congestion mark or a full local queue, not because of a loss.
	CongestionReduced
	// CongestionRecovery means that lost segments are being sent again.
	CongestionRecovery
	// CongestionLoss means that the retransmission timer fired.
	CongestionLoss
)

var congestionNames = [...]string{"open", "disorder", "cwr", "recovery", "loss"}

// String returns the kernel's name in lower case, and "unknown" for a number
// it does not define.
func (c CongestionState) String() string {
	if int(c) < len(congestionNames) {
		return congestionNames[c]
	}
	return "unknown"
}

// MarshalText returns the String form. It never fails.
func (c CongestionState) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// ReadInfo asks the kernel about the socket of c, which stays untouched: no
// byte is read and no error of the socket is consumed.
//
// The error matches [net.ErrClosed] when c is closed, [ErrNotTCP] when it is
// no TCP socket, and [errors.ErrUnsupported] everywhere but on Linux.
func ReadInfo(c syscall.Conn) (Info, error) {
	// A nil *net.TCPConn in c would panic in its SyscallConn.
	if v := reflect.ValueOf(c); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return Info{}, errors.New("tcpstate: read tcp_info: nil connection")
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return Info{}, fmt.Errorf("tcpstate: read tcp_info: %w", err)
	}
	var (
		buf    [tcpinfo.MaxSize]byte
		n      int
		notTCP bool
		getErr error
	)
	err = rc.Control(func(fd uintptr) {
		n, getErr = tcpinfo.Get(fd, buf[:])
		notTCP = getErr != nil && tcpinfo.NotTCP(fd, getErr)
	})
	if notTCP {
		// Without the errno: EOPNOTSUPP would match errors.ErrUnsupported,
		// which is kept for platforms.
		return Info{}, ErrNotTCP
	}
	if err == nil {
		err = getErr
	}
	if err != nil {
		return Info{}, fmt.Errorf("tcpstate: read tcp_info: %w", err)
	}
	return decodeInfo(buf[:n]), nil
}

// decodeInfo decodes a struct tcp_info of any length in the byte order of this
// machine. A field that b ends in the middle of stays zero.
func decodeInfo(b []byte) Info {
	// The array makes every read below safe; what lies behind the last whole
	// field is left zero in it.
	var a [infoSize]byte
	copy(a[:], b[:wholeFields(len(b))])

	le := binary.NativeEndian.Uint16([]byte{1, 0}) == 1
	sendScale, receiveScale, appLimited, openFail := bitFields(a[6], a[7], le)

	u32 := func(off int) uint32 { return binary.NativeEndian.Uint32(a[off:]) }
	u64 := func(off int) uint64 { return binary.NativeEndian.Uint64(a[off:]) }
	micros := func(off int) time.Duration { return time.Duration(u32(off)) * time.Microsecond }
	millis := func(off int) time.Duration { return time.Duration(u32(off)) * time.Millisecond }

	minRTT := micros(148)
	if u32(148) == 1<<32-1 { // the kernel's "no sample yet"
		minRTT = 0
	}
	return Info{
		State:                 State(a[0]),
		CongestionState:       CongestionState(a[1]),
		Retransmits:           a[2],
		Probes:                a[3],
		Backoff:               a[4],
		Timestamps:            a[5]&1 != 0,
		SACK:                  a[5]&2 != 0,
		WindowScaling:         a[5]&4 != 0,
		ECN:                   a[5]&8 != 0,
		ECNSeen:               a[5]&16 != 0,
		SYNData:               a[5]&32 != 0,
		MicrosecondTimestamps: a[5]&64 != 0,
		FastOpenChild:         a[5]&128 != 0,

		SendWindowScale:    sendScale,
		ReceiveWindowScale: receiveScale,
		// A spare bit of the first 8 bytes, meaningless without the rate.
		DeliveryRateAppLimited: appLimited && len(b) >= int(InfoDeliveryRate),
		FastOpenClientFail:     openFail,

		RTO:        micros(8),
		ATO:        micros(12),
		SendMSS:    u32(16),
		ReceiveMSS: u32(20),
		Unacked:    u32(24),
		Sacked:     u32(28),
		Lost:       u32(32),
		Retrans:    u32(36),
		Fackets:    u32(40),

		LastDataSent:     millis(44), // 48 is tcpi_last_ack_sent, always 0
		LastDataReceived: millis(52),
		LastAckReceived:  millis(56),

		PathMTU:                   u32(60),
		ReceiveSlowStartThreshold: u32(64),
		RTT:                       micros(68),
		RTTVar:                    micros(72),
		SendSlowStartThreshold:    u32(76),
		CongestionWindow:          u32(80),
		AdvertisedMSS:             u32(84),
		Reordering:                u32(88),
		ReceiveRTT:                micros(92),
		ReceiveSpace:              u32(96),
		TotalRetransmits:          u32(100),

		PacingRate:           u64(104),
		MaxPacingRate:        u64(112),
		BytesAcked:           u64(120),
		BytesReceived:        u64(128),
		SegmentsOut:          u32(136),
		SegmentsIn:           u32(140),
		NotSentBytes:         u32(144),
		MinRTT:               minRTT,
		DataSegmentsIn:       u32(152),
		DataSegmentsOut:      u32(156),
		DeliveryRate:         u64(160),
		BusyTime:             micros64(u64(168)),
		ReceiveWindowLimited: micros64(u64(176)),
		SendBufferLimited:    micros64(u64(184)),
		Delivered:            u32(192),
		DeliveredCE:          u32(196),
		BytesSent:            u64(200),
		BytesRetransmitted:   u64(208),
		DSACKDuplicates:      u32(216),
		ReorderSeen:          u32(220),
		OutOfOrderPackets:    u32(224),
		SendWindow:           u32(228),
		ReceiveWindow:        u32(232),
		Rehash:               u32(236),
		TotalRTO:             binary.NativeEndian.Uint16(a[240:]),
		TotalRTORecoveries:   binary.NativeEndian.Uint16(a[242:]),
		TotalRTOTime:         millis(244),
		ReceivedCE:           u32(248),
		DeliveredE1Bytes:     u32(252),
		DeliveredE0Bytes:     u32(256),
		DeliveredCEBytes:     u32(260),
		ReceivedE1Bytes:      u32(264),
		ReceivedE0Bytes:      u32(268),
		ReceivedCEBytes:      u32(272),
		AccECNWord:           u32(276),

		n: uint16(min(len(b), 1<<16-1)),
	}
}

// bitFields splits the two bytes of C bit-fields. C compilers fill a byte from
// its low end on little-endian machines and from its high end on the others.
func bitFields(scales, flags byte, littleEndian bool) (send, receive uint8, appLimited bool, openFail uint8) {
	if littleEndian {
		return scales & 0xf, scales >> 4, flags&1 != 0, flags >> 1 & 3
	}
	return scales >> 4, scales & 0xf, flags&0x80 != 0, flags >> 5 & 3
}

// micros64 saturates instead of overflowing on a length that no kernel
// reports but a fuzzer does.
func micros64(us uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Microsecond)
	return time.Duration(min(us, most)) * time.Microsecond
}
