package tcpstate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fullInfo is a struct tcp_info in which every byte of every field is set.
func fullInfo() []byte {
	b := make([]byte, infoSize)
	for i := range b {
		b[i] = byte(i + 1)
	}
	return b
}

func fieldNames(i Info) []string {
	var names []string
	for name := range i.All() {
		names = append(names, name)
	}
	return names
}

func TestAllYieldsEveryFieldOfInfoInItsOrder(t *testing.T) {
	info := decodeInfo(fullInfo())
	require.Equal(t, infoSize, info.Len())

	var want []string
	typ := reflect.TypeFor[Info]()
	for f := range typ.Fields() {
		if f.IsExported() {
			want = append(want, f.Name)
		}
	}
	require.Equal(t, want, fieldNames(info))

	value := reflect.ValueOf(info)
	for name, got := range info.All() {
		require.Equal(t, value.FieldByName(name).Interface(), got, name)
	}
}

func TestInfoTableIsOrderedAndNamesEachConstant(t *testing.T) {
	last := InfoField(0)
	for _, e := range infoTable {
		if e.name == "DeliveryRateAppLimited" {
			require.Equal(t, InfoDeliveryRate, e.end)
			continue
		}
		require.GreaterOrEqual(t, e.end, last, e.name)
		last = e.end
		if e.end > infoBase {
			// One field, one constant, one name.
			want := e.name
			require.Equal(t, want, e.end.String())
		}
	}
	require.Equal(t, InfoAccECNWord, last)
	require.Equal(t, "InfoField(113)", InfoField(113).String())
	require.Equal(t, "InfoField(6)", InfoField(6).String())
}

func TestDecodeInfoUnits(t *testing.T) {
	b := make([]byte, infoSize)
	put32 := func(off int, v uint32) { binary.NativeEndian.PutUint32(b[off:], v) }
	put64 := func(off int, v uint64) { binary.NativeEndian.PutUint64(b[off:], v) }
	b[0], b[1], b[5] = byte(CloseWait), byte(CongestionLoss), 0b1010_0101
	put32(8, 204_000)          // rto, µs
	put32(44, 1500)            // last_data_sent, ms
	put32(148, math.MaxUint32) // min_rtt, not measured
	put64(168, 2_000_000)      // busy_time, µs
	put64(176, math.MaxUint64) // rwnd_limited, nonsense
	put32(244, 750)            // total_rto_time, ms
	put64(104, math.MaxUint64) // pacing_rate, unlimited
	put32(228, 64<<10)         // snd_wnd
	info := decodeInfo(b)

	require.Equal(t, CloseWait, info.State)
	require.Equal(t, CongestionLoss, info.CongestionState)
	require.True(t, info.Timestamps)
	require.False(t, info.SACK)
	require.True(t, info.WindowScaling)
	require.True(t, info.SYNData)
	require.True(t, info.FastOpenChild)
	require.Equal(t, 204*time.Millisecond, info.RTO)
	require.Equal(t, 1500*time.Millisecond, info.LastDataSent)
	require.Zero(t, info.MinRTT)
	require.True(t, info.Has(InfoMinRTT))
	require.Equal(t, 2*time.Second, info.BusyTime)
	require.Positive(t, info.ReceiveWindowLimited)
	require.Equal(t, 750*time.Millisecond, info.TotalRTOTime)
	require.Equal(t, uint64(math.MaxUint64), info.PacingRate)
	require.Equal(t, uint32(64<<10), info.SendWindow)
}

func TestBitFieldsInBothByteOrders(t *testing.T) {
	// Send scale 7, receive scale 10, app limited, SYN retransmitted.
	for _, tt := range []struct {
		scales, flags byte
		little        bool
	}{
		{0xa7, 0b0000_0111, true},
		{0x7a, 0b1110_0000, false},
	} {
		send, receive, appLimited, fail := bitFields(tt.scales, tt.flags, tt.little)
		require.Equal(t, uint8(7), send)
		require.Equal(t, uint8(10), receive)
		require.True(t, appLimited)
		require.Equal(t, uint8(3), fail)
	}
}

func TestDecodeInfoOfEveryLength(t *testing.T) {
	full := append(fullInfo(), make([]byte, 320)...)
	whole := reflect.ValueOf(decodeInfo(full))
	for n := range 601 {
		info := decodeInfo(full[:n])
		require.Equal(t, n, info.Len())
		names := fieldNames(info)
		value := reflect.ValueOf(info)
		for _, e := range infoTable {
			filled := n >= int(e.end)
			require.Equal(t, filled, slices.Contains(names, e.name), "%s at %d", e.name, n)
			require.Equal(t, filled, info.Has(e.end), "%s at %d", e.name, n)
			got := value.FieldByName(e.name)
			if filled {
				require.Equal(t, whole.FieldByName(e.name).Interface(), got.Interface(), "%s at %d", e.name, n)
			} else {
				require.True(t, got.IsZero(), "%s at %d: half filled", e.name, n)
			}
		}
	}
}

func TestZeroInfoHasNothing(t *testing.T) {
	var info Info
	require.Zero(t, info.Len())
	require.False(t, info.Has(0))
	require.False(t, info.Has(InfoPacingRate))
	require.Empty(t, fieldNames(info))
	text, err := json.Marshal(info)
	require.NoError(t, err)
	require.Equal(t, "{}", string(text))
}

func TestAllStopsWhenAsked(t *testing.T) {
	info := decodeInfo(fullInfo())
	n := 0
	for range info.All() {
		if n++; n == 3 {
			break
		}
	}
	require.Equal(t, 3, n)
}

func TestInfoJSONLeavesOutWhatWasNotFilled(t *testing.T) {
	b := make([]byte, 230) // a kernel with out-of-order packets, half a send window
	b[0] = byte(Established)
	binary.NativeEndian.PutUint32(b[68:], 1500)
	info := decodeInfo(b)
	text, err := json.Marshal(info)
	require.NoError(t, err)
	pointer, err := json.Marshal(&info)
	require.NoError(t, err)
	require.Equal(t, string(text), string(pointer))

	require.True(t, strings.HasPrefix(string(text), `{"State":"ESTABLISHED","CongestionState":"open","Retransmits":0,`), string(text))
	var m map[string]any
	require.NoError(t, json.Unmarshal(text, &m))
	require.Equal(t, float64(1_500_000), m["RTT"], "nanoseconds")
	require.Contains(t, m, "OutOfOrderPackets")
	require.NotContains(t, m, "SendWindow")
	require.Len(t, m, len(fieldNames(info)))
}

func TestCongestionStateNames(t *testing.T) {
	require.Equal(t, "open", CongestionOpen.String())
	require.Equal(t, "cwr", CongestionReduced.String())
	require.Equal(t, "loss", CongestionLoss.String())
	require.Equal(t, "unknown", CongestionState(5).String())
}

func TestReadInfoErrors(t *testing.T) {
	_, err := ReadInfo(nil)
	require.EqualError(t, err, "tcpstate: read tcp_info: nil connection")

	_, err = ReadInfo((*net.TCPConn)(nil))
	require.EqualError(t, err, "tcpstate: read tcp_info: nil connection")
}

func TestReadInfoElsewhereIsUnsupported(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Skip("linux has TCP_INFO")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	_, err = ReadInfo(ln.(*net.TCPListener))
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

func FuzzDecodeInfo(f *testing.F) {
	f.Add([]byte{})
	f.Add(fullInfo())
	f.Add(fullInfo()[:104])
	f.Add(fullInfo()[:243])
	f.Add(bytes.Repeat([]byte{0xff}, 600))
	f.Fuzz(func(t *testing.T, b []byte) {
		info := decodeInfo(b)
		require.Equal(t, min(len(b), math.MaxUint16), info.Len())
		for name, value := range info.All() {
			if d, ok := value.(time.Duration); ok {
				require.GreaterOrEqual(t, d, time.Duration(0), name)
			}
		}
		text, err := json.Marshal(info)
		require.NoError(t, err)
		require.True(t, json.Valid(text))
		if len(b) > infoSize {
			same := decodeInfo(b[:infoSize])
			same.n = info.n
			require.Equal(t, same, info, "bytes after the known struct change nothing")
		}
	})
}

func BenchmarkDecodeInfo(b *testing.B) {
	buf := fullInfo()
	b.ReportAllocs()
	for b.Loop() {
		_ = decodeInfo(buf)
	}
}
