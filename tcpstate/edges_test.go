package tcpstate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// endpoint is a model of a TCP socket and of the program that holds it: enough
// of the kernel to say what every look at it would show, and the truth to hold
// the history against. It knows what tcp_recvmsg, tcp_fin, tcp_reset,
// tcp_write_err and tcp_poll do, not how.
type endpoint struct {
	// The kernel.
	state  State
	mptcp  bool // TCP_INFO shows a subflow, which stays ESTABLISHED
	fin    bool // the peer's FIN arrived
	first  bool // before ours was sent
	rdShut bool // shutdown(SHUT_RD)
	wrShut bool // shutdown(SHUT_WR)
	err    readResult
	asked  uint8 // retransmissions or probes that were not answered
	truth  endCause

	// Our epoll.
	watched bool
	late    bool // watched only after the end
	edge    bool
	event   *look // harvested, not yet looked at

	// The program.
	blind      bool
	parked     bool       // in Read
	copying    bool       // in io.Copy
	holds      readResult // taken from the kernel, not yet told
	holdsCopy  bool       // by a copy
	told       readResult
	copyFailed bool
	crFlag     bool
	cwFlag     bool
	cwCalled   bool // CloseWrite has set its flag, but not yet called the kernel

	// The tracker.
	now, deadAt int
	h           history
	lookedAt    map[State]bool
}

func newEndpoint(blind, mptcp, watched bool) *endpoint {
	return &endpoint{state: Established, blind: blind, mptcp: mptcp, watched: watched, lookedAt: make(map[State]bool)}
}

// peerFIN, peerRST, ack and timeout are what the network does.
func (m *endpoint) peerFIN() {
	if m.state == Closed || m.fin {
		return
	}
	m.fin, m.first = true, !m.wrShut
	switch m.state {
	case Established:
		m.state = CloseWait
	case FinWait1:
		m.state = Closing
	case FinWait2:
		m.die(endClean)
	}
	m.wake()
}

// ack acknowledges our FIN.
func (m *endpoint) ack() {
	switch m.state {
	case FinWait1:
		m.state = FinWait2
	case Closing, LastAck:
		m.die(endClean)
		m.wake()
	}
}

func (m *endpoint) peerRST(asked uint8) {
	if m.state != Closed {
		m.asked, m.err = asked, readReset
		m.die(endReset)
		m.wake()
	}
}

func (m *endpoint) timeout(asked uint8) {
	if m.state != Closed {
		m.asked, m.err = asked, readTimedOut
		m.die(endTimeout)
		m.wake()
	}
}

func (m *endpoint) die(how endCause) { m.state, m.truth = Closed, how }

// wake is sk_state_change and sk_error_report: parked readers go first, epoll
// gets its edge.
func (m *endpoint) wake() {
	m.edge = true
	if m.parked || m.copying {
		m.takeEnd()
	}
}

// takeEnd is what a read brings when nothing is queued, in the order of
// tcp_recvmsg_locked. It reports false when a read would block.
func (m *endpoint) takeEnd() bool {
	got := readNothing
	switch {
	case m.fin:
		got = readEOF
	case m.err != readNothing:
		got, m.err = m.err, readNothing
	case m.rdShut, m.state == Closed:
		got = readEOF
	default:
		return false
	}
	m.tell() // one reader: it has told the last before it reads again
	m.holds, m.holdsCopy = got, m.copying
	m.parked, m.copying = false, false
	return true
}

// tell hands what a read brought to the wrapper.
func (m *endpoint) tell() {
	if m.holdsCopy && m.holds.fatal() {
		m.copyFailed = true
		m.holds = readCopy
	}
	m.told = max(m.told, m.holds)
	m.holds, m.holdsCopy = readNothing, false
}

func (m *endpoint) read(copying bool) {
	if m.parked || m.copying {
		return
	}
	m.copying = copying
	if !m.takeEnd() {
		m.parked = !copying
	}
}

// write takes the error. After CloseWrite nobody writes.
func (m *endpoint) write() {
	if !m.wrShut && !m.cwCalled {
		m.err = readNothing
	}
}

func (m *endpoint) closeRead() {
	if m.state == Closed {
		return // ENOTCONN, and the flag is taken back
	}
	m.crFlag, m.rdShut = true, true
	m.wake()
}

// beginCloseWrite and endCloseWrite are before and after the system call.
func (m *endpoint) beginCloseWrite() { m.cwCalled = m.cwCalled || !m.wrShut }

func (m *endpoint) endCloseWrite() {
	if !m.cwCalled {
		return
	}
	m.cwCalled = false
	switch m.state {
	case Established:
		m.state = FinWait1
	case CloseWait:
		m.state = LastAck
	default:
		return // ENOTCONN, and the flag is taken back
	}
	m.cwFlag, m.wrShut = true, true
	m.edge = true
}

// harvest is epoll_wait: the bits are those of this moment.
func (m *endpoint) harvest() {
	if !m.watched || !m.edge || m.event != nil {
		return
	}
	m.edge = false
	closed := m.state == Closed
	rd := m.fin || m.rdShut || closed
	l := look{rdhup: rd, hup: closed || rd && m.wrShut, err: m.err != readNothing}
	if l.rdhup || l.hup || l.err {
		m.event = &l
	}
}

// watch adds the socket to epoll, which fires at once when there is reason to.
func (m *endpoint) watch() {
	if !m.watched {
		m.watched, m.edge, m.late = true, true, m.state == Closed
	}
}

// look is what the tracker does with an event, or in a sweep.
func (m *endpoint) look(t *testing.T) {
	var l look
	if m.event != nil {
		l, m.event = *m.event, nil
	}
	l.state = m.state
	if m.mptcp && m.state != Closed {
		l.state = Established
	}
	l.mptcp = m.mptcp && l.state == Established
	l.retransmits = m.asked
	l.blind, l.watched = m.blind, m.watched
	l.settled = m.h.dead && m.now > m.deadAt
	if !m.blind {
		l.read, l.copied = m.told, m.copyFailed
		l.closeRead = m.crFlag
		l.closeWrite = m.cwFlag || m.cwCalled
	}
	before := m.h
	m.h = m.h.observe(l)
	if m.h.dead && !before.dead {
		m.deadAt = m.now
	}
	m.lookedAt[l.state] = true
	m.check(t, before)
}

// second lets a second pass: whatever is on its way arrives.
func (m *endpoint) second(t *testing.T) {
	m.harvest()
	m.look(t)
	m.tell()
	m.endCloseWrite()
	m.harvest()
	if m.event != nil {
		m.look(t)
	}
	m.now++
	m.look(t)
}

// check holds the history against the truth.
func (m *endpoint) check(t *testing.T, before history) {
	t.Helper()
	h := m.h
	died := m.truth != endNone
	require.Equal(t, died, h.dead, "dead exactly when the kernel has ended it")
	switch h.end {
	case endClean:
		require.Equal(t, endClean, m.truth, "a reset or timeout was called a clean end")
		require.True(t, h.fin)
	case endReset, endTimeout:
		require.Contains(t, []endCause{endReset, endTimeout}, m.truth, "a clean end was called a reset or timeout")
		if m.told.fatal() && !m.blind {
			require.Equal(t, m.truth, h.end, "told otherwise")
		}
	case endUnknown:
		require.True(t, m.blind || m.copyFailed || m.late || !m.watched, "it could have been known")
	case endNone:
		require.Equal(t, died, h.pending)
	}
	if !(m.blind && m.mptcp && m.rdShut) { // not to be told from a DATA_FIN
		require.False(t, h.fin && !m.fin, "a FIN was invented")
		require.False(t, h.finFirst && !m.first, "the order of the FINs was invented")
	}
	require.False(t, before.fin && !h.fin, "a FIN was forgotten")
	require.False(t, before.finFirst && !h.finFirst, "the order of the FINs was forgotten")
	require.False(t, h.closeWrite && !m.wrShut, "a FIN of ours was invented")
	require.False(t, before.dead && !h.dead, "an end was forgotten")
	if before.end != endNone && before.end != endUnknown {
		require.Equal(t, before.end == endClean, h.end == endClean, "the verdict was turned round")
	}
}

// finish lets everything arrive and asks for what must be known then.
func (m *endpoint) finish(t *testing.T) {
	t.Helper()
	for range 3 {
		m.second(t)
	}
	require.False(t, m.h.pending)
	if !m.blind && m.watched && !m.late && !m.copyFailed {
		require.NotEqual(t, endUnknown, m.h.end)
	}
	for _, s := range []State{CloseWait, LastAck, Closing} {
		require.True(t, m.h.fin || !m.lookedAt[s])
	}
	if m.mptcp && m.watched && !m.rdShut && m.state != Closed {
		require.Equal(t, m.fin, m.h.fin, "the DATA_FIN was missed")
	}
}

// The operations of a script, one byte each. The first byte is the setting.
var endpointOps = []struct {
	name string
	do   func(m *endpoint, t *testing.T)
}{
	{"peer FIN", func(m *endpoint, t *testing.T) { m.peerFIN() }},
	{"peer RST", func(m *endpoint, t *testing.T) { m.peerRST(0) }},
	{"peer RST after retries", func(m *endpoint, t *testing.T) { m.peerRST(3) }},
	{"timeout", func(m *endpoint, t *testing.T) { m.timeout(9) }},
	{"timeout after one try", func(m *endpoint, t *testing.T) { m.timeout(1) }},
	{"ACK of our FIN", func(m *endpoint, t *testing.T) { m.ack() }},
	{"read", func(m *endpoint, t *testing.T) { m.read(false) }},
	{"copy", func(m *endpoint, t *testing.T) { m.read(true) }},
	{"tell", func(m *endpoint, t *testing.T) { m.tell() }},
	{"write", func(m *endpoint, t *testing.T) { m.write() }},
	{"CloseRead", func(m *endpoint, t *testing.T) { m.closeRead() }},
	{"CloseWrite", func(m *endpoint, t *testing.T) { m.beginCloseWrite(); m.endCloseWrite() }},
	{"CloseWrite begins", func(m *endpoint, t *testing.T) { m.beginCloseWrite() }},
	{"CloseWrite ends", func(m *endpoint, t *testing.T) { m.endCloseWrite() }},
	{"harvest", func(m *endpoint, t *testing.T) { m.harvest() }},
	{"look", func(m *endpoint, t *testing.T) { m.look(t) }},
	{"event", func(m *endpoint, t *testing.T) { m.harvest(); m.look(t) }},
	{"watch", func(m *endpoint, t *testing.T) { m.watch() }},
	{"second", func(m *endpoint, t *testing.T) { m.second(t) }},
}

func FuzzHistory(f *testing.F) {
	op := func(name string) byte {
		for i, o := range endpointOps {
			if o.name == name {
				return byte(i)
			}
		}
		f.Fatalf("no operation %q", name)
		return 0
	}
	const wrapped, blind, mptcp, unwatched = 0, 1, 2, 4
	script := func(setting byte, names ...string) {
		s := []byte{setting}
		for _, n := range names {
			s = append(s, op(n))
		}
		f.Add(s)
	}
	for _, setting := range []byte{wrapped, blind, mptcp, mptcp | blind, unwatched, unwatched | mptcp} {
		script(setting, "peer FIN", "event", "second")
		script(setting, "read", "peer FIN", "event", "tell")
		script(setting, "CloseRead", "event", "second", "peer FIN", "event")
		script(setting, "read", "peer RST", "event", "tell", "second")
		script(setting, "CloseWrite", "read", "ACK of our FIN", "peer FIN", "event", "tell", "second")
		script(setting, "CloseWrite", "read", "ACK of our FIN", "peer RST", "event", "second")
		script(setting, "CloseWrite", "copy", "ACK of our FIN", "peer RST", "event", "tell", "second")
		script(setting, "peer FIN", "CloseWrite", "harvest", "peer RST", "look", "event", "second")
		script(setting, "peer RST", "write", "CloseWrite begins", "event", "CloseWrite ends", "second")
		script(setting, "write", "timeout after one try", "write", "read", "tell", "event")
		script(setting, "peer FIN", "look", "peer RST", "event", "read", "second")
		script(setting, "CloseRead", "CloseWrite", "ACK of our FIN", "peer RST", "read", "look", "watch", "event")
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 || len(script) > 64 {
			return
		}
		m := newEndpoint(script[0]&blind != 0, script[0]&mptcp != 0, script[0]&unwatched == 0)
		for _, b := range script[1:] {
			endpointOps[int(b)%len(endpointOps)].do(m, t)
		}
		m.finish(t)
	})
}
