package tcpstate_test

import (
	"errors"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestSocketStateRefusesWhatIsNoAddress(t *testing.T) {
	v4 := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	v6 := &net.TCPAddr{IP: net.IPv6loopback, Port: 1}
	for name, tt := range map[string]struct {
		local, remote net.Addr
		notTCP        bool
		text          string
	}{
		"no local":         {nil, v4, false, "no IP address"},
		"nil local":        {(*net.TCPAddr)(nil), v4, false, "no IP address"},
		"local without IP": {&net.TCPAddr{Port: 1}, nil, false, "no IP address"},
		"no local port":    {&net.TCPAddr{IP: v4.IP}, v4, false, "no IP address"},
		"no remote port":   {v4, &net.TCPAddr{IP: v4.IP}, false, "no port"},
		"two families":     {v4, v6, false, "families"},
		"UDP":              {&net.UDPAddr{IP: v4.IP, Port: 1}, v4, true, "udp"},
		"Unix":             {v4, &net.UnixAddr{Name: "x", Net: "unix"}, true, "unix"},
		"text":             {textAddr("nonsense"), v4, false, "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := tcpstate.SocketState(tt.local, tt.remote)
			require.ErrorContains(t, err, tt.text)
			require.ErrorContains(t, err, "tcpstate: socket state: ")
			require.Equal(t, tcpstate.Unknown, s)
			require.Equal(t, tt.notTCP, errors.Is(err, tcpstate.ErrNotTCP))
		})
	}
}

// textAddr is an address of another package.
type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

func TestSocketStateElsewhere(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Skip("Linux tells")
	}
	s, err := tcpstate.SocketState(textAddr("127.0.0.1:1"), nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, tcpstate.Unknown, s)
}
