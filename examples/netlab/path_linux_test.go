package netlab

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// retried waits until the kernel has sent the oldest segment n times again.
func retried(l *Lab, c *Conn, n uint8) {
	l.t.Helper()
	l.Wait("retransmissions", func() bool { return c.Info().Retransmits >= n })
}

func TestAPeerThatVanishesWhileWeWrite(t *testing.T) {
	t.Parallel()
	t.Run("fault: silence", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		l.B.Drop("input", "")
		l.B.Drop("output", "")
		c.Write(1000)
		for n := uint8(1); n <= 3; n++ {
			retried(l, c, n)
			i := c.Record(fmt.Sprint("retransmission ", n))
			require.Equal(t, "ESTABLISHED", i.State)
			require.EqualValues(t, 1, i.Unacked)
		}
		client.Expect("peer.unresponsive", "")
	})
	// The last router notices that the host is gone and says so: the kernel
	// then takes back the doubling of its timer (RFC 6069).
	t.Run("fault: host unreachable", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		l.B.IP("link set b0 down")
		c.Write(1000)
		var i Info
		for n := uint8(1); n <= 6; n++ {
			retried(l, c, n)
			i = c.Record(fmt.Sprint("retransmission ", n))
		}
		require.Less(t, i.Backoff, i.Retransmits)
		client.Expect("peer.unresponsive", "")
	})
	t.Run("twin: one loss", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		l.B.DropFirst("input", "", 2500) // the segment, and the probe of its loss
		c.Write(1000)
		require.Empty(t, s.Read(1000))
		l.Wait("the acknowledgement", func() bool { return c.Info().Unacked == 0 })
		require.NotZero(t, c.Record("healed").TotalRTO)
		client.ExpectSilence()
	})
	t.Run("twin: slow reader", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		c.WriteBegin(16 << 20)
		l.Wait("the window to close", func() bool { i := c.Info(); return i.SendWindow < i.SendMSS && i.NotSentBytes > 0 })
		for end := time.Now().Add(Hold); time.Now().Before(end); time.Sleep(Hold / 10) {
			require.Empty(t, s.Read(256<<10))
		}
		c.Record("slow reader")
		client.silent()
	})
}

// What a window that stays shut looks like on a live path, and after the path
// died: facts for those who tell them apart.
func TestAWindowThatStaysShut(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"live", "dead"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			l := New(t)
			client := l.A.Start()
			c, s := l.Pair(client, l.B.Start())
			c.Exchange(s, 100)
			c.WriteBegin(16 << 20)
			l.Wait("a probe of the window", func() bool { i := c.Info(); return i.NotSentBytes > 0 && i.Unacked == 0 && i.Backoff >= 2 })
			if path == "dead" {
				l.B.Drop("input", "")
			}
			i := c.Record("window shut")
			from := i.Backoff
			for n := uint8(1); n <= 3; n++ {
				l.Wait("the next probe", func() bool {
					i = c.Info()
					if path == "dead" {
						return i.Probes > n
					}
					// Until the answer to the last one is here it counts as lost.
					return i.Backoff >= from+n && i.Probes == 0
				})
				c.Record(fmt.Sprint("probe ", n))
				require.Zero(t, i.Unacked)
				require.Less(t, i.SendWindow, i.SendMSS)
				if path == "live" {
					require.Less(t, i.LastAckReceived, i.LastDataSent)
				}
			}
		})
	}
}

func TestAPeerThatVanishesWhileIdle(t *testing.T) {
	t.Parallel()
	t.Run("fault", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		c := client.Dial(Dial{Addr: ln.Addr, KeepAlive: time.Second})
		c.Exchange(ln.Accept(), 100)
		l.B.Drop("input", "")
		for n := uint8(1); n <= 3; n++ {
			l.Wait("an unanswered probe", func() bool { return c.Info().Probes >= n })
			c.Record(fmt.Sprint("probe ", n))
		}
		client.Expect("peer.dead_probes", AnyCause)
	})
	t.Run("twin: answered", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		c := client.Dial(Dial{Addr: ln.Addr, KeepAlive: time.Second})
		c.Exchange(ln.Accept(), 100)
		client.ExpectSilence()
		require.Less(t, c.Record("answered").LastAckReceived, 2*time.Second)
	})
	t.Run("twin: one probe lost", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		c := client.Dial(Dial{Addr: ln.Addr, KeepAlive: time.Second})
		c.Exchange(ln.Accept(), 100)
		l.B.DropFirst("input", "", 100)
		client.ExpectSilence()
		require.Equal(t, 1, l.B.Dropped("input"))
		require.Zero(t, c.Record("answered").Probes)
	})
	t.Run("twin: keepalive off", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		l.B.Drop("input", "")
		client.ExpectSilence() // nothing can be known
		c.Record("peer gone, nobody asks")
	})
}

func TestAPathThatLosesLargeSegments(t *testing.T) {
	t.Parallel()
	// smallMTU makes the way to B narrower than both ends believe.
	smallMTU := func(l *Lab) { l.R.IP("link set rb mtu 1300") }

	for _, write := range []struct {
		name  string
		bytes int
	}{{"one segment", 1448}, {"with a small end", 4000}, {"many segments", 64 << 10}} {
		t.Run("fault: "+write.name, func(t *testing.T) {
			t.Parallel()
			l := New(t)
			client := l.A.Start()
			c, s := l.Pair(client, l.B.Start())
			other := s.Agent.Listen(Listen{Addr: AddrB + ":81"})
			smallMTU(l)
			l.R.Drop("output", "icmp type destination-unreachable icmp code frag-needed")
			c.Exchange(s, 100)
			sibling := client.Dial(Dial{Addr: other.Addr, KeepAlive: -1})
			sibling.Exchange(other.Accept(), 100)
			c.WriteBegin(write.bytes)
			for n := uint8(1); n <= 3; n++ {
				retried(l, c, n)
				i := c.Record(fmt.Sprint("retransmission ", n))
				require.EqualValues(t, 1500, i.PathMTU)
				require.Empty(t, s.Write(100)) // the other direction lives
				require.Empty(t, c.Read(100))
				c.Record("after 100 bytes came in")
			}
			s.Record("the other end")
			sibling.Record("a sibling with small segments")
			told := client.Expect("peer.unresponsive", "large_segments")
			require.Equal(t, c.Local+"-"+c.Remote, told.Subject, "not the sibling")
		})
	}
	t.Run("twin: the path says so", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		smallMTU(l)
		c.Exchange(s, 100)
		c.Write(64 << 10)
		require.Empty(t, s.Read(64<<10))
		i := c.Record("delivered")
		require.EqualValues(t, 1300, i.PathMTU)
		client.ExpectSilence()
	})
	t.Run("twin: the kernel probes", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		l.A.Sysctl("net/ipv4/tcp_mtu_probing", "1")
		// After three retransmissions, the default, it takes longer than the
		// thresholds of the lab, which are a tenth of the real ones.
		l.A.Sysctl("net/ipv4/tcp_retries1", "1")
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		smallMTU(l)
		l.R.Drop("output", "icmp type destination-unreachable icmp code frag-needed")
		c.Exchange(s, 100)
		c.Write(4000)
		require.Empty(t, s.Read(4000))
		i := c.Record("delivered")
		require.Less(t, i.SendMSS, uint32(1248))
		client.silent()
	})
}

func TestAMiddleboxThatForgetsAnIdleConnection(t *testing.T) {
	t.Parallel()
	// masquerade hides A behind R, whose memory of connections decides.
	masquerade := func(l *Lab, loose string, dropInvalid bool) {
		l.R.NFT("table ip nat {\n chain post {\n type nat hook postrouting priority 100;\n oifname rb masquerade\n}\n}")
		l.R.Rule("forward", "ct state new accept")
		l.R.Sysctl("net/netfilter/nf_conntrack_tcp_loose", loose)
		if dropInvalid {
			l.R.Drop("forward", "ct state invalid")
		}
	}
	const idle = 7 * time.Second // of which a tenth of Thresholds.Idle makes a long one

	t.Run("fault: silence", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		masquerade(l, "0", true)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		time.Sleep(idle)
		l.R.Run("conntrack", "-F")
		c.Record("idle, before the write")
		c.Write(1000)
		for n := uint8(1); n <= 4; n++ {
			retried(l, c, n)
			c.Record(fmt.Sprint("retransmission ", n))
		}
		client.Expect("peer.unresponsive", "after_idle")
	})
	t.Run("fault: reset", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		masquerade(l, "0", false)
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		var conns, peers []*Conn
		for range 5 {
			c := client.Dial(Dial{Addr: ln.Addr, KeepAlive: -1})
			s := ln.Accept()
			c.Exchange(s, 100)
			conns, peers = append(conns, c), append(peers, s)
		}
		time.Sleep(idle)
		l.R.Run("conntrack", "-F")
		for i, c := range conns[:3] { // that others live on shows that the server does
			c.Record("idle, before the write")
			c.Write(1000)
			l.Wait("the reset", func() bool { return c.Info().State == "CLOSED" })
			c.Record("reset")
			Record(t, "what Read says", c.Read(1))
			peers[i].Record("the other end")
			c.Close()
		}
		client.Expect("reset.unexplained", AnyCause)
	})
	t.Run("twin: learned again", func(t *testing.T) {
		t.Parallel()
		l := New(t)
		masquerade(l, "1", true)
		client := l.A.Start()
		c, s := l.Pair(client, l.B.Start())
		c.Exchange(s, 100)
		time.Sleep(idle)
		l.R.Run("conntrack", "-F")
		c.Exchange(s, 1000)
		c.Record("survived")
		client.ExpectSilence()
	})
}

func TestALocalAddressThatIsTakenAway(t *testing.T) {
	t.Parallel()
	const second = "192.0.2.3"
	run := func(t *testing.T, from string) (*Lab, *Agent, *Conn, *Conn) {
		l := New(t)
		l.A.IP("addr add " + second + "/24 dev a0")
		client, server := l.A.Start(), l.B.Start()
		ln := server.Listen(Listen{Addr: AddrB + ":80"})
		c := client.Dial(Dial{Addr: ln.Addr, Local: from, KeepAlive: -1})
		s := ln.Accept()
		c.Exchange(s, 100)
		time.Sleep(3 * config().SweepInterval) // only an address that was seen can be missed
		l.A.IP("addr del " + second + "/24 dev a0")
		return l, client, c, s
	}
	t.Run("fault: idle", func(t *testing.T) {
		t.Parallel()
		_, client, c, _ := run(t, second)
		c.Record("address gone, idle")
		client.Expect("path.local_address_gone", AnyCause)
	})
	t.Run("fault: writing", func(t *testing.T) {
		t.Parallel()
		l, client, c, _ := run(t, second)
		require.Empty(t, c.Write(100), "the application is told nothing")
		c.Record("after the write")
		l.Wait("probes that cannot be sent", func() bool { return c.Info().Probes >= 3 })
		i := c.Record("3 probes after the write")
		require.Zero(t, i.Unacked)
		require.EqualValues(t, 100, i.NotSentBytes)
		require.Greater(t, i.SendWindow, i.SendMSS, "not for want of a window")
		client.Expect("path.local_address_gone", AnyCause)
	})
	t.Run("twin: another address", func(t *testing.T) {
		t.Parallel()
		_, client, c, s := run(t, AddrA)
		c.Exchange(s, 100)
		client.ExpectSilence()
	})
}
