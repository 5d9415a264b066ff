package tcpstate

import (
	"encoding/json"
	"iter"
	"strconv"
)

// An InfoField names a field of [Info] that not every kernel fills. Its value
// is the offset in struct tcp_info at which the field ends.
type InfoField uint16

// The fields after the first 104 bytes, which every kernel since Linux 2.6
// fills. What each means is said at the field of Info with the same name.
const (
	InfoPacingRate           InfoField = 112
	InfoMaxPacingRate        InfoField = 120
	InfoBytesAcked           InfoField = 128
	InfoBytesReceived        InfoField = 136
	InfoSegmentsOut          InfoField = 140
	InfoSegmentsIn           InfoField = 144
	InfoNotSentBytes         InfoField = 148
	InfoMinRTT               InfoField = 152
	InfoDataSegmentsIn       InfoField = 156
	InfoDataSegmentsOut      InfoField = 160
	InfoDeliveryRate         InfoField = 168 // DeliveryRateAppLimited as well
	InfoBusyTime             InfoField = 176
	InfoReceiveWindowLimited InfoField = 184
	InfoSendBufferLimited    InfoField = 192
	InfoDelivered            InfoField = 196
	InfoDeliveredCE          InfoField = 200
	InfoBytesSent            InfoField = 208
	InfoBytesRetransmitted   InfoField = 216
	InfoDSACKDuplicates      InfoField = 220
	InfoReorderSeen          InfoField = 224
	InfoOutOfOrderPackets    InfoField = 228
	InfoSendWindow           InfoField = 232
	InfoReceiveWindow        InfoField = 236
	InfoRehash               InfoField = 240
	InfoTotalRTO             InfoField = 242
	InfoTotalRTORecoveries   InfoField = 244
	InfoTotalRTOTime         InfoField = 248
	InfoReceivedCE           InfoField = 252
	InfoDeliveredE1Bytes     InfoField = 256
	InfoDeliveredE0Bytes     InfoField = 260
	InfoDeliveredCEBytes     InfoField = 264
	InfoReceivedE1Bytes      InfoField = 268
	InfoReceivedE0Bytes      InfoField = 272
	InfoReceivedCEBytes      InfoField = 276
	InfoAccECNWord           InfoField = 280
)

// infoSize is the part of struct tcp_info that Info knows.
const infoSize = int(InfoAccECNWord)

// String returns the name of the field in Info.
func (f InfoField) String() string {
	// Backwards: where two fields share an end, the later one gives the name.
	for k := len(infoTable) - 1; k >= 0 && f > infoBase; k-- {
		if infoTable[k].end == f {
			return infoTable[k].name
		}
	}
	return "InfoField(" + strconv.Itoa(int(f)) + ")"
}

// Has reports whether the kernel filled f. It goes by the number of bytes the
// kernel wrote, because distributions carry newer fields in older kernels.
func (i *Info) Has(f InfoField) bool { return i.n >= uint16(f) && f != 0 }

// Len returns how many bytes of struct tcp_info the kernel wrote. It is 0 for
// an Info that was never read, and can exceed what this package knows.
func (i *Info) Len() int { return int(i.n) }

// All yields the filled fields by their name in Info, in the order of the
// kernel's struct. Values have the type of the field.
func (i *Info) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for k := range infoTable {
			e := &infoTable[k]
			if i.Has(e.end) && !yield(e.name, e.value(i)) {
				return
			}
		}
	}
}

// MarshalJSON writes an object of the filled fields only, under their names in
// Info and in the order of All. Times are integers in nanoseconds, states are
// strings.
func (i Info) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 2048)
	b = append(b, '{')
	for name, value := range i.All() {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, name)
		b = append(b, ':')
		b = append(b, text...)
	}
	return append(b, '}'), nil
}

// wholeFields returns how many of n bytes belong to fields that end within
// them.
func wholeFields(n int) int {
	if n >= infoSize { // every current kernel
		return infoSize
	}
	whole := 0
	for k := range infoTable {
		if end := int(infoTable[k].end); end <= n {
			whole = max(whole, end)
		}
	}
	return whole
}

// infoBase ends the fields that every kernel fills.
const infoBase InfoField = 104

type infoEntry struct {
	name string
	// end is the length from which on the field counts as filled.
	end   InfoField
	value func(*Info) any
}

// infoTable lists the fields in the order of the kernel.
var infoTable = [...]infoEntry{
	{"State", 1, func(i *Info) any { return i.State }},
	{"CongestionState", 2, func(i *Info) any { return i.CongestionState }},
	{"Retransmits", 3, func(i *Info) any { return i.Retransmits }},
	{"Probes", 4, func(i *Info) any { return i.Probes }},
	{"Backoff", 5, func(i *Info) any { return i.Backoff }},
	{"Timestamps", 6, func(i *Info) any { return i.Timestamps }},
	{"SACK", 6, func(i *Info) any { return i.SACK }},
	{"WindowScaling", 6, func(i *Info) any { return i.WindowScaling }},
	{"ECN", 6, func(i *Info) any { return i.ECN }},
	{"ECNSeen", 6, func(i *Info) any { return i.ECNSeen }},
	{"SYNData", 6, func(i *Info) any { return i.SYNData }},
	{"MicrosecondTimestamps", 6, func(i *Info) any { return i.MicrosecondTimestamps }},
	{"FastOpenChild", 6, func(i *Info) any { return i.FastOpenChild }},
	{"SendWindowScale", 7, func(i *Info) any { return i.SendWindowScale }},
	{"ReceiveWindowScale", 7, func(i *Info) any { return i.ReceiveWindowScale }},
	{"DeliveryRateAppLimited", InfoDeliveryRate, func(i *Info) any { return i.DeliveryRateAppLimited }},
	{"FastOpenClientFail", 8, func(i *Info) any { return i.FastOpenClientFail }},
	{"RTO", 12, func(i *Info) any { return i.RTO }},
	{"ATO", 16, func(i *Info) any { return i.ATO }},
	{"SendMSS", 20, func(i *Info) any { return i.SendMSS }},
	{"ReceiveMSS", 24, func(i *Info) any { return i.ReceiveMSS }},
	{"Unacked", 28, func(i *Info) any { return i.Unacked }},
	{"Sacked", 32, func(i *Info) any { return i.Sacked }},
	{"Lost", 36, func(i *Info) any { return i.Lost }},
	{"Retrans", 40, func(i *Info) any { return i.Retrans }},
	{"Fackets", 44, func(i *Info) any { return i.Fackets }},
	{"LastDataSent", 48, func(i *Info) any { return i.LastDataSent }},
	{"LastDataReceived", 56, func(i *Info) any { return i.LastDataReceived }},
	{"LastAckReceived", 60, func(i *Info) any { return i.LastAckReceived }},
	{"PathMTU", 64, func(i *Info) any { return i.PathMTU }},
	{"ReceiveSlowStartThreshold", 68, func(i *Info) any { return i.ReceiveSlowStartThreshold }},
	{"RTT", 72, func(i *Info) any { return i.RTT }},
	{"RTTVar", 76, func(i *Info) any { return i.RTTVar }},
	{"SendSlowStartThreshold", 80, func(i *Info) any { return i.SendSlowStartThreshold }},
	{"CongestionWindow", 84, func(i *Info) any { return i.CongestionWindow }},
	{"AdvertisedMSS", 88, func(i *Info) any { return i.AdvertisedMSS }},
	{"Reordering", 92, func(i *Info) any { return i.Reordering }},
	{"ReceiveRTT", 96, func(i *Info) any { return i.ReceiveRTT }},
	{"ReceiveSpace", 100, func(i *Info) any { return i.ReceiveSpace }},
	{"TotalRetransmits", 104, func(i *Info) any { return i.TotalRetransmits }},
	{"PacingRate", InfoPacingRate, func(i *Info) any { return i.PacingRate }},
	{"MaxPacingRate", InfoMaxPacingRate, func(i *Info) any { return i.MaxPacingRate }},
	{"BytesAcked", InfoBytesAcked, func(i *Info) any { return i.BytesAcked }},
	{"BytesReceived", InfoBytesReceived, func(i *Info) any { return i.BytesReceived }},
	{"SegmentsOut", InfoSegmentsOut, func(i *Info) any { return i.SegmentsOut }},
	{"SegmentsIn", InfoSegmentsIn, func(i *Info) any { return i.SegmentsIn }},
	{"NotSentBytes", InfoNotSentBytes, func(i *Info) any { return i.NotSentBytes }},
	{"MinRTT", InfoMinRTT, func(i *Info) any { return i.MinRTT }},
	{"DataSegmentsIn", InfoDataSegmentsIn, func(i *Info) any { return i.DataSegmentsIn }},
	{"DataSegmentsOut", InfoDataSegmentsOut, func(i *Info) any { return i.DataSegmentsOut }},
	{"DeliveryRate", InfoDeliveryRate, func(i *Info) any { return i.DeliveryRate }},
	{"BusyTime", InfoBusyTime, func(i *Info) any { return i.BusyTime }},
	{"ReceiveWindowLimited", InfoReceiveWindowLimited, func(i *Info) any { return i.ReceiveWindowLimited }},
	{"SendBufferLimited", InfoSendBufferLimited, func(i *Info) any { return i.SendBufferLimited }},
	{"Delivered", InfoDelivered, func(i *Info) any { return i.Delivered }},
	{"DeliveredCE", InfoDeliveredCE, func(i *Info) any { return i.DeliveredCE }},
	{"BytesSent", InfoBytesSent, func(i *Info) any { return i.BytesSent }},
	{"BytesRetransmitted", InfoBytesRetransmitted, func(i *Info) any { return i.BytesRetransmitted }},
	{"DSACKDuplicates", InfoDSACKDuplicates, func(i *Info) any { return i.DSACKDuplicates }},
	{"ReorderSeen", InfoReorderSeen, func(i *Info) any { return i.ReorderSeen }},
	{"OutOfOrderPackets", InfoOutOfOrderPackets, func(i *Info) any { return i.OutOfOrderPackets }},
	{"SendWindow", InfoSendWindow, func(i *Info) any { return i.SendWindow }},
	{"ReceiveWindow", InfoReceiveWindow, func(i *Info) any { return i.ReceiveWindow }},
	{"Rehash", InfoRehash, func(i *Info) any { return i.Rehash }},
	{"TotalRTO", InfoTotalRTO, func(i *Info) any { return i.TotalRTO }},
	{"TotalRTORecoveries", InfoTotalRTORecoveries, func(i *Info) any { return i.TotalRTORecoveries }},
	{"TotalRTOTime", InfoTotalRTOTime, func(i *Info) any { return i.TotalRTOTime }},
	{"ReceivedCE", InfoReceivedCE, func(i *Info) any { return i.ReceivedCE }},
	{"DeliveredE1Bytes", InfoDeliveredE1Bytes, func(i *Info) any { return i.DeliveredE1Bytes }},
	{"DeliveredE0Bytes", InfoDeliveredE0Bytes, func(i *Info) any { return i.DeliveredE0Bytes }},
	{"DeliveredCEBytes", InfoDeliveredCEBytes, func(i *Info) any { return i.DeliveredCEBytes }},
	{"ReceivedE1Bytes", InfoReceivedE1Bytes, func(i *Info) any { return i.ReceivedE1Bytes }},
	{"ReceivedE0Bytes", InfoReceivedE0Bytes, func(i *Info) any { return i.ReceivedE0Bytes }},
	{"ReceivedCEBytes", InfoReceivedCEBytes, func(i *Info) any { return i.ReceivedCEBytes }},
	{"AccECNWord", InfoAccECNWord, func(i *Info) any { return i.AccECNWord }},
}
