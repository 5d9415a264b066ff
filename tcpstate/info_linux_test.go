package tcpstate

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// infoPair returns both ends of a plain TCP connection over loopback.
func infoPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func readInfo(t *testing.T, c syscall.Conn) Info {
	t.Helper()
	info, err := ReadInfo(c)
	require.NoError(t, err)
	return info
}

// waitState waits for the kernel, not for the clock.
func waitState(t *testing.T, c syscall.Conn, want State) Info {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		info := readInfo(t, c)
		if info.State == want || time.Now().After(deadline) {
			require.Equal(t, want, info.State)
			return info
		}
	}
}

func TestReadInfoFollowsTheStates(t *testing.T) {
	client, server := infoPair(t)
	require.Equal(t, Established, readInfo(t, client).State)
	require.Equal(t, Established, waitState(t, server, Established).State)

	require.NoError(t, client.CloseWrite())
	waitState(t, server, CloseWait)
	waitState(t, client, FinWait2)

	require.NoError(t, server.CloseWrite())
	waitState(t, server, Closed)
	waitState(t, client, Closed) // the fd keeps CLOSE, TIME-WAIT has none
}

func TestReadInfoOfAListener(t *testing.T) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()

	info := readInfo(t, ln.(*net.TCPListener))
	require.Equal(t, Listen, info.State)
	require.Positive(t, info.Sacked, "the limit of the accept queue")
	require.Eventually(t, func() bool {
		return readInfo(t, ln.(*net.TCPListener)).Unacked == 1
	}, 10*time.Second, time.Millisecond, "one connection waits")
}

func TestReadInfoCountsBytes(t *testing.T) {
	client, server := infoPair(t)
	c0, s0 := readInfo(t, client), readInfo(t, server)

	const n = 3000
	_, err := client.Write(make([]byte, n))
	require.NoError(t, err)
	_, err = io.ReadFull(server, make([]byte, n))
	require.NoError(t, err)

	require.Equal(t, uint64(n), readInfo(t, server).BytesReceived-s0.BytesReceived)
	require.Eventually(t, func() bool {
		return readInfo(t, client).BytesAcked-c0.BytesAcked == n
	}, 10*time.Second, time.Millisecond)
	c1 := readInfo(t, client)
	require.Greater(t, c1.RTT, time.Duration(0))
	require.Less(t, c1.RTT, 10*time.Second)
	require.Less(t, c1.LastDataSent, time.Minute)
	if c1.Has(InfoBytesSent) {
		require.Equal(t, uint64(n), c1.BytesSent-c0.BytesSent-c1.BytesRetransmitted)
	}
}

func TestReadInfoErrorsOnLinux(t *testing.T) {
	client, _ := infoPair(t)
	require.NoError(t, client.Close())
	_, err := ReadInfo(client)
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorContains(t, err, "tcpstate: read tcp_info: ")

	for _, network := range []string{"udp4", "udp6"} {
		udp, err := net.ListenPacket(network, "localhost:0")
		if err != nil {
			continue // this machine has only one family
		}
		defer udp.Close()
		_, err = ReadInfo(udp.(*net.UDPConn))
		require.Equal(t, ErrNotTCP, err)
		require.NotErrorIs(t, err, errors.ErrUnsupported)
	}

	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer ln.Close()
	_, err = ReadInfo(ln.(*net.UnixListener))
	require.ErrorIs(t, err, ErrNotTCP)

	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	_, err = ReadInfo(r)
	require.ErrorIs(t, err, ErrNotTCP)
}

// TestInfoAgreesWithUnixTCPInfo reads one struct of a socket with traffic on it
// and compares our decoding with the struct layout of x/sys, field by field.
func TestInfoAgreesWithUnixTCPInfo(t *testing.T) {
	client, server := infoPair(t)
	go io.Copy(server, server)
	_, err := client.Write(make([]byte, 20000))
	require.NoError(t, err)
	_, err = io.ReadFull(client, make([]byte, 20000))
	require.NoError(t, err)

	rc, err := client.SyscallConn()
	require.NoError(t, err)
	var raw unix.TCPInfo
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&raw)), unsafe.Sizeof(raw))
	var n int
	require.NoError(t, rc.Control(func(fd uintptr) { n, err = tcpinfo.Get(fd, buf) }))
	require.NoError(t, err)
	compareInfo(t, raw, decodeInfo(buf[:n]))

	// And the same with every field set, whatever this kernel fills. Distinct
	// bytes make any wrong offset visible.
	for i := range buf {
		buf[i] = byte(i + 1)
	}
	compareInfo(t, raw, decodeInfo(buf))
}

func compareInfo(t *testing.T, raw unix.TCPInfo, info Info) {
	t.Helper()
	us := func(v uint32) time.Duration { return time.Duration(v) * time.Microsecond }
	us64 := func(v uint64) time.Duration { return micros64(v) }
	ms := func(v uint32) time.Duration { return time.Duration(v) * time.Millisecond }
	bit := func(n int) bool { return raw.Options&(1<<n) != 0 }
	minRTT := us(raw.Min_rtt)
	if raw.Min_rtt == 1<<32-1 {
		minRTT = 0
	}
	flags := (*[8]byte)(unsafe.Pointer(&raw))
	send, receive, limited, fail := bitFields(flags[6], flags[7], (*[2]byte)(unsafe.Pointer(&[]uint16{1}[0]))[0] == 1)
	want := map[string]any{
		"State": State(raw.State), "CongestionState": CongestionState(raw.Ca_state),
		"Retransmits": raw.Retransmits, "Probes": raw.Probes, "Backoff": raw.Backoff,
		"Timestamps": bit(0), "SACK": bit(1), "WindowScaling": bit(2), "ECN": bit(3),
		"ECNSeen": bit(4), "SYNData": bit(5), "MicrosecondTimestamps": bit(6), "FastOpenChild": bit(7),
		"SendWindowScale": send, "ReceiveWindowScale": receive,
		"DeliveryRateAppLimited": limited, "FastOpenClientFail": fail,
		"RTO": us(raw.Rto), "ATO": us(raw.Ato), "SendMSS": raw.Snd_mss, "ReceiveMSS": raw.Rcv_mss,
		"Unacked": raw.Unacked, "Sacked": raw.Sacked, "Lost": raw.Lost, "Retrans": raw.Retrans,
		"Fackets": raw.Fackets, "LastDataSent": ms(raw.Last_data_sent),
		"LastDataReceived": ms(raw.Last_data_recv), "LastAckReceived": ms(raw.Last_ack_recv),
		"PathMTU": raw.Pmtu, "ReceiveSlowStartThreshold": raw.Rcv_ssthresh, "RTT": us(raw.Rtt),
		"RTTVar": us(raw.Rttvar), "SendSlowStartThreshold": raw.Snd_ssthresh,
		"CongestionWindow": raw.Snd_cwnd, "AdvertisedMSS": raw.Advmss, "Reordering": raw.Reordering,
		"ReceiveRTT": us(raw.Rcv_rtt), "ReceiveSpace": raw.Rcv_space, "TotalRetransmits": raw.Total_retrans,
		"PacingRate": raw.Pacing_rate, "MaxPacingRate": raw.Max_pacing_rate,
		"BytesAcked": raw.Bytes_acked, "BytesReceived": raw.Bytes_received,
		"SegmentsOut": raw.Segs_out, "SegmentsIn": raw.Segs_in, "NotSentBytes": raw.Notsent_bytes,
		"MinRTT": minRTT, "DataSegmentsIn": raw.Data_segs_in, "DataSegmentsOut": raw.Data_segs_out,
		"DeliveryRate": raw.Delivery_rate, "BusyTime": us64(raw.Busy_time),
		"ReceiveWindowLimited": us64(raw.Rwnd_limited), "SendBufferLimited": us64(raw.Sndbuf_limited),
		"Delivered": raw.Delivered, "DeliveredCE": raw.Delivered_ce, "BytesSent": raw.Bytes_sent,
		"BytesRetransmitted": raw.Bytes_retrans, "DSACKDuplicates": raw.Dsack_dups,
		"ReorderSeen": raw.Reord_seen, "OutOfOrderPackets": raw.Rcv_ooopack, "SendWindow": raw.Snd_wnd,
		"ReceiveWindow": raw.Rcv_wnd, "Rehash": raw.Rehash, "TotalRTO": raw.Total_rto,
		"TotalRTORecoveries": raw.Total_rto_recoveries, "TotalRTOTime": ms(raw.Total_rto_time),
		"ReceivedCE": raw.Received_ce, "DeliveredE1Bytes": raw.Delivered_e1_bytes,
		"DeliveredE0Bytes": raw.Delivered_e0_bytes, "DeliveredCEBytes": raw.Delivered_ce_bytes,
		"ReceivedE1Bytes": raw.Received_e1_bytes, "ReceivedE0Bytes": raw.Received_e0_bytes,
		"ReceivedCEBytes": raw.Received_ce_bytes,
		"AccECNWord":      *(*uint32)(unsafe.Add(unsafe.Pointer(&raw), 276)),
	}
	for name, got := range info.All() {
		require.Equal(t, want[name], got, name)
	}
	require.Len(t, want, len(infoTable))
}
