package netlab

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// synRecv returns the connections of h in SYN-RECV.
func synRecv(h *Host) []string { return h.SS("state", "syn-recv") }

func TestAHandshakeWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	const clients = 4
	// timer:(on,980ms,2): the last number counts the SYN-ACKs that were sent
	// again, by the timer or for a SYN that came again.
	count := regexp.MustCompile(`timer:\(on,[^,]*,(\d+)\)`)
	retried := func(h *Host, want int) func() bool {
		return func() bool {
			n := 0
			for _, line := range synRecv(h) {
				if m := count.FindStringSubmatch(line); m != nil {
					if again, _ := strconv.Atoi(m[1]); again >= want {
						n++
					}
				}
			}
			return n == clients
		}
	}
	dial := func(client *Agent, addr string) (conns []*Conn) {
		for range clients {
			conns = append(conns, client.DialBegin(Dial{Addr: addr, Timeout: Deadline, KeepAlive: -1}))
		}
		return conns
	}
	for _, lost := range []struct{ name, where, match string }{
		{"SYN-ACK lost", "A", "tcp sport 80"},
		{"last ACK lost", "B", "tcp dport 80 tcp flags & (syn|ack) == ack"},
	} {
		t.Run("fault: "+lost.name, func(t *testing.T) {
			t.Parallel()
			l := New(t)
			client, server := l.A.Start(), l.B.Start()
			ln := server.Listen(Listen{Addr: AddrB + ":80"})
			map[string]*Host{"A": l.A, "B": l.B}[lost.where].Drop("input", lost.match)
			conns := dial(client, ln.Addr)
			for n := 1; n <= 2; n++ {
				l.Wait("a retry of the SYN-ACK", retried(l.B, n))
				Record(t, fmt.Sprint("retry ", n), synRecv(l.B), l.A.SS("dport", "=", "80"), conns[0].Info())
			}
			server.Expect("listener.syn_recv", AnyCause)
		})
	}
	t.Run("twin: TCP_DEFER_ACCEPT", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80", Defer: Hold + 2*time.Second})
		conns := dial(client, ln.Addr)
		for _, c := range conns {
			require.Empty(t, c.Wait())
		}
		require.Len(t, synRecv(l.B), clients)
		Record(t, "connected", synRecv(l.B))
		server.ExpectSilence()
		Record(t, "later", synRecv(l.B))
	})
}

func TestPortsThatRunOut(t *testing.T) {
	t.Parallel()
	const ports = 21
	begin := func(t *testing.T, listeners int) (l *Lab, client *Agent, lns []*Listener) {
		l = New(t)
		l.A.Sysctl("net/ipv4/ip_local_port_range", "40000 40020")
		l.A.Sysctl("net/ipv4/tcp_tw_reuse", "0")
		// On several processors B may see the last ACK of a handshake after all
		// that came later, and answers it by a reset as the connection is gone:
		// that would end TIME-WAIT.
		l.A.Sysctl("net/ipv4/tcp_rfc1337", "1")
		client = l.A.Start()
		server := l.B.Start()
		for i := range listeners {
			lns = append(lns, server.Listen(Listen{Addr: fmt.Sprintf("%s:%d", AddrB, 80+i)}))
		}
		return l, client, lns
	}
	// round dials n times at once and closes all, first at our end.
	round := func(client *Agent, ln *Listener, n int) (errs []string) {
		var dials, conns []*Conn
		for range n {
			dials = append(dials, client.DialBegin(Dial{Addr: ln.Addr, KeepAlive: -1}))
		}
		for _, c := range dials {
			if err := c.Wait(); err != "" {
				errs = append(errs, err)
			} else {
				conns = append(conns, c)
			}
		}
		for _, c := range conns {
			c.Close()
		}
		for range conns {
			ln.Accept().Close()
		}
		return errs
	}
	t.Run("fault: 80 percent", func(t *testing.T) {
		t.Parallel()
		l, client, lns := begin(t, 1)
		for range 3 {
			require.Empty(t, round(client, lns[0], 6))
		}
		l.Wait("TIME-WAIT", func() bool { return len(l.A.SS("state", "time-wait")) == 18 })
		Record(t, "18 of 21", l.A.SS("state", "time-wait")[0])
		require.Equal(t, "warning", client.Expect("dial.ports", AnyCause).Severity)
	})
	t.Run("fault: none left", func(t *testing.T) {
		t.Parallel()
		l, client, lns := begin(t, 1)
		var errs []string
		for range 3 {
			errs = append(errs, round(client, lns[0], 10)...)
		}
		// Dials at the same time also take ports from each other for a moment.
		require.GreaterOrEqual(t, len(errs), 3*10-ports)
		require.Contains(t, errs[0], "cannot assign requested address")
		Record(t, "none left", len(l.A.SS("state", "time-wait")), errs[0])
		require.Equal(t, "error", client.Expect("dial.ports", AnyCause).Severity)
	})
	t.Run("twin: many targets", func(t *testing.T) {
		t.Parallel()
		l, client, lns := begin(t, 8)
		for _, ln := range lns {
			require.Empty(t, round(client, ln, 6))
		}
		l.Wait("TIME-WAIT", func() bool { return len(l.A.SS("state", "time-wait")) == 48 })
		Record(t, "48 over 8 targets", l.A.SS("state", "time-wait")[:2])
		client.ExpectSilence()
	})
	t.Run("twin: the peer closes first", func(t *testing.T) {
		t.Parallel()
		l, client, lns := begin(t, 1)
		for range 40 {
			c := client.Dial(Dial{Addr: lns[0].Addr, KeepAlive: -1})
			s := lns[0].Accept()
			s.Close()
			require.Contains(t, c.Read(1), "EOF")
			c.Close()
		}
		Record(t, "TIME-WAIT at us, at the peer", len(l.A.SS("state", "time-wait")), len(l.B.SS("state", "time-wait")))
		client.ExpectSilence()
	})
}
