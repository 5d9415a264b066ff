package sockdiag

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

// datagram is one result of recv.
type datagram struct {
	b    []byte
	port uint32
	size int // if not len(b)
	err  error
}

// kernel is a transport that answers as a test says.
type kernel struct {
	answer  func(questions []header) []datagram
	sendErr error
	queue   []datagram
	open    int // transports
	sent    [][]byte
}

func (k *kernel) connect() (transport, error) {
	k.open++
	k.queue = nil
	return k, nil
}

func (k *kernel) send(b []byte) error {
	if k.sendErr != nil {
		return k.sendErr
	}
	k.sent = append(k.sent, append([]byte(nil), b...))
	var questions []header
	for len(b) > 0 {
		h, _, rest, ok := cut(b)
		if !ok {
			return errors.New("a question that cannot be read")
		}
		questions, b = append(questions, h), rest
	}
	k.queue = append(k.queue, k.answer(questions)...)
	return nil
}

func (k *kernel) recv(b []byte) (int, uint32, error) {
	if len(k.queue) == 0 {
		return 0, 0, unix.EAGAIN
	}
	d := k.queue[0]
	k.queue = k.queue[1:]
	if d.err != nil {
		return 0, 0, d.err
	}
	n := copy(b, d.b)
	if d.size != 0 {
		n = d.size
	} else if len(d.b) > n {
		n = len(d.b)
	}
	return n, d.port, nil
}

func (k *kernel) device(name string) (uint32, error) {
	if name == "lo" {
		return 1, nil
	}
	return 0, unix.ENODEV
}

func (k *kernel) close() error { k.open--; return nil }

// talk opens a Conn to a kernel that answers as told.
func talk(t testing.TB, answer func(questions []header) []datagram) (*Conn, *kernel) {
	t.Helper()
	k := &kernel{answer: func([]header) []datagram { return one(done(1, 0)) }}
	c, err := openWith(k.connect)
	require.NoError(t, err)
	k.answer, k.sent = answer, nil
	t.Cleanup(func() {
		_ = c.Close()
		require.Zero(t, k.open, "transports left open")
	})
	return c, k
}

func one(b []byte) []datagram { return []datagram{{b: b}} }

// each answers every question with f, in one datagram each.
func each(f func(i int, seq uint32) []byte) func([]header) []datagram {
	return func(questions []header) (ds []datagram) {
		for i, q := range questions {
			ds = append(ds, datagram{b: f(i, q.seq)})
		}
		return ds
	}
}

func message(kind, flags uint16, seq uint32, body []byte) []byte {
	b := appendHeader(nil, unix.NLMSG_HDRLEN+len(body), kind, flags, seq)
	b = append(b, body...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func failure(seq uint32, errno unix.Errno) []byte {
	return message(unix.NLMSG_ERROR, 0, seq, append(native.AppendUint32(nil, uint32(-int32(errno))), make([]byte, 16)...))
}

func done(seq uint32, errno unix.Errno) []byte {
	return message(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, native.AppendUint32(nil, uint32(-int32(errno))))
}

func found(seq uint32, s Socket) []byte {
	return message(unix.SOCK_DIAG_BY_FAMILY, 0, seq, body(s))
}

// body is the struct inet_diag_msg of s with its attributes.
func body(s Socket) []byte {
	family := byte(unix.AF_INET)
	if s.Local.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := []byte{family, s.State, byte(s.Timer), s.Retrans}
	b = appendID(b, Tuple{Local: s.Local, Remote: s.Remote, Device: s.Device})
	native.PutUint32(b[44:], uint32(s.Cookie))
	native.PutUint32(b[48:], uint32(s.Cookie>>32))
	b = native.AppendUint32(b, uint32(s.Expires/time.Millisecond))
	for _, v := range []uint32{s.RecvQueue, s.SendQueue, s.UID, s.Inode} {
		b = native.AppendUint32(b, v)
	}
	if s.HasShutdown {
		b = append(attribute(b, diagShutdown, 1), byte(s.Shutdown), 0, 0, 0)
	}
	if s.Info != nil {
		b = append(attribute(b, diagInfo, len(s.Info)), s.Info...)
	}
	return b
}

func attribute(b []byte, kind uint16, n int) []byte {
	return native.AppendUint16(native.AppendUint16(b, uint16(unix.SizeofNlAttr+n)), kind)
}

func tuples(n int) []Tuple {
	ts := make([]Tuple, n)
	for i := range ts {
		ts[i] = Tuple{
			Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(10000+i)),
			Remote: netip.MustParseAddrPort("198.51.100.7:443"),
		}
	}
	return ts
}

func socketOf(t Tuple) Socket {
	return Socket{Local: t.Local, Remote: t.Remote, State: tcptest.FinWait1}
}

func TestEveryFieldOfASocketIsRead(t *testing.T) {
	want := Socket{
		Local: netip.MustParseAddrPort("[2001:db8::1]:1234"), Remote: netip.MustParseAddrPort("[2001:db8::2]:443"),
		State: tcptest.LastAck, Timer: Retransmit, Retrans: 5, Expires: 1234 * time.Millisecond,
		RecvQueue: 7, SendQueue: 8, UID: 9, Inode: 10, Device: 11, Cookie: 0x1_0000_0002,
		Shutdown: ShutRead | ShutWrite, HasShutdown: true, Info: []byte{1, 2, 3, 4},
	}
	var got Socket
	require.True(t, parseSocket(&got, body(want)))
	require.Equal(t, want, got)

	v4 := want
	v4.Local, v4.Remote = netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	require.True(t, parseSocket(&got, body(v4)))
	require.Equal(t, v4, got)

	mapped := v4
	mapped.Local = netip.MustParseAddrPort("[::ffff:192.0.2.1]:1")
	mapped.Remote = netip.MustParseAddrPort("[::ffff:192.0.2.2]:2")
	require.True(t, parseSocket(&got, body(mapped)))
	require.Equal(t, v4, got)
}

func TestWhatCannotBeReadChangesNothing(t *testing.T) {
	good := body(Socket{Local: tuples(1)[0].Local, Remote: tuples(1)[0].Remote, State: 1, HasShutdown: true, Info: make([]byte, 8)})
	with := func(at int, v byte) []byte { b := append([]byte(nil), good...); b[at] = v; return b }
	bad := map[string][]byte{
		"family":               with(0, 1),
		"state 0":              with(1, 0),
		"state 13":             with(1, 13),
		"attribute too short":  with(diagMsgLen, 3),
		"attribute too long":   with(diagMsgLen, 200),
		"shutdown of no byte":  with(diagMsgLen, 4),
		"half an attribute":    append(append([]byte(nil), good...), 1, 2),
		"shutdown of two byte": with(diagMsgLen, 6),
	}
	for n := range diagMsgLen {
		bad["truncated at "+string(rune('0'+n/10))+string(rune('0'+n%10))] = good[:n]
	}
	for name, b := range bad {
		s := Socket{State: 99}
		require.False(t, parseSocket(&s, b), name)
		require.Equal(t, Socket{State: 99}, s, name)
	}
}

func TestAnOverdueTimerIsZero(t *testing.T) {
	require.Zero(t, expires(uint32(1<<32-20)), "20 ms ago in a kernel that does not stop at 0")
	require.Equal(t, 32767*time.Second, expires(32767*1000), "the longest keepalive")
}

func TestLookupAnswersInOrder(t *testing.T) {
	ts := tuples(3)
	c, k := talk(t, func(q []header) []datagram {
		// Out of order, and two in one datagram.
		return []datagram{
			{b: failure(q[2].seq, unix.ENOENT)},
			{b: append(found(q[1].seq, socketOf(ts[1])), found(q[0].seq, socketOf(ts[0]))...)},
		}
	})
	dst := []Result{{Status: Gone}}
	res, err := c.Lookup(dst, ts)
	require.NoError(t, err)
	require.Equal(t, []Result{
		{Status: Gone},
		{Tuple: ts[0], Status: Found, Socket: socketOf(ts[0])},
		{Tuple: ts[1], Status: Found, Socket: socketOf(ts[1])},
		{Tuple: ts[2], Status: Gone},
	}, res)
	require.Equal(t, Stats{Asked: 3, Found: 2, Gone: 1}, c.Stats())
	require.Len(t, k.sent, 1)
}

func TestLookupSendsInBatches(t *testing.T) {
	ts := tuples(2*batch + 1)
	c, k := talk(t, nil)
	base := 0
	k.answer = func(q []header) []datagram {
		ds := each(func(i int, seq uint32) []byte { return found(seq, socketOf(ts[base+i])) })(q)
		base += len(q)
		return ds
	}
	res, err := c.Lookup(nil, ts)
	require.NoError(t, err)
	require.Len(t, k.sent, 3)
	for i, r := range res {
		require.Equal(t, ts[i], r.Tuple)
		require.Equal(t, Found, r.Status)
	}
}

func TestLookupWhenSequenceNumbersWrap(t *testing.T) {
	ts := tuples(4)
	c, _ := talk(t, each(func(i int, seq uint32) []byte { return found(seq, socketOf(ts[i])) }))
	c.seq = 1<<32 - 3
	res, err := c.Lookup(nil, ts)
	require.NoError(t, err)
	for _, r := range res {
		require.Equal(t, Found, r.Status)
	}
}

// Whatever comes in place of an answer leaves the one tuple unknown, is
// counted, and is no obstacle to the next one.
func TestLookupOfWhatIsNoAnswer(t *testing.T) {
	ts := tuples(2)
	first := socketOf(ts[0])
	for name, tt := range map[string]struct {
		in   func(seq uint32) []datagram
		want Stats
	}{
		"nothing":       {func(uint32) []datagram { return nil }, Stats{}},
		"an empty one":  {func(uint32) []datagram { return one(nil) }, Stats{Malformed: 1}},
		"half a header": {func(seq uint32) []datagram { return one(found(seq, first)[:8]) }, Stats{Malformed: 1}},
		"a length too long": {func(seq uint32) []datagram { return one(found(seq, first)[:40]) },
			Stats{Malformed: 1}},
		"a length too short": {func(seq uint32) []datagram {
			b := found(seq, first)
			native.PutUint32(b, 15)
			return one(b)
		}, Stats{Malformed: 1}},
		"a short body": {func(seq uint32) []datagram {
			return one(message(unix.SOCK_DIAG_BY_FAMILY, 0, seq, body(first)[:diagMsgLen-1]))
		}, Stats{Malformed: 1}},
		"a short error": {func(seq uint32) []datagram {
			return one(message(unix.NLMSG_ERROR, 0, seq, []byte{1}))
		}, Stats{Malformed: 1}},
		"a positive error": {func(seq uint32) []datagram {
			return one(message(unix.NLMSG_ERROR, 0, seq, native.AppendUint32(nil, uint32(unix.ENOENT))))
		}, Stats{Malformed: 1}},
		"larger than the buffer": {func(seq uint32) []datagram {
			return []datagram{{b: found(seq, first), size: bufferSize + 1}}
		}, Stats{Oversized: 1}},
		"from another process": {func(seq uint32) []datagram {
			return []datagram{{b: found(seq, first), port: 4711}, {b: failure(seq, unix.ENOENT), port: 1}}
		}, Stats{Foreign: 2}},
		"to another question": {func(seq uint32) []datagram {
			return []datagram{{b: found(seq-1, first)}, {b: failure(seq+2, unix.ENOENT)}}
		}, Stats{Stray: 2}},
		"an acknowledgement": {func(seq uint32) []datagram { return one(failure(seq, 0)) }, Stats{Stray: 1}},
		"the end of a dump":  {func(seq uint32) []datagram { return one(done(seq, 0)) }, Stats{Stray: 1}},
		"an unknown kind":    {func(seq uint32) []datagram { return one(message(99, 0, seq, body(first))) }, Stats{Stray: 1}},
		"nothing, noted":     {func(seq uint32) []datagram { return one(message(unix.NLMSG_NOOP, 0, seq, nil)) }, Stats{}},
		"an overrun":         {func(seq uint32) []datagram { return one(message(unix.NLMSG_OVERRUN, 0, seq, nil)) }, Stats{Overruns: 1}},
		"a full buffer":      {func(uint32) []datagram { return []datagram{{err: unix.ENOBUFS}} }, Stats{Overruns: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := talk(t, func(q []header) []datagram {
				return append(tt.in(q[0].seq), datagram{b: failure(q[1].seq, unix.ENOENT)})
			})
			res, err := c.Lookup(nil, ts)
			require.Error(t, err)
			require.Equal(t, []Result{{Tuple: ts[0]}, {Tuple: ts[1], Status: Gone}}, res)
			tt.want.Asked, tt.want.Gone, tt.want.Lost = 2, 1, 1
			require.Equal(t, tt.want, c.Stats())
		})
	}
}

func TestLookupThatIsRefused(t *testing.T) {
	ts := tuples(2)
	c, _ := talk(t, func(q []header) []datagram {
		return []datagram{{b: failure(q[0].seq, unix.EACCES)}, {b: failure(q[1].seq, unix.ENOENT)}}
	})
	res, err := c.Lookup(nil, ts)
	require.ErrorIs(t, err, unix.EACCES)
	require.Equal(t, []Result{{Tuple: ts[0]}, {Tuple: ts[1], Status: Gone}}, res)
	require.Equal(t, Stats{Asked: 2, Gone: 1, Refused: 1}, c.Stats())
}

func TestTheFirstAnswerStands(t *testing.T) {
	ts := tuples(2)
	c, _ := talk(t, func(q []header) []datagram {
		return []datagram{
			{b: found(q[0].seq, socketOf(ts[0]))}, {b: failure(q[0].seq, unix.ENOENT)},
			{b: failure(q[1].seq, unix.ENOENT)}, {b: found(q[1].seq, socketOf(ts[1]))},
		}
	})
	res, err := c.Lookup(nil, ts)
	require.NoError(t, err)
	require.Equal(t, []Status{Found, Gone}, []Status{res[0].Status, res[1].Status})

	// What was left unread is no answer to the next question.
	res, err = c.Lookup(res[:0], ts)
	require.NoError(t, err)
	require.Equal(t, []Status{Found, Gone}, []Status{res[0].Status, res[1].Status})
	require.Equal(t, Stats{Asked: 4, Found: 2, Gone: 2, Duplicate: 2, Stray: 1}, c.Stats())
}

// A stranger who never stops must not keep the caller.
func TestLookupDoesNotListenForEver(t *testing.T) {
	c, _ := talk(t, func([]header) []datagram { return strangers(10 * noise) })
	res, err := c.Lookup(nil, tuples(1))
	require.Error(t, err)
	require.Equal(t, Unknown, res[0].Status)
	require.Equal(t, uint64(noise+1), c.Stats().Foreign)
}

// The kernel may find a socket and describe it after it has lost its port or its
// state. Then it is gone, or a time-wait entry has taken its place.
func TestASocketThatIsLeavingTheTable(t *testing.T) {
	ts := tuples(3)
	noPort, closed, other := socketOf(ts[0]), socketOf(ts[2]), socketOf(ts[2])
	noPort.Local = netip.AddrPortFrom(noPort.Local.Addr(), 0)
	closed.State = tcptest.Closed
	other.Remote = netip.AddrPortFrom(other.Remote.Addr(), 444)
	for name, tt := range map[string]struct {
		then func(seq uint32) []byte
		want Result
		st   Stats
	}{
		"an entry":   {func(seq uint32) []byte { return found(seq, socketOf(ts[2])) }, Result{Status: Found, Socket: socketOf(ts[2])}, Stats{Found: 2, Gone: 1, Moved: 2}},
		"gone":       {func(seq uint32) []byte { return failure(seq, unix.ENOENT) }, Result{Status: Gone}, Stats{Found: 1, Gone: 2, Moved: 2}},
		"once more":  {func(seq uint32) []byte { return found(seq, closed) }, Result{}, Stats{Found: 1, Gone: 1, Moved: 3}},
		"who knows":  {func(seq uint32) []byte { return found(seq, other) }, Result{}, Stats{Found: 1, Gone: 1, Moved: 3}},
		"no answer":  {func(seq uint32) []byte { return message(unix.NLMSG_NOOP, 0, seq, nil) }, Result{}, Stats{Found: 1, Gone: 1, Moved: 2, Lost: 1}},
		"unreadable": {func(seq uint32) []byte { return []byte{1} }, Result{}, Stats{Found: 1, Gone: 1, Moved: 2, Lost: 1, Malformed: 1}},
	} {
		asked := 0
		c, k := talk(t, func(q []header) []datagram {
			asked++
			switch asked {
			case 1:
				return []datagram{{b: found(q[0].seq, noPort)}, {b: found(q[1].seq, socketOf(ts[1]))}, {b: found(q[2].seq, closed)}}
			case 2:
				return one(failure(q[0].seq, unix.ENOENT))
			}
			return one(tt.then(q[0].seq))
		})
		res, err := c.Lookup(nil, ts)
		tt.want.Tuple = ts[2]
		require.Equal(t, []Result{{Tuple: ts[0], Status: Gone}, {Tuple: ts[1], Status: Found, Socket: socketOf(ts[1])}, tt.want}, res, name)
		require.Equal(t, tt.want.Status == Unknown, err != nil, name)
		tt.st.Asked = 5
		require.Equal(t, tt.st, c.Stats(), name)
		require.Len(t, k.sent, 3, name)
	}
}

func TestDumpSkipsWhatHasChanged(t *testing.T) {
	ts := tuples(3)
	noPort, other := socketOf(ts[0]), socketOf(ts[1])
	noPort.Local = netip.AddrPortFrom(noPort.Local.Addr(), 0)
	other.State = tcptest.Closed
	c, _ := talk(t, func(q []header) []datagram {
		b := append(found(q[0].seq, noPort), found(q[0].seq, other)...)
		return []datagram{{b: append(b, found(q[0].seq, socketOf(ts[2]))...)}, {b: done(q[0].seq, 0)}}
	})
	var got []Socket
	d, err := c.Dump(Query{States: 1 << tcptest.FinWait1}, func(s *Socket) bool { got = append(got, *s); return true })
	require.NoError(t, err)
	require.True(t, d.Complete)
	require.Equal(t, []Socket{socketOf(ts[2])}, got)
}

func TestAListenerIsNotTheConnection(t *testing.T) {
	ts := tuples(1)
	listener := Socket{Local: ts[0].Local, Remote: netip.MustParseAddrPort("0.0.0.0:0"), State: tcpListen}
	c, _ := talk(t, each(func(_ int, seq uint32) []byte { return found(seq, listener) }))
	res, err := c.Lookup(nil, ts)
	require.NoError(t, err)
	require.Equal(t, []Result{{Tuple: ts[0], Status: Gone}}, res)

	ts[0].Remote = netip.AddrPort{}
	res, err = c.Lookup(nil, ts)
	require.NoError(t, err)
	require.Equal(t, []Result{{Tuple: ts[0], Status: Found, Socket: listener}}, res)
}

func TestLookupOfNoTuple(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
	for name, bad := range map[string]Tuple{
		"zero":              {},
		"no local address":  {Remote: v4},
		"no local port":     {Local: netip.AddrPortFrom(v4.Addr(), 0), Remote: v4},
		"two families":      {Local: v4, Remote: v6},
		"a port of nowhere": {Local: v4, Remote: netip.AddrPortFrom(netip.Addr{}, 1)},
		"unknown zone":      {Local: v6, Remote: netip.MustParseAddrPort("[fe80::1%nowhere]:1")},
	} {
		ts := []Tuple{bad, tuples(1)[0]}
		c, _ := talk(t, each(func(_ int, seq uint32) []byte { return failure(seq, unix.ENOENT) }))
		res, err := c.Lookup(nil, ts)
		require.Error(t, err, name)
		require.Equal(t, []Result{{Tuple: bad}, {Tuple: ts[1], Status: Gone}}, res, name)
		require.Equal(t, Stats{Asked: 1, Gone: 1}, c.Stats(), name)

		res, err = c.Lookup(nil, ts[:1])
		require.Error(t, err, name)
		require.Equal(t, []Result{{Tuple: bad}}, res, name)
	}
}

func TestTheDeviceOfAQuestion(t *testing.T) {
	for want, tt := range map[uint32]Tuple{
		0: {Local: netip.MustParseAddrPort("[fe80::1]:1"), Remote: netip.MustParseAddrPort("[fe80::2]:2")},
		1: {Local: netip.MustParseAddrPort("[fe80::1%lo]:1"), Remote: netip.MustParseAddrPort("[fe80::2%lo]:2")},
		5: {Local: netip.MustParseAddrPort("[fe80::1]:1"), Remote: netip.MustParseAddrPort("[fe80::2%5]:2")},
		6: {Local: netip.MustParseAddrPort("[fe80::1%lo]:1"), Remote: netip.MustParseAddrPort("[fe80::2]:2"), Device: 6},
	} {
		answer := Socket{Local: bare(tt.Local), Remote: bare(tt.Remote), State: 1, Device: want}
		c, k := talk(t, each(func(_ int, seq uint32) []byte { return found(seq, answer) }))
		res, err := c.Lookup(nil, []Tuple{tt})
		require.NoError(t, err)
		require.Equal(t, []Result{{Tuple: tt, Status: Found, Socket: answer}}, res)
		require.Equal(t, want, native.Uint32(k.sent[0][unix.NLMSG_HDRLEN+8+36:]))
	}
}

func TestTheFormOfAQuestion(t *testing.T) {
	b := appendLookup(nil, 3, tuples(1)[0], true)
	require.Len(t, b, lookupLen)
	h, req, rest, ok := cut(b)
	require.True(t, ok)
	require.Empty(t, rest)
	require.Equal(t, header{unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_REQUEST, 3}, h)
	require.Equal(t, []byte{unix.AF_INET, unix.IPPROTO_TCP, 2, 0}, req[:4])
	require.Equal(t, uint16(10000), binary.BigEndian.Uint16(req[8:]))
	require.Equal(t, uint16(443), binary.BigEndian.Uint16(req[10:]))
	require.Equal(t, []byte{192, 0, 2, 1}, req[12:16])
	require.Equal(t, []byte{198, 51, 100, 7}, req[28:32])

	for _, family := range []Family{Both, IPv4, IPv6} {
		for _, mptcp := range []bool{false, true} {
			b := appendDump(nil, 3, Query{Family: family, MPTCP: mptcp, Info: true}, 0)
			require.LessOrEqual(t, len(b), dumpLen)
			_, _, rest, ok := cut(b)
			require.True(t, ok)
			require.Empty(t, rest)
		}
	}
}

func TestLookupInfoKeepsTheBytes(t *testing.T) {
	ts := tuples(3)
	c, _ := talk(t, each(func(i int, seq uint32) []byte {
		s := socketOf(ts[i])
		if i != 1 {
			s.Info = []byte{byte(i), 1, 2, 3}
		}
		return found(seq, s)
	}))
	res, info, err := c.LookupInfo(nil, []byte("x"), ts)
	require.NoError(t, err)
	require.Equal(t, []byte{'x', 0, 1, 2, 3, 2, 1, 2, 3}, info)
	require.Equal(t, []byte{0, 1, 2, 3}, res[0].Socket.Info)
	require.Nil(t, res[1].Socket.Info)
	require.Equal(t, []byte{2, 1, 2, 3}, res[2].Socket.Info)
}

func TestLookupWhenSendingFails(t *testing.T) {
	c, k := talk(t, nil)
	k.sendErr = unix.ENOMEM
	ts := tuples(batch + 1)
	res, err := c.Lookup(nil, ts)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.Len(t, res, len(ts))
	for i, r := range res {
		require.Equal(t, Result{Tuple: ts[i]}, r)
	}
	require.Equal(t, Stats{Asked: batch, Lost: batch}, c.Stats())

	_, err = c.Dump(Query{}, func(*Socket) bool { return true })
	require.ErrorIs(t, err, unix.ENOMEM)
}

func TestLookupWhenReceivingFails(t *testing.T) {
	c, _ := talk(t, func([]header) []datagram { return []datagram{{err: unix.EBADF}} })
	res, err := c.Lookup(nil, tuples(1))
	require.ErrorIs(t, err, unix.EBADF)
	require.Equal(t, Unknown, res[0].Status)
	_, err = c.Dump(Query{}, func(*Socket) bool { return true })
	require.ErrorIs(t, err, unix.EBADF)
}

func TestOpenNeedsTCPDiagnostics(t *testing.T) {
	for name, tt := range map[string]struct {
		in   func(seq uint32) []datagram
		want error
	}{
		"no tcp_diag":  {func(seq uint32) []datagram { return one(done(seq, unix.ENOENT)) }, errors.ErrUnsupported},
		"no inet_diag": {func(seq uint32) []datagram { return one(failure(seq, unix.ENOENT)) }, errors.ErrUnsupported},
		"forbidden":    {func(seq uint32) []datagram { return one(failure(seq, unix.EACCES)) }, unix.EACCES},
		"no answer":    {func(seq uint32) []datagram { return nil }, nil},
	} {
		k := &kernel{answer: func(q []header) []datagram { return tt.in(q[0].seq) }}
		_, err := openWith(k.connect)
		require.Error(t, err, name)
		if tt.want != nil {
			require.ErrorIs(t, err, tt.want, name)
		}
		require.Zero(t, k.open, name)
	}
	_, err := openWith(func() (transport, error) { return nil, unix.EAFNOSUPPORT })
	require.ErrorIs(t, err, unix.EAFNOSUPPORT)
}

func all(*Socket) bool { return true }

func TestDumpOfManyParts(t *testing.T) {
	ts := tuples(4)
	c, _ := talk(t, func(q []header) []datagram {
		seq := q[0].seq
		return []datagram{
			{b: append(found(seq, socketOf(ts[0])), found(seq, socketOf(ts[1]))...)},
			{b: found(seq, socketOf(ts[2])), port: 9},
			{b: found(seq-1, socketOf(ts[2]))},
			{b: append(found(seq, socketOf(ts[3])), done(seq, 0)...)},
		}
	})
	var got []Socket
	d, err := c.Dump(Query{}, func(s *Socket) bool { got = append(got, *s); return true })
	require.NoError(t, err)
	require.True(t, d.Complete)
	require.Equal(t, 3, d.Sockets)
	require.Positive(t, d.Cost)
	require.Equal(t, []Socket{socketOf(ts[0]), socketOf(ts[1]), socketOf(ts[3])}, got)
	require.Equal(t, Stats{Dumps: 1, Dumped: 3, Foreign: 1, Stray: 1}, c.Stats())
}

// A dump that is not the whole truth says so, and the next one is not disturbed
// by what is left of it.
func TestDumpThatIsNotComplete(t *testing.T) {
	ts := tuples(2)
	s0, s1 := socketOf(ts[0]), socketOf(ts[1])
	for name, tt := range map[string]struct {
		in      func(seq uint32) []datagram
		sockets int
		want    Stats
	}{
		"a table that changed": {func(seq uint32) []datagram {
			return []datagram{{b: message(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, seq, body(s0))}, {b: done(seq, 0)}}
		}, 1, Stats{}},
		"told at the end": {func(seq uint32) []datagram {
			return []datagram{{b: found(seq, s0)}, {b: message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, seq, make([]byte, 4))}}
		}, 1, Stats{}},
		"no end":        {func(seq uint32) []datagram { return one(found(seq, s0)) }, 1, Stats{Lost: 1}},
		"nothing":       {func(uint32) []datagram { return nil }, 0, Stats{Lost: 1}},
		"only noise":    {func(uint32) []datagram { return strangers(10 * noise) }, 0, Stats{Lost: 1, Foreign: noise}},
		"a full buffer": {func(seq uint32) []datagram { return []datagram{{err: unix.ENOBUFS}, {b: done(seq, 0)}} }, 0, Stats{Overruns: 1}},
		"an overrun": {func(seq uint32) []datagram {
			return []datagram{{b: message(unix.NLMSG_OVERRUN, 0, 0, nil)}, {b: done(seq, 0)}}
		}, 0, Stats{Overruns: 1}},
		"a part too long": {func(seq uint32) []datagram { return []datagram{{size: bufferSize + 1}, {b: done(seq, 0)}} }, 0, Stats{Oversized: 1}},
		"half a part":     {func(seq uint32) []datagram { return []datagram{{b: found(seq, s0)[:30]}, {b: done(seq, 0)}} }, 0, Stats{Malformed: 1}},
		"half a header":   {func(seq uint32) []datagram { return []datagram{{b: found(seq, s0)[:3]}, {b: done(seq, 0)}} }, 0, Stats{Malformed: 1}},
		"a bad socket": {func(seq uint32) []datagram {
			b := found(seq, s0)
			b[unix.NLMSG_HDRLEN] = 99
			return []datagram{{b: append(b, found(seq, s1)...)}, {b: done(seq, 0)}}
		}, 1, Stats{Malformed: 1}},
		"a bad end": {func(seq uint32) []datagram {
			return []datagram{{b: found(seq, s0)}, {b: message(unix.NLMSG_DONE, 0, seq, []byte{1})}}
		}, 1, Stats{Malformed: 1}},
		"an acknowledgement": {func(seq uint32) []datagram { return one(failure(seq, 0)) }, 0, Stats{Stray: 1, Lost: 1}},
		"an unknown kind":    {func(seq uint32) []datagram { return one(message(77, 0, seq, nil)) }, 0, Stats{Stray: 1, Lost: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			c, k := talk(t, func(q []header) []datagram { return tt.in(q[0].seq) })
			d, err := c.Dump(Query{}, all)
			require.NoError(t, err)
			require.False(t, d.Complete)
			require.Equal(t, tt.sockets, d.Sockets)
			tt.want.Dumps, tt.want.Dumped = 1, uint64(tt.sockets)
			require.Equal(t, tt.want, c.Stats())

			k.answer = func(q []header) []datagram {
				return one(append(found(q[0].seq, s1), message(unix.NLMSG_DONE, 0, q[0].seq, nil)...))
			}
			d, err = c.Dump(Query{}, all)
			require.NoError(t, err)
			require.True(t, d.Complete)
			require.Equal(t, 1, d.Sockets)
		})
	}
}

func strangers(n int) (ds []datagram) {
	for range n {
		ds = append(ds, datagram{b: done(1, 0), port: 1})
	}
	return ds
}

func TestDumpThatIsRefused(t *testing.T) {
	for _, b := range []func(uint32, unix.Errno) []byte{failure, done} {
		c, _ := talk(t, func(q []header) []datagram { return one(b(q[0].seq, unix.EACCES)) })
		d, err := c.Dump(Query{}, all)
		require.ErrorIs(t, err, unix.EACCES)
		require.False(t, d.Complete)
		require.Equal(t, Stats{Dumps: 1, Refused: 1}, c.Stats())
	}
}

func TestDumpStopsWhereItIsTold(t *testing.T) {
	ts := tuples(3)
	three := func(q []header) []datagram {
		b := found(q[0].seq, socketOf(ts[0]))
		b = append(b, found(q[0].seq, socketOf(ts[1]))...)
		b = append(b, found(q[0].seq, socketOf(ts[2]))...)
		return []datagram{{b: b}, {b: done(q[0].seq, 0)}}
	}
	c, _ := talk(t, three)

	d, err := c.Dump(Query{Max: 2}, all)
	require.NoError(t, err)
	require.Equal(t, 2, d.Sockets)
	require.False(t, d.Complete)

	d, err = c.Dump(Query{Max: 3}, all)
	require.NoError(t, err)
	require.Equal(t, 3, d.Sockets)
	require.True(t, d.Complete)

	d, err = c.Dump(Query{}, func(*Socket) bool { return false })
	require.NoError(t, err)
	require.Equal(t, 1, d.Sockets)
	require.False(t, d.Complete)

	d, err = c.Dump(Query{Timeout: 1}, all)
	require.NoError(t, err)
	require.Equal(t, 3, d.Sockets)
	require.False(t, d.Complete)
}

func TestAPanicOfYieldLeavesTheConnUsable(t *testing.T) {
	ts := tuples(1)
	c, _ := talk(t, func(q []header) []datagram {
		return []datagram{{b: found(q[0].seq, socketOf(ts[0]))}, {b: done(q[0].seq, 0)}}
	})
	require.Panics(t, func() { _, _ = c.Dump(Query{}, func(*Socket) bool { panic("no") }) })
	d, err := c.Dump(Query{}, all)
	require.NoError(t, err)
	require.True(t, d.Complete)
}
