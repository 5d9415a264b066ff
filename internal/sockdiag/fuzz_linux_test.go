package sockdiag

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// seeds are datagrams that a kernel sends, and some that it does not.
func seeds(f *testing.F) {
	ts := tuples(2)
	s := socketOf(ts[0])
	s.Info, s.HasShutdown = make([]byte, 280), true
	f.Add([]byte(nil))
	f.Add(found(2, s))
	f.Add(append(found(2, s), found(3, socketOf(ts[1]))...))
	f.Add(append(failure(2, unix.ENOENT), failure(3, unix.EACCES)...))
	f.Add(append(found(2, s), done(2, 0)...))
	f.Add(message(unix.NLMSG_OVERRUN, unix.NLM_F_DUMP_INTR, 2, nil))
	f.Add(found(2, s)[:50])
	f.Add(found(2, Socket{Local: map4(ts[0].Local), Remote: map4(ts[0].Remote), State: tcpListen}))
}

func FuzzParseMessages(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for messages := 0; len(b) > 0; messages++ {
			h, body, rest, ok := cut(b)
			if !ok {
				require.Empty(t, rest)
				return
			}
			require.LessOrEqual(t, len(body)+unix.NLMSG_HDRLEN+len(rest), len(b))
			b = rest
			if errno, ok := errorOf(h, body); ok {
				require.LessOrEqual(t, uint(errno), uint(4095))
			}
			before := Socket{State: 200}
			s := before
			if !parseSocket(&s, body) {
				require.Equal(t, before, s)
				continue
			}
			require.True(t, s.Local.Addr().IsValid() && s.Remote.Addr().IsValid())
			require.LessOrEqual(t, s.State, uint8(lastState))
			require.GreaterOrEqual(t, s.Expires, expires(0))
			require.LessOrEqual(t, len(s.Info), len(body)-diagMsgLen)
		}
	})
}

// FuzzLookup answers two questions with anything.
func FuzzLookup(f *testing.F) {
	seeds(f)
	ts := tuples(2)
	c, k := talk(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		k.answer = func([]header) []datagram { return one(b) }
		k.queue = nil
		c.seq, c.count = 1, Stats{}
		res, info, err := c.LookupInfo(nil, nil, ts)
		n := make(map[Status]uint64)
		for i, r := range res {
			n[r.Status]++
			require.Equal(t, ts[i], r.Tuple)
			if r.Status != Found {
				require.Zero(t, r.Socket)
				continue
			}
			require.Equal(t, []any{ts[i].Local, ts[i].Remote}, []any{r.Socket.Local, r.Socket.Remote})
			require.LessOrEqual(t, len(r.Socket.Info), len(info))
		}
		require.Equal(t, uint64(2), n[Found]+n[Gone]+n[Unknown])
		require.Equal(t, n[Unknown] > 0, err != nil)
		st := c.Stats()
		require.Equal(t, []uint64{n[Found], n[Gone]}, []uint64{st.Found, st.Gone})
		require.Equal(t, st.Asked, st.Found+st.Gone+st.Lost+st.Refused+st.Moved)
		require.LessOrEqual(t, st.Asked, uint64(4), "each is asked twice at most")
	})
}

// FuzzDump answers a dump with anything.
func FuzzDump(f *testing.F) {
	seeds(f)
	c, k := talk(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		k.answer = func([]header) []datagram { return one(b) }
		k.queue = nil
		c.seq, c.count = 1, Stats{}
		n := 0
		d, err := c.Dump(Query{}, func(s *Socket) bool {
			n++
			require.True(t, s.State > 0 && s.State <= lastState)
			return true
		})
		require.Equal(t, n, d.Sockets)
		require.LessOrEqual(t, n, len(b)/(unix.NLMSG_HDRLEN+diagMsgLen))
		if st := c.Stats(); err != nil || st.Malformed+st.Overruns+st.Lost > 0 {
			require.False(t, d.Complete)
		}
	})
}

func FuzzParseSockstat(f *testing.F) {
	f.Add([]byte(sockstat))
	f.Add([]byte("TCP: orphan 18446744073709551616"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, ok := parseOrphans(b); ok {
			require.Contains(t, string(b), "orphan")
		} else {
			require.Zero(t, n)
		}
	})
}

func FuzzParseNetstat(f *testing.F) {
	f.Add([]byte(netstat))
	f.Add([]byte("TcpExt: TCPSynRetrans\nTcpExt: 99999999999999999999\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, ok := parseNetstat(b, "TcpExt:", "TCPSynRetrans"); ok {
			require.Contains(t, string(b), "TCPSynRetrans")
		} else {
			require.Zero(t, n)
		}
	})
}

func FuzzParsePortRange(f *testing.F) {
	f.Add([]byte("32768\t60999\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if lo, hi, ok := parsePortRange(b); ok {
			require.True(t, 0 <= lo && lo <= hi && hi < 1<<16)
		}
	})
}

// FuzzNumber holds number against the standard library.
func FuzzNumber(f *testing.F) {
	f.Add("0")
	f.Add("18446744073709551615")
	f.Add("18446744073709551616")
	f.Fuzz(func(t *testing.T, s string) {
		want, err := strconv.ParseUint(s, 10, 64)
		got, ok := number([]byte(s))
		require.Equal(t, err == nil, ok, s)
		if ok {
			require.Equal(t, want, got)
		}
	})
}
