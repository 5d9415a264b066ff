package sockdiag

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

// An MPTCP socket whose peer knows only TCP says so in a dump.
func TestFallback(t *testing.T) {
	for name, mptcp := range map[string]bool{"MPTCP listener": true, "TCP listener": false} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			ln := tcptest.Listen(t, tcptest.MPTCP(mptcp))
			client := tcptest.Connect(t, ln, tcptest.MPTCP(true))
			if on, err := client.MultipathTCP(); mptcp && !on {
				t.Skipf("no MPTCP here (err %v)", err)
			}
			tuple := of(client)
			ss := dumped(t, c, Query{MPTCP: true, LocalPort: tuple.Local.Port(), RemotePort: tuple.Remote.Port()})
			if len(ss) == 0 {
				t.Skip("this kernel does not list sockets that fell back")
			}
			require.Len(t, ss, 1)
			require.Equal(t, !mptcp, ss[0].Fallback)
			require.Nil(t, ss[0].Info)
		})
	}
}

func TestFallbackOfAnInfo(t *testing.T) {
	info := make([]byte, 12)
	require.False(t, fellBack(info))
	native.PutUint32(info[8:], 2)
	require.False(t, fellBack(info))
	native.PutUint32(info[8:], 3)
	require.True(t, fellBack(info))
	require.False(t, fellBack(info[:11]))
	require.False(t, fellBack(nil))
}
