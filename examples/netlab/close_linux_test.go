package netlab

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

var backoffRE = regexp.MustCompile(` backoff:(\d+)`)

// backoff returns how often the timer of a connection was doubled, which ss
// knows of one that was closed as well.
func backoff(c *Conn) int {
	m := backoffRE.FindStringSubmatch(c.SS())
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

func TestAnEndThatIsNeverAcknowledged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state     string
		peerFirst bool
	}{{"FIN-WAIT-1", false}, {"LAST-ACK", true}} {
		begin := func(t *testing.T) (l *Lab, client *Agent, conn, peer *Conn) {
			l = New(t)
			client = l.A.Start()
			conn, peer = l.Pair(client, l.B.Start())
			conn.Exchange(peer, 100)
			if c.peerFirst {
				peer.CloseWrite()
				l.Wait("the peer's end", func() bool { return conn.Info().State == "CLOSE-WAIT" })
			}
			return l, client, conn, peer
		}
		t.Run(c.state+" fault", func(t *testing.T) {
			t.Parallel()
			l, client, conn, _ := begin(t)
			l.B.Drop("input", "")
			conn.Record("before Close")
			conn.Close()
			for n := 1; n <= 4; n++ {
				l.Wait("a retry of the FIN", func() bool { return backoff(conn) >= n })
				line := conn.SS()
				require.Contains(t, line, c.state)
				require.Contains(t, line, "ino:0")
				Record(t, fmt.Sprint("retry ", n), line)
			}
			client.Expect("closing.fin_unacked", AnyCause)
		})
		t.Run(c.state+" twin: FIN lost once", func(t *testing.T) {
			t.Parallel()
			l, client, conn, peer := begin(t)
			l.B.DropFirst("input", "", 100)
			conn.Close()
			if !c.peerFirst {
				require.Contains(t, peer.Read(1), "EOF")
				peer.Close()
			}
			l.Wait("the end", func() bool { s := conn.SS(); return s == "" || strings.Contains(s, "TIME-WAIT") })
			client.ExpectSilence()
		})
	}
}

// What is left to send at Close, to a peer that is gone and to one that does
// not read: facts for those who tell them apart.
func TestDataThatIsNeverDelivered(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"live", "dead"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			l := New(t)
			conn, peer := l.Pair(l.A.Start(), l.B.Start())
			conn.Exchange(peer, 100)
			conn.WriteBegin(100 << 10)
			if path == "live" {
				conn.WriteBegin(16 << 20)
				l.Wait("a probe of the window", func() bool { i := conn.Info(); return i.NotSentBytes > 0 && i.Unacked == 0 && i.Backoff >= 1 })
			} else {
				require.Empty(t, peer.Read(100<<10))
				l.B.Drop("input", "")
				conn.WriteBegin(100 << 10)
				l.Wait("the bytes to be sent", func() bool { return conn.Info().Unacked > 0 })
			}
			conn.Close()
			for n := 2; n <= 4; n++ {
				l.Wait("a retry", func() bool { return backoff(conn) >= n })
				line := conn.SS()
				Record(t, fmt.Sprint("retry ", n), line)
				require.Contains(t, line, "FIN-WAIT-1")
				require.Contains(t, line, map[string]string{"live": "timer:(persist", "dead": "timer:(on"}[path])
			}
		})
	}
}

func TestAMiddleboxThatResets(t *testing.T) {
	t.Parallel()
	open := func(l *Lab, client, server *Agent) (conns, peers []*Conn) {
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		for range 5 {
			c := client.Dial(Dial{Addr: ln.Addr, KeepAlive: -1})
			s := ln.Accept()
			c.Exchange(s, 100)
			conns, peers = append(conns, c), append(peers, s)
		}
		return conns, peers
	}
	t.Run("fault", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		conns, peers := open(l, client, server)
		conns = conns[:3] // that others live on shows that the server does
		l.R.Rule("forward", "ip saddr "+AddrA+" tcp dport 80 reject with tcp reset")
		for i, c := range conns {
			c.Write(100)
			l.Wait("the reset", func() bool { return c.Info().State == "CLOSED" })
			c.Record("reset")
			require.Contains(t, c.Read(1), "connection reset by peer")
			require.Equal(t, "ESTABLISHED", peers[i].Record("the other end").State)
			c.Close()
		}
		client.Expect("reset.unexplained", AnyCause)
	})
	t.Run("fault: nobody notices", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		l.R.Rule("forward", "ip saddr "+AddrA+" tcp dport 80 reject with tcp reset")
		c.Write(100)
		told := client.Expect(tcpstate.KindLeakDeadSocket, "reset")
		require.Equal(t, c.Local+"-"+c.Remote, told.Subject)
	})
	t.Run("twin: peer killed, nothing unread", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		conns, _ := open(l, client, server)
		server.Kill()
		for _, c := range conns {
			require.Contains(t, c.Read(1), "EOF")
			c.Record("end")
			c.Close()
		}
		client.ExpectSilence()
	})
	// The kernel of a host that lost its process resets what was not read: all
	// connections at once.
	t.Run("twin: peer killed with bytes unread", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		conns, peers := open(l, client, server)
		for i, c := range conns {
			c.Write(100)
			l.Wait("the bytes", func() bool { return peers[i].Info().BytesReceived >= 200 })
		}
		server.Kill()
		for _, c := range conns {
			require.Contains(t, c.Read(1), "connection reset by peer")
			c.Record("reset")
			c.Close()
		}
		client.ExpectSilence()
	})
}
