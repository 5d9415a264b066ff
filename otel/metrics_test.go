package tcpotel_test

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestConnectionsAreCountedByStateWithZeros(t *testing.T) {
	r := newRig(t).start()
	_, client := r.accepted("api")
	conn, _ := r.accepted("api")
	tcptest.Reset(t, client)
	r.clock.Advance(12 * time.Second)
	got := r.points("tcpstate.connection.count")
	require.Len(t, got, 11)
	require.Equal(t, float64(1), got["name=api role=server state=established"])
	require.Equal(t, float64(1), got["name=api role=server state=closed"])
	require.Contains(t, got, "name=api role=server state=time_wait")

	require.NoError(t, conn.Close())
	r.clock.Advance(2 * time.Second)
	require.Equal(t, float64(0), r.points("tcpstate.connection.count")["name=api role=server state=established"])
}

func TestDialsAreTimedByNameAndErrorType(t *testing.T) {
	r := newRig(t).start()
	r.dialed(t.Context(), "payments")
	d := dialer.Dialer{Tracker: r.tracker, Name: "payments"}
	_, err := d.Dial("tcp", refusingAddress(t))
	require.Error(t, err)
	r.finish()
	require.Equal(t, map[string]float64{
		"name=payments": 1,
		"error.type=connection_refused name=payments": 1,
	}, r.points("tcpstate.connect.duration"))
}

func TestTLSHandshakesAreTimedByRoleNameAndErrorType(t *testing.T) {
	r := newRig(t).start()
	server, client := tcptest.TLSConfigs(t)
	d := dialer.Dialer{Tracker: r.tracker, Name: "payments"}
	shake := func(config *tls.Config) error {
		ln := tcptest.Listen(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			tls.Server(c, server).Handshake()
		}()
		defer func() { <-done }()
		conn, err := d.DialTLS(t.Context(), "tcp", ln.Addr().String(), config)
		if err == nil {
			conn.Close()
		}
		return err
	}
	require.NoError(t, shake(client))
	require.Error(t, shake(new(tls.Config)), "an unknown authority")
	peer, inner := tcptest.Pair(t)
	defer peer.Close()
	conn := r.tracker.Track(inner, tcpstate.Origin{Role: tcpstate.Server, Name: "api"})
	conn.Watch().Handshaking(tcpstate.ProtocolTLS)(nil)
	conn.Watch().Handshaking("ssh")(nil)
	r.finish()
	require.Equal(t, map[string]float64{
		"name=payments role=client":                                1,
		"error.type=certificate_invalid name=payments role=client": 1,
		"name=api role=server":                                     1,
	}, r.points("tcpstate.tls.handshake.duration"))
}

// refusingAddress returns a loopback address where nobody listens.
func refusingAddress(t testing.TB) string {
	ln := tcptest.Listen(t)
	require.NoError(t, ln.Close())
	return ln.Addr().String()
}

func TestClosedConnectionsAreTimedByReason(t *testing.T) {
	r := newRig(t).start()
	local, _ := r.accepted("api")
	fin, finClient := r.accepted("api")
	reset, resetClient := r.accepted("api")
	half, halfClient := r.accepted("half")
	r.clock.Advance(2 * time.Second)

	require.NoError(t, local.Close())
	require.NoError(t, finClient.Close())
	tcptest.WaitState(t, fin, uint8(tcpstate.CloseWait))
	tcptest.Reset(t, resetClient)
	tcptest.WaitState(t, reset, uint8(tcpstate.Closed))
	require.NoError(t, half.CloseWrite())
	require.NoError(t, halfClient.Close())
	tcptest.WaitState(t, half, uint8(tcpstate.Closed))
	r.clock.Advance(5 * time.Second)
	for _, c := range []net.Conn{fin, reset, half} {
		require.NoError(t, c.Close())
	}
	r.clock.Advance(2 * time.Second)
	r.finish()
	require.Equal(t, map[string]float64{
		"name=api reason=local role=server":                             1,
		"name=api reason=peer_fin role=server":                          1,
		"error.type=connection_reset name=api reason=reset role=server": 1,
		"name=half reason=local role=server":                            1,
	}, r.points("tcpstate.connection.duration"))
	require.Equal(t, map[string]float64{"name=api role=server": 1}, r.points("tcpstate.connection.close_wait.duration"),
		"the reset came without a FIN, and the FIN of the half-closed one answered ours")
	require.InDelta(t, 7, sums(r.collected()["tcpstate.connection.duration"])["name=api reason=peer_fin role=server"], .01)
}

func TestTimeInCloseWaitIsMeasuredFromTheFINToClose(t *testing.T) {
	r := newRig(t).start()
	conn, client := r.accepted("api")
	r.clock.Advance(2 * time.Second)
	require.NoError(t, client.Close())
	tcptest.WaitState(t, conn, uint8(tcpstate.CloseWait))
	r.clock.Settle()
	r.clock.Advance(40 * time.Second)
	require.NoError(t, conn.Close())
	r.finish()
	m := r.collected()["tcpstate.connection.close_wait.duration"]
	require.Equal(t, map[string]float64{"name=api role=server": 1}, points(m))
	require.InDelta(t, 40, sums(m)["name=api role=server"], .01)
	require.Equal(t, "s", m.Unit)
}

func TestTrafficIsCountedFromTheKernel(t *testing.T) {
	r := newRig(t).start()
	conn, server, _ := r.dialed(t.Context(), "cache")
	_, err := conn.Write(make([]byte, 3000))
	require.NoError(t, err)
	_, err = server.Write(make([]byte, 200))
	require.NoError(t, err)
	buf := make([]byte, 3000)
	_, err = conn.Read(buf)
	require.NoError(t, err)
	r.clock.Advance(12 * time.Second)
	got := r.points("tcpstate.connection.io")
	require.Equal(t, float64(3000), got["direction=transmit name=cache role=client"])
	require.Equal(t, float64(200), got["direction=receive name=cache role=client"])
	require.Equal(t, map[string]float64{"name=cache role=client": 0}, r.points("tcpstate.connection.retransmits"))

	require.NoError(t, conn.Close())
	r.clock.Advance(2 * time.Second)
	require.Equal(t, float64(3000), r.points("tcpstate.connection.io")["direction=transmit name=cache role=client"], "nothing is counted twice")
	r.finish()
	rtt := r.collected()["tcpstate.connection.rtt"]
	require.Equal(t, map[string]float64{"name=cache role=client": 1}, points(rtt))
	require.Less(t, sums(rtt)["name=cache role=client"], 1.0)
}

func TestFindingsAreCountedOpenOpenedAndCleared(t *testing.T) {
	const all = "function=accepted kind=close_wait.never_read name=api severity=warning"
	r := newRig(t).start()
	conns := r.abandonOneThenTwo()
	require.Equal(t, map[string]float64{all: 3}, r.points("tcpstate.finding.count"))
	tcptest.WaitUntil(t, "the report of the first", func() bool { return r.points("tcpstate.finding.opened")[all] == 1 })

	r.clock.Advance(time.Minute)
	tcptest.WaitUntil(t, "the reminder", func() bool { return r.points("tcpstate.finding.opened")[all] == 3 })
	require.Empty(t, r.points("tcpstate.finding.cleared"))

	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	r.clock.Advance(2 * time.Second)
	r.finish()
	require.Equal(t, map[string]float64{all: 3}, r.points("tcpstate.finding.cleared"))
}

// abandonOneThenTwo makes a group of one finding and, a few seconds after it was
// reported, lets two join it.
func (r *rig) abandonOneThenTwo() (conns []net.Conn) {
	r.Helper()
	leak := func() {
		conn, client := r.accepted("api")
		require.NoError(r, client.Close())
		tcptest.WaitState(r, conn, uint8(tcpstate.CloseWait))
		conns = append(conns, conn)
	}
	leak()
	r.clock.Advance(10 * time.Second)
	leak()
	leak()
	r.clock.Advance(33 * time.Second)
	require.Len(r, r.tracker.Findings(), 3)
	return conns
}

func TestFindingsThatJoinedAGroupSinceItsLastReportAreCountedAtStop(t *testing.T) {
	r := newRig(t).start()
	r.abandonOneThenTwo()
	r.finish()
	require.Equal(t, map[string]float64{"function=accepted kind=close_wait.never_read name=api severity=warning": 3},
		r.points("tcpstate.finding.opened"))
}

func TestAFindingThatChangesItsKindIsClearedAsTheOldOne(t *testing.T) {
	r := newRig(t).start()
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	// What arrives for a connection that the peer has closed for good is
	// answered by a reset.
	_, err := conn.Write([]byte("late"))
	require.NoError(t, err)
	tcptest.WaitState(t, conn, uint8(tcpstate.Closed))
	r.clock.Advance(45 * time.Second)
	r.finish()
	const never, dead = "function=accepted kind=close_wait.never_read name=api severity=warning", "function=accepted kind=leak.dead_socket name=api severity=warning"
	require.Equal(t, map[string]float64{never: 1, dead: 1}, r.points("tcpstate.finding.opened"))
	require.Equal(t, map[string]float64{never: 1}, r.points("tcpstate.finding.cleared"))
	changed := r.span("tcpstate finding leak.dead_socket")
	require.Equal(t, "close_wait.never_read", attr(changed, "tcpstate.finding.was").AsString())
	require.Equal(t, []string{"tcpstate.finding.opened", "tcpstate.finding.changed"}, r.events())
}

func TestCountersOfFindingsCarryExemplarsOfTheLastUse(t *testing.T) {
	r := newRig(t).start()
	conn, client := r.accepted("api")
	ctx, span := r.request("GET /orders")
	conn.Watch().Use(ctx, tcpstate.Use{Name: "/orders"})()
	span.End()
	r.abandon(conn, client)
	require.NoError(t, conn.Close())
	r.finish()
	trace := span.SpanContext().TraceID()
	all := r.collected()
	for _, name := range []string{"tcpstate.finding.opened", "tcpstate.finding.cleared"} {
		sum := all[name].Data.(metricdata.Sum[int64])
		require.Len(t, sum.DataPoints, 1)
		require.Len(t, sum.DataPoints[0].Exemplars, 1, name)
		require.Equal(t, trace[:], sum.DataPoints[0].Exemplars[0].TraceID, name)
	}
	wait := all["tcpstate.connection.close_wait.duration"].Data.(metricdata.Histogram[float64])
	require.Equal(t, trace[:], wait.DataPoints[0].Exemplars[0].TraceID)
}

func TestMutedFindingsAreCountedAsSuppressed(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.tracker.Set(func(c *tcpstate.Config) { c.Mute = []tcpstate.Mute{{Kind: "close_wait"}} }))
	r.start()
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	require.Equal(t, float64(1), r.points("tcpstate.report.suppressed")["reason=muted"])
	require.Empty(t, r.points("tcpstate.finding.count"))
	r.finish()
	require.Empty(t, r.points("tcpstate.finding.opened"))
	require.Empty(t, r.spans.GetSpans())
}

func TestSweepsAreCountedAndTimed(t *testing.T) {
	r := newRig(t).start()
	r.accepted("api")
	r.clock.Advance(25 * time.Second)
	all := r.collected()
	require.Equal(t, map[string]float64{"": 2}, points(all["tcpstate.sweep.count"]))
	require.Positive(t, points(all["tcpstate.sweep.duration"])[""])
}

func TestTargetAndNetworkAreOnMetricsOnlyWhenAskedFor(t *testing.T) {
	r := newRig(t).start(tcpotel.WithServerAddress(), tcpotel.WithNetworkType())
	conn, _, target := r.dialed(t.Context(), "cache")
	require.NoError(t, conn.Close())
	served, _ := r.accepted("api")
	require.NoError(t, served.Close())
	r.finish()
	_, port, err := net.SplitHostPort(target)
	require.NoError(t, err)
	at := " server.address=127.0.0.1 server.port=" + port
	require.Equal(t, map[string]float64{"name=cache" + at + " type=ipv4": 1}, r.points("tcpstate.connect.duration"))
	require.Equal(t, map[string]float64{
		"name=cache reason=local role=client" + at + " type=ipv4": 1,
		"name=api reason=local role=server type=ipv4":             1,
	}, r.points("tcpstate.connection.duration"))
}

func TestNoMetricCarriesAnAddressOrPort(t *testing.T) {
	r := newRig(t).start()
	conn, server, target := r.dialed(t.Context(), "cache")
	served, client := r.accepted("api")
	r.abandon(conn, server)
	r.abandon(served, client)
	require.NoError(t, conn.Close())
	r.clock.Advance(2 * time.Second)
	tcptest.WaitUntil(t, "findings", func() bool { return len(r.points("tcpstate.finding.cleared")) == 1 })
	tcptest.WaitUntil(t, "the end of conn", func() bool { return len(r.points("tcpstate.connection.duration")) == 1 })

	var secrets []string
	for _, a := range []string{target, conn.LocalAddr().String(), served.LocalAddr().String(), served.RemoteAddr().String()} {
		host, port, err := net.SplitHostPort(a)
		require.NoError(t, err)
		secrets = append(secrets, host, port)
	}
	all := r.collected()
	for _, name := range []string{"tcpstate.connection.count", "tcpstate.connection.duration", "tcpstate.connect.duration", "tcpstate.finding.opened", "tcpstate.finding.count"} {
		require.NotEmpty(t, points(all[name]), name)
	}
	for name, m := range all {
		eachSet(m, func(s attribute.Set) {
			for _, kv := range s.ToSlice() {
				for _, secret := range secrets {
					require.NotContains(t, kv.Value.Emit(), secret, "%s %s", name, kv.Key)
				}
			}
		})
	}
	r.finish()
}

// eachSet calls f with every set of attributes of m.
func eachSet(m metricdata.Metrics, f func(attribute.Set)) {
	switch d := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			f(p.Attributes)
		}
	case metricdata.Sum[float64]:
		for _, p := range d.DataPoints {
			f(p.Attributes)
		}
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			f(p.Attributes)
		}
	}
}
