package tcpstate_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// halfOpen counts the entries in SYN-RECV of a listener whose SYN-ACK was sent
// again so often.
func halfOpen(t *testing.T, ln net.Listener, retries uint8) (n int) {
	t.Helper()
	conn, err := sockdiag.Open()
	require.NoError(t, err)
	defer conn.Close()
	q := sockdiag.Query{States: 1 << tcpstate.SynRecv, LocalPort: uint16(ln.Addr().(*net.TCPAddr).Port)}
	_, err = conn.Dump(q, func(s *sockdiag.Socket) bool {
		if s.Retrans >= retries {
			n++
		}
		return true
	})
	require.NoError(t, err)
	return n
}

func TestHandshakesThatClientsDoNotCompleteAreReported(t *testing.T) {
	r := newRig(t)
	ln := r.listens(true)
	r.clk.Advance(11 * time.Second)
	deaf := net.Dialer{Control: tcptest.DeafControl}
	deaf.SetMultipathTCP(false)
	for range 4 {
		tcptest.Dialing(t, &deaf, ln.Addr().String())
	}
	tcptest.WaitUntil(t, "SYN-ACKs to be sent again", func() bool { return halfOpen(t, ln, 2) == 4 })
	tcptest.WaitUntil(t, "the report", func() bool {
		r.clk.Advance(time.Second)
		return len(r.tr.Findings()) > 0
	})
	f := r.one(tcpstate.KindListenerSYNRecv)
	require.Equal(t, tcpstate.SubjectListener, f.Subject.Type)
	require.Contains(t, f.Summary, "4 handshakes wait")
	require.Contains(t, f.Summary, "All of them come from 127.0.0.0/24")
	ln.l.Remove(0)
	r.clk.Advance(2 * time.Second)
	require.Empty(t, r.tr.Findings())
}
