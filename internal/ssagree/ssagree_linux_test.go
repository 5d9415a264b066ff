package ssagree

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

func TestMain(m *testing.M) { tcptest.Main(m) }

// family is a kind of connection.
type family struct {
	name   string
	mptcp  bool             // between two MPTCP sockets
	opts   []tcptest.Option // of both ends
	dialer []tcptest.Option // of the dialing end, in their place
	near   tcpstate.Role    // the end to look at
	any    bool             // the listener is that of all addresses, IPv4 and IPv6
}

var families = []family{
	{name: "IPv4"},
	{name: "IPv6", opts: []tcptest.Option{tcptest.IPv6()}},
	{name: "IPv4 on an IPv6 socket", near: tcpstate.Server, any: true},
	{name: "MPTCP", mptcp: true, opts: []tcptest.Option{tcptest.MPTCP(true), tcptest.SmallBuffers()}},
	{name: "MPTCP IPv6", mptcp: true, opts: []tcptest.Option{tcptest.MPTCP(true), tcptest.SmallBuffers(), tcptest.IPv6()}},
	{name: "MPTCP accepted", mptcp: true, opts: []tcptest.Option{tcptest.MPTCP(true), tcptest.SmallBuffers()}, near: tcpstate.Server},
	// The listener knows no MPTCP, so that the MPTCP socket of the client uses
	// TCP. ss lists it both ways.
	{name: "MPTCP in vain", dialer: []tcptest.Option{tcptest.MPTCP(true)}},
}

// rig is one connection, or the half of one, of a family.
type rig struct {
	*testing.T
	family
	tr            *tcpstate.Tracker
	near          *tcpstate.Conn // nil where no descriptor is held
	far           *net.TCPConn
	local, remote net.Addr // of the socket to look at
}

// TestStatesAreThoseOfSS is the proof that the library and ss agree.
func TestStatesAreThoseOfSS(t *testing.T) {
	needSS(t)
	for _, f := range families {
		for _, tt := range []struct {
			name  string
			want  tcpstate.State
			reach func(r *rig)
		}{
			{"listening", tcpstate.Listen, func(r *rig) { r.local = r.listen().Addr() }},
			{"dialing", tcpstate.SynSent, (*rig).dialing},
			{"half open", tcpstate.SynRecv, (*rig).halfOpen},
			{"connected", tcpstate.Established, (*rig).connect},
			{"own end of reading", tcpstate.Established, func(r *rig) {
				r.connect()
				r.no(r.near.CloseRead())
			}},
			{"own end unacknowledged", tcpstate.FinWait1, func(r *rig) {
				r.connect()
				r.mute(r.near.TCPConn, r.far)
				r.no(r.near.CloseWrite())
			}},
			{"own end unacknowledged, closed", tcpstate.FinWait1, func(r *rig) {
				r.connect()
				r.mute(r.near.TCPConn, r.far)
				r.close()
			}},
			{"own end", tcpstate.FinWait2, func(r *rig) {
				r.connect()
				r.no(r.near.CloseWrite())
			}},
			{"own end, closed", tcpstate.FinWait2, func(r *rig) {
				r.connect()
				r.close()
			}},
			{"peer's end", tcpstate.CloseWait, func(r *rig) {
				r.connect()
				r.no(r.far.CloseWrite())
			}},
			{"peer's end, closed there", tcpstate.CloseWait, func(r *rig) {
				r.connect()
				r.no(r.far.Close())
			}},
			{"both ends at once", tcpstate.Closing, (*rig).cross},
			{"both ends, the peer first", tcpstate.LastAck, func(r *rig) {
				r.lastAck()
				r.no(r.near.CloseWrite())
			}},
			{"both ends, the peer first, closed", tcpstate.LastAck, func(r *rig) {
				r.lastAck()
				r.close()
			}},
			{"both ends", tcpstate.TimeWait, func(r *rig) {
				r.connect()
				r.no(r.near.CloseWrite())
				r.until(tcpstate.FinWait2)
				r.no(r.far.CloseWrite())
			}},
			{"both ends, closed", tcpstate.TimeWait, func(r *rig) {
				r.connect()
				r.close()
				r.until(tcpstate.FinWait2)
				r.no(r.far.Close())
			}},
			{"both ends, nothing left", tcpstate.Closed, func(r *rig) {
				r.connect()
				r.no(r.far.Close())
				r.until(tcpstate.CloseWait)
				r.no(r.near.CloseWrite())
			}},
			{"reset", tcpstate.Closed, func(r *rig) {
				r.connect()
				tcptest.Reset(r, r.far)
			}},
			{"reset by Close", tcpstate.Closed, func(r *rig) {
				r.connect()
				r.no(r.near.SetLinger(0))
				r.close()
			}},
		} {
			t.Run(f.name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				r := &rig{T: t, family: f, tr: leaktest.Tracker(t, leaktest.IgnoreFindings())}
				tt.reach(r)
				r.until(tt.want)
				r.compare(tt.want)
			})
		}
	}
}

// until waits for ss to show the state.
func (r *rig) until(want tcpstate.State) {
	r.Helper()
	tcptest.WaitUntil(r, want.String()+" in ss", func() bool { return lookSS(r.T, r.local, r.remote).state() == want })
}

// compare asks ss before and after the library, since the kernel may go on in
// between.
func (r *rig) compare(want tcpstate.State) {
	r.Helper()
	for range 5 {
		before := lookSS(r.T, r.local, r.remote)
		got, err := tcpstate.SocketState(r.local, r.remote)
		r.no(err)
		var shown tcpstate.Snapshot
		if r.near != nil {
			shown = r.near.Watch().Snapshot()
		}
		if lookSS(r.T, r.local, r.remote) != before {
			continue
		}
		require.Equal(r, want, before.state(), "of ss")
		require.Equal(r, before.state(), got, "SocketState, beside %v", before)
		if r.near != nil {
			require.Equal(r, before.held(), shown.State, "Snapshot, beside %v", before)
		}
		return
	}
	r.Fatal("the state changes all the time")
}

func (r *rig) no(err error) {
	r.Helper()
	require.NoError(r, err)
}

func (r *rig) listen() *net.TCPListener {
	if !r.any {
		return tcptest.Listen(r, r.opts...)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(r.Context(), "tcp", ":0")
	if err == nil && ln.Addr().(*net.TCPAddr).IP.To4() != nil {
		r.Skip("no IPv6")
	}
	r.no(err)
	r.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// address is where to dial ln.
func (r *rig) address(ln net.Listener) *net.TCPAddr {
	a := ln.Addr().(*net.TCPAddr)
	if r.any {
		return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: a.Port}
	}
	return a
}

// listenerAt makes the dialing helpers of tcptest dial another address.
type listenerAt struct {
	net.Listener
	at net.Addr
}

func (l listenerAt) Addr() net.Addr { return l.at }

func (r *rig) dial(ln net.Listener) *net.TCPConn {
	opts := r.opts
	if r.dialer != nil {
		opts = r.dialer
	}
	c := tcptest.Connect(r, listenerAt{ln, r.address(ln)}, opts...)
	if on, err := c.MultipathTCP(); r.mptcp && !on {
		r.Skipf("no MPTCP here (err %v)", err)
	}
	return c
}

// connect makes a connection and tracks the near end.
func (r *rig) connect() {
	ln := r.listen()
	client := r.dial(ln)
	server, err := ln.AcceptTCP()
	r.no(err)
	r.Cleanup(func() { _ = server.SetLinger(0); server.Close() })
	r.no(ln.Close())
	near := client
	r.far = server
	if r.family.near == tcpstate.Server {
		near, r.far = server, client
	}
	r.near = r.tr.Track(near, tcpstate.Origin{Role: r.family.near})
	r.local, r.remote = near.LocalAddr(), near.RemoteAddr()
}

// close closes the near end: no descriptor is left to ask.
func (r *rig) close() {
	r.no(r.near.Close())
	r.near = nil
}

// mute keeps the FIN of from, which it is about to send, from being
// acknowledged. heal ends that.
//
// A socket that loses what comes is not to be had with MPTCP, whose sockets
// refuse the option. There, bytes that the peer does not read are in front of
// the DATA_FIN.
func (r *rig) mute(from, to *net.TCPConn) (heal func()) {
	if !r.mptcp {
		return tcptest.Deafen(r, to)
	}
	r.fill(from)
	return func() {
		r.no(to.SetReadDeadline(time.Now().Add(tcptest.Deadline)))
		_, err := io.Copy(io.Discard, to)
		r.no(err)
	}
}

// fill is tcptest.FillWindow for MPTCP, whose path keeps segments unacknowledged
// at a closed window. The peer's buffer is much smaller than what is left.
func (r *rig) fill(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	r.no(err)
	chunk := make([]byte, 64<<10)
	tcptest.WaitUntil(r, "a closed window", func() bool {
		var werr error
		r.no(raw.Control(func(fd uintptr) {
			for werr == nil {
				_, werr = unix.Write(int(fd), chunk)
			}
		}))
		require.ErrorIs(r, werr, unix.EAGAIN)
		info, err := tcpstate.ReadInfo(c)
		r.no(err)
		_, send := tcptest.Queues(r, c)
		return info.SendWindow < info.SendMSS && send > 16<<10
	})
}

// cross makes the near end see the peer's FIN while its own is on the way.
func (r *rig) cross() {
	if r.dialer != nil {
		r.Skip("an MPTCP socket cannot be made deaf, and the far end has a plain one")
	}
	r.connect()
	heal := r.mute(r.far, r.near.TCPConn)
	r.mute(r.near.TCPConn, r.far)
	r.no(errors.Join(r.near.CloseWrite(), r.far.CloseWrite()))
	r.until(tcpstate.FinWait1)
	heal()
}

// lastAck leaves the near end in CLOSE-WAIT with a peer that will not hear of
// its FIN.
func (r *rig) lastAck() {
	r.connect()
	r.no(r.far.CloseWrite())
	r.until(tcpstate.CloseWait)
	r.compare(tcpstate.CloseWait)
	r.mute(r.near.TCPConn, r.far)
}

// dialing dials a listener that hears no SYN. Without MPTCP, which cannot be
// made deaf; to who dials that is the same.
func (r *rig) dialing() {
	var opts []tcptest.Option
	if len(r.opts) > 0 && r.listen().Addr().(*net.TCPAddr).IP.To4() == nil {
		opts = append(opts, tcptest.IPv6())
	}
	ln := tcptest.Listen(r, opts...)
	tcptest.Deafen(r, ln)
	var d net.Dialer
	d.SetMultipathTCP(r.mptcp || r.dialer != nil)
	c := tcptest.Dialing(r, &d, ln.Addr().String())
	tcptest.WaitState(r, c, tcptest.SynSent)
	r.local, r.remote = tcptest.LocalAddr(r, c), ln.Addr()
}

// halfOpen looks at the request socket of a listener, which has no descriptor
// yet. It is no MPTCP socket either: only ss -t lists it.
func (r *rig) halfOpen() {
	ln := r.listen()
	tcptest.DeferAccept(r, ln, 5*time.Second)
	c := r.dial(ln)
	r.local, r.remote = r.address(ln), c.LocalAddr()
}
