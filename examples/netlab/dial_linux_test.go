package netlab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAConnectThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	t.Run("fault", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		l.B.Drop("input", "tcp dport 80")
		c := client.DialBegin(Dial{Addr: AddrB + ":80", Timeout: Deadline})
		l.Wait("the second SYN retry", func() bool { return len(l.A.SS("state", "syn-sent")) > 0 && c.Info().Retransmits >= 2 })
		Record(t, "2 SYN retries", c.Info(), l.A.SS("state", "syn-sent"))
		require.Zero(t, c.Info().SegmentsIn)
		client.Expect("dial.no_answer", AnyCause)
	})
	t.Run("twin: refused", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c := client.DialBegin(Dial{Addr: AddrB + ":80"})
		require.Contains(t, c.Wait(), "connection refused")
		require.Less(t, c.Result.Took, Deadline/10)
		client.ExpectSilence()
	})
	t.Run("twin: one SYN lost", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		l.B.DropFirst("input", "tcp dport 80", 100)
		c := client.DialBegin(Dial{Addr: ln.Addr})
		require.Empty(t, c.Wait())
		c.Exchange(ln.Accept(), 100)
		i := c.Record("connected")
		require.GreaterOrEqual(t, c.Result.Took, time.Second)
		require.EqualValues(t, 1, i.TotalRetransmits)
		var done []DialDone
		l.Wait("the observer", func() bool { done = client.DialsDone(); return len(done) > 0 })
		require.EqualValues(t, 1, done[0].Retransmits, "the metric counts the SYN that was sent again")
		require.GreaterOrEqual(t, done[0].Took, time.Second)
		client.ExpectSilence()
	})
}

// A way that takes long is no loss: nothing is sent again.
func TestASlowPathIsHealthy(t *testing.T) {
	t.Parallel()
	const oneWay = 200 * time.Millisecond
	l := New(t)
	l.Slow(oneWay)
	client, server := l.A.Start(), l.B.Start()
	ln := server.Listen(Listen{Addr: AddrB + ":80"})
	var c, s *Conn
	l.Wait("a dial that a busy machine did not slow down even more", func() bool {
		c = client.Dial(Dial{Addr: ln.Addr, KeepAlive: -1})
		s = ln.Accept()
		require.GreaterOrEqual(t, c.Result.Took, 2*oneWay)
		return c.Result.Took < time.Second
	})
	require.Zero(t, c.Record("connected").TotalRetransmits)
	for range 8 {
		c.Exchange(s, 1000)
	}
	c.Record("after 8 exchanges")
	client.ExpectSilence()
	server.silent()
}

// A first packet that passes before the rewriting rule exists leaves an entry
// without it in the connection tracking, and every retry follows the entry.
func TestAConnectWhoseAddressesAreStuck(t *testing.T) {
	t.Parallel()
	t.Run("fault", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		l.R.NFT("table ip nat {\n chain pre { type nat hook prerouting priority -100; }\n}")
		l.R.Rule("forward", "ct state new accept") // a rule about states starts the tracking
		stuck := client.DialBegin(Dial{Addr: AddrVIP + ":80", Timeout: Deadline})
		l.Wait("the SYN", func() bool { return len(l.A.SS("state", "syn-sent")) == 1 })
		l.R.NFT("add rule ip nat pre ip daddr " + AddrVIP + " dnat to " + AddrB)
		fresh := client.Dial(Dial{Addr: AddrVIP + ":80"})
		fresh.Exchange(ln.Accept(), 100)
		l.Wait("the second SYN retry", func() bool { return stuck.Info().Retransmits >= 2 })
		Record(t, "2 SYN retries", stuck.Info(), l.A.SS("state", "syn-sent"), l.R.Run("conntrack", "-L"))
		fresh.Record("the dial that worked")
		client.Expect("dial.tuple_stuck", AnyCause)
	})
	t.Run("twin: one SYN lost", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		l.B.DropFirst("input", "tcp dport 80", 100)
		slow := client.DialBegin(Dial{Addr: ln.Addr})
		l.Wait("the SYN to be dropped", func() bool { return l.B.Dropped("input") > 0 })
		fresh := client.Dial(Dial{Addr: ln.Addr})
		require.Empty(t, slow.Wait())
		// A busy machine decides which of the two comes first.
		for _, s := range []*Conn{ln.Accept(), ln.Accept()} {
			require.Empty(t, s.Write(100))
		}
		for _, c := range []*Conn{slow, fresh} {
			require.Empty(t, c.Write(100))
			require.Empty(t, c.Read(100))
		}
		client.ExpectSilence()
	})
}
