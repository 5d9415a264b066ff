package tcpstate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// A pool does not read its idle connections: of a server that speaks TLS, a
// close_notify waits there before the FIN.
func TestACloseNotifyToAnIdleConnectionIsInventory(t *testing.T) {
	const idle = 1100 * time.Millisecond
	for name, tc := range map[string]struct {
		idle   time.Duration
		unread int
		want   tcpstate.Kind
	}{
		"close_notify":            {idle, 24, tcpstate.KindCloseWaitIdleInPool},
		"an answer":               {idle, 200, tcpstate.KindCloseWaitNotReading},
		"right after the request": {0, 24, tcpstate.KindCloseWaitNotReading},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t)
			client, server := l.dialed(tcpstate.Expect{})
			l.staysSilent(idle) // until it is armed
			if tc.idle == 0 {
				_, err := client.Write([]byte("request"))
				require.NoError(t, err)
				_, err = server.Read(make([]byte, 10))
				require.NoError(t, err)
			}
			_, err := server.Write(make([]byte, tc.unread))
			require.NoError(t, err)
			require.NoError(t, server.Close())
			f := l.finds(tc.want)
			require.Equal(t, tc.unread, f.Evidence.RecvQueue)
		})
	}
}

func TestACloseNotifyThatWasReadIsNone(t *testing.T) {
	l := newLive(t)
	client, server := l.dialed(tcpstate.Expect{})
	l.staysSilent(1100 * time.Millisecond)
	_, err := server.Write(make([]byte, 24))
	require.NoError(t, err)
	require.NoError(t, server.Close())
	l.finds(tcpstate.KindCloseWaitIdleInPool)
	for err == nil {
		_, err = client.Read(make([]byte, 100))
	}
	tcptest.WaitUntil(t, "the sharper verdict", func() bool {
		fs := l.tr.Findings()
		return len(fs) == 1 && fs[0].Kind == tcpstate.KindCloseWaitEOFSeen
	})
}
