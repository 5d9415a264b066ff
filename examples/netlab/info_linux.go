package netlab

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// Info is the part of TCP_INFO that the cases look at, with the names of
// tcpstate.Info.
type Info struct {
	State                string
	CongestionState      string
	Unacked              uint32
	Sacked               uint32
	Lost                 uint32
	Retransmits          uint8
	Backoff              uint8
	Probes               uint8
	RTO                  time.Duration
	RTT                  time.Duration
	LastDataSent         time.Duration
	LastDataReceived     time.Duration
	LastAckReceived      time.Duration
	SendMSS              uint32
	PathMTU              uint32
	CongestionWindow     uint32
	TotalRetransmits     uint32
	TotalRTO             uint16
	TotalRTOTime         time.Duration
	BytesAcked           uint64
	BytesReceived        uint64
	BytesSent            uint64
	BytesRetransmitted   uint64
	SegmentsIn           uint32
	SegmentsOut          uint32
	DataSegmentsIn       uint32
	DataSegmentsOut      uint32
	Delivered            uint32
	DSACKDuplicates      uint32
	SendWindow           uint32
	NotSentBytes         uint32
	BusyTime             time.Duration
	ReceiveWindowLimited time.Duration
}

// String lists the fields that are not zero.
func (i Info) String() string {
	var b strings.Builder
	v := reflect.ValueOf(i)
	for n := range v.NumField() {
		if f := v.Field(n); !f.IsZero() {
			fmt.Fprintf(&b, "%s=%v ", v.Type().Field(n).Name, f)
		}
	}
	return strings.TrimSpace(b.String())
}

// FactsEnv names the environment variable with the file to which Record writes.
const FactsEnv = "TCPSTATE_NETLAB_FACTS"

var factsMu sync.Mutex

// Record notes what the kernel shows, under the name of the test and a label,
// in the test's log and in the file that FactsEnv names.
func Record(t testing.TB, label string, facts ...any) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", t.Name(), label)
	for _, f := range facts {
		fmt.Fprintf(&b, "    %v\n", f)
	}
	t.Log(b.String())
	path := os.Getenv(FactsEnv)
	if path == "" {
		return
	}
	factsMu.Lock()
	defer factsMu.Unlock()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(t, err)
	defer file.Close()
	_, err = fmt.Fprintln(file, b.String())
	must(t, err)
}

// Record records TCP_INFO and the line of ss of the connection.
func (c *Conn) Record(label string) Info {
	c.t.Helper()
	i := c.Info()
	Record(c.t, label, i, c.SS())
	return i
}
