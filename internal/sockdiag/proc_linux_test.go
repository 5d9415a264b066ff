package sockdiag

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const sockstat = "sockets: used 13\nTCP: inuse 1 orphan 42 tw 2 alloc 1 mem 342\nUDP: inuse 0 mem 0\n"

func TestParseOrphans(t *testing.T) {
	for in, want := range map[string]uint64{
		sockstat:                      42,
		"TCP: orphan 0":               0,
		"TCP: inuse 3 orphan 7\n":     7,
		"TCP6: orphan 1\n" + sockstat: 42,
	} {
		n, ok := parseOrphans([]byte(in))
		require.True(t, ok, in)
		require.Equal(t, want, n, in)
	}
	for _, in := range []string{
		"", "\n", "TCP:", "TCP: orphan", "TCP: orphan x", "TCP: orphan -1", "TCP: inuse orphan", "TCP6: orphan 1",
		"UDP: orphan 1", "TCP: orphan 18446744073709551616", "TCP: Orphan 1",
	} {
		_, ok := parseOrphans([]byte(in))
		require.False(t, ok, in)
	}
}

const netstat = "TcpExt: SyncookiesSent TCPSynRetrans TCPOrigDataSent\nTcpExt: 1 52155 3\n" +
	"IpExt: InNoRoutes TCPSynRetrans\nIpExt: 7 8\n"

func TestParseNetstat(t *testing.T) {
	for _, tt := range []struct {
		in, heading, name string
		want              uint64
	}{
		{netstat, "TcpExt:", "TCPSynRetrans", 52155},
		{netstat, "TcpExt:", "TCPOrigDataSent", 3},
		{netstat, "IpExt:", "TCPSynRetrans", 8},
		{strings.TrimRight(netstat, "\n"), "IpExt:", "TCPSynRetrans", 8},
		{"TcpExt: a\nTcpExt: 18446744073709551615", "TcpExt:", "a", 1<<64 - 1},
	} {
		n, ok := parseNetstat([]byte(tt.in), tt.heading, tt.name)
		require.True(t, ok, tt)
		require.Equal(t, tt.want, n, tt)
	}
	for _, in := range []string{
		"", "TcpExt:", "TcpExt: TCPSynRetrans", "TcpExt: TCPSynRetrans\nTcpExt:", "TcpExt: TCPSynRetrans\nIpExt: 1\n",
		"TcpExt: a TCPSynRetrans\nTcpExt: 1\n", "TcpExt: TCPSynRetrans\nTcpExt: x\n", "TcpExt: other\nTcpExt: 1\n",
		"TcpExt: TCPSynRetrans\n\nTcpExt: 1\n",
	} {
		_, ok := parseNetstat([]byte(in), "TcpExt:", "TCPSynRetrans")
		require.False(t, ok, in)
	}
}

func TestParsePortRange(t *testing.T) {
	lo, hi, ok := parsePortRange([]byte("32768\t60999\n"))
	require.True(t, ok)
	require.Equal(t, []int{32768, 60999}, []int{lo, hi})
	for _, in := range []string{"", "\n", "1", "1 x", "2 1", "1 65536", "1 2 3", "-1 2"} {
		_, _, ok := parsePortRange([]byte(in))
		require.False(t, ok, in)
	}
}

func TestFilesOfThisKernel(t *testing.T) {
	n, err := Orphans()
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, 0)
	_, err = SynRetransmits()
	require.NoError(t, err)
	lo, hi, err := PortRange()
	require.NoError(t, err)
	require.Positive(t, lo)
	require.Less(t, lo, hi)
}

func TestReadFile(t *testing.T) {
	name := t.TempDir() + "/f"
	require.NoError(t, os.WriteFile(name, []byte("12345"), 0o600))
	b, err := readFile(name, 6)
	require.NoError(t, err)
	require.Equal(t, "12345", string(b))
	_, err = readFile(name, 5)
	require.Error(t, err, "there may be more")
	_, err = readFile(name+"x", 5)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = readFile(t.TempDir(), 5)
	require.ErrorIs(t, err, unix.EISDIR)
	require.ErrorIs(t, unreadable(name), errFormat)
}

func BenchmarkOrphans(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Orphans(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSynRetransmits(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := SynRetransmits(); err != nil {
			b.Fatal(err)
		}
	}
}
