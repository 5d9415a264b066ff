package ssagree

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// ssNames are the names that ss gives to states (misc/ss.c of iproute2,
// sstate_name), where they are not those of the RFC: it is ESTAB for
// ESTABLISHED, SYN-RECV for SYN-RECEIVED, UNCONN for CLOSED.
var ssNames = map[string]tcpstate.State{
	"LISTEN":     tcpstate.Listen,
	"SYN-SENT":   tcpstate.SynSent,
	"SYN-RECV":   tcpstate.SynRecv,
	"ESTAB":      tcpstate.Established,
	"FIN-WAIT-1": tcpstate.FinWait1,
	"FIN-WAIT-2": tcpstate.FinWait2,
	"CLOSE-WAIT": tcpstate.CloseWait,
	"CLOSING":    tcpstate.Closing,
	"LAST-ACK":   tcpstate.LastAck,
	"TIME-WAIT":  tcpstate.TimeWait,
	"UNCONN":     tcpstate.Closed,
}

func TestEveryStateHasANameOfSS(t *testing.T) {
	named := make(map[tcpstate.State]string)
	for name, s := range ssNames {
		require.Empty(t, named[s])
		named[s] = name
		if want := map[string]string{"ESTAB": "ESTABLISHED", "SYN-RECV": "SYN-RECEIVED", "UNCONN": "CLOSED"}[name]; want != "" {
			name = want
		}
		require.Equal(t, name, s.String())
		require.Equal(t, strings.ToLower(strings.ReplaceAll(name, "-", "_")), s.SemConv())
	}
	for _, s := range tcpstate.States() {
		require.Contains(t, named, s)
	}
}

// view is what ss shows of one pair of addresses. Unknown is nothing.
type view struct {
	tcp   tcpstate.State // ss -t
	mptcp tcpstate.State // ss -M, without those that use TCP
}

// state is the one that SocketState must equal. Of Multipath TCP it is that of
// ss -M: the close of an end is a DATA_FIN, a matter between the two MPTCP
// sockets (RFC 8684, section 3.3.3), so that ss -t goes on to show ESTAB for
// the TCP socket of the path. When both have finished, the MPTCP socket is in
// CLOSE, and what is left to happen does so on the path.
//
// A socket that fell back to TCP is its TCP socket. ss -M lists it, too, but in
// a state that nothing on the network confirms: it shows FIN-WAIT-2 for a FIN
// that was not acknowledged.
func (v view) state() tcpstate.State {
	switch {
	case v.mptcp != tcpstate.Unknown && v.mptcp != tcpstate.Closed:
		return v.mptcp
	case v.tcp != tcpstate.Unknown:
		return v.tcp
	}
	return tcpstate.Closed // ss lists no TCP socket in CLOSE
}

// held is the state that the snapshot of a connection must equal, whose
// descriptor is open. TIME-WAIT is of an entry that the kernel has put in the
// place of the socket: the descriptor's own is in CLOSE (net/ipv4/tcp_minisocks.c,
// tcp_time_wait).
func (v view) held() tcpstate.State {
	if s := v.state(); s != tcpstate.TimeWait {
		return s
	}
	return tcpstate.Closed
}

// lookSS runs ss for both kinds of sockets. remote is nil for a listener.
func lookSS(t *testing.T, local, remote net.Addr) view {
	t.Helper()
	return view{tcp: runSS(t, "-Htan", local, remote), mptcp: runSS(t, "-HManiO", local, remote)}
}

func runSS(t *testing.T, flags string, local, remote net.Addr) tcpstate.State {
	t.Helper()
	l, r := plain(t, local), netip.AddrPort{}
	if remote != nil {
		r = plain(t, remote)
	}
	out, err := exec.CommandContext(t.Context(), "ss", flags).Output()
	require.NoError(t, err)
	found := tcpstate.Unknown
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		require.GreaterOrEqual(t, len(f), 5, "state, two queues, two addresses: %q", line)
		if parse(f[3]) != l || parse(f[4]) != r {
			continue
		}
		if slices.Contains(f[5:], "fallback") { // in the flags of ss -Mi
			continue
		}
		s, ok := ssNames[f[0]]
		require.True(t, ok, "a state that ss calls %s", f[0])
		found = s
	}
	return found
}

// parse returns the zero AddrPort for any peer, as 0.0.0.0:* or [::]:* or *:*.
func parse(address string) netip.AddrPort {
	i := strings.LastIndexByte(address, ':')
	if i < 0 || address[i+1:] == "*" {
		return netip.AddrPort{}
	}
	host, _, _ := strings.Cut(strings.NewReplacer("[", "", "]", "").Replace(address[:i]), "%")
	if host == "*" { // of a socket for both families
		host = "::"
	}
	p, _ := netip.ParseAddrPort(net.JoinHostPort(host, address[i+1:]))
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func plain(t *testing.T, a net.Addr) netip.AddrPort {
	t.Helper()
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}

// needSS skips the test where there is no ss. In CI that is a failure: the test
// would be skipped for ever and nobody would know.
func needSS(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("ss")
	switch {
	case err == nil:
	case os.Getenv("TCPSTATE_CI") == "1":
		t.Fatalf("ss is not installed: %v", err)
	default:
		t.Skipf("ss is not installed: %v", err)
	}
}

func TestAddressesOfSS(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:80":          "127.0.0.1:80",
		"127.0.0.53%lo:53":      "127.0.0.53:53",
		"[::1]:80":              "[::1]:80",
		"[fe80::1]%eth0:80":     "[fe80::1]:80",
		"[fe80::1%eth0]:80":     "[fe80::1]:80",
		"[::ffff:127.0.0.1]:80": "127.0.0.1:80",
		"*:80":                  "[::]:80",
		"0.0.0.0:80":            "0.0.0.0:80",
	} {
		require.Equal(t, netip.MustParseAddrPort(want), parse(address), address)
	}
	for _, address := range []string{"0.0.0.0:*", "[::]:*", "*:*"} {
		require.Zero(t, parse(address), address)
	}
}
