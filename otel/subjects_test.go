package tcpotel_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// told tells a detached reporter of f and returns the rig.
func told(t *testing.T, f tcpstate.Finding) *rig {
	r := newRig(t)
	o, end, err := tcpotel.Detached(r.options()...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, end()) })
	f.Since, f.DetectedAt = time.Now().Add(-time.Minute), time.Now()
	f.Group = tcpstate.Group{ID: 1, Open: 1, NewlyOpened: 1}
	o.Opened(f)
	return r
}

func has(s tracetest.SpanStub, key string) bool {
	return attr(s, key).Emit() != "" && attr(s, key).Type() != 0
}

func TestFindingsAboutOtherThanConnectionsHaveNoConnection(t *testing.T) {
	for _, sub := range []tcpstate.Subject{
		{Type: tcpstate.SubjectDial, Name: "db", Target: "db:5432"},
		{Type: tcpstate.SubjectTarget, Name: "db", Target: "db:5432"},
		{Type: tcpstate.SubjectListener, Role: tcpstate.Server, Name: "api", Target: "[::]:80"},
		{Type: tcpstate.SubjectPool, Name: "db"},
		{Type: tcpstate.SubjectTunnel, Name: "proxy"},
		{Type: tcpstate.SubjectSite, Name: "db"},
		{Type: tcpstate.SubjectProcess},
	} {
		t.Run(string(sub.Type), func(t *testing.T) {
			r := told(t, tcpstate.Finding{Kind: tcpstate.KindDialStorm, Severity: tcpstate.Warning, Subject: sub})
			span := r.span("tcpstate finding dial.storm")
			require.Equal(t, string(sub.Type), attr(span, "tcpstate.finding.subject").AsString())
			for _, key := range []string{
				"tcpstate.connection.id", "network.connection.state", "tcpstate.recv_queue", "tcpstate.send_queue",
				"network.peer.address", "network.peer.port", "network.local.address", "network.local.port",
			} {
				require.False(t, has(span, key), key)
			}
			for _, kv := range span.Attributes {
				require.NotEmpty(t, kv.Value.Emit(), kv.Key)
			}
			require.Equal(t, sub.Type != tcpstate.SubjectProcess, has(span, "tcpstate.connection.role"))
			require.Equal(t, sub.Role == tcpstate.Client && sub.Target != "", has(span, "server.address"))
			require.Len(t, r.logs.all(), 1)
			rec := r.logs.all()[0]
			require.Equal(t, string(sub.Type), rec.value("tcpstate.finding.subject"))
			require.Empty(t, rec.value("tcpstate.recv_queue"))
		})
	}
}

func TestASpanOfAConnectionShowsWhatIsNotAnswered(t *testing.T) {
	r := told(t, tcpstate.Finding{
		Kind: tcpstate.KindPeerUnresponsive, Severity: tcpstate.Warning, State: tcpstate.Established,
		Subject:  tcpstate.Subject{Type: tcpstate.SubjectConn, ID: 7, Local: "10.0.0.1:5", Remote: "10.0.0.2:443"},
		Evidence: tcpstate.Evidence{SendQueue: 2896, Unacked: 2, Timeouts: 4, Probes: 0},
	})
	span := r.span("tcpstate finding peer.unresponsive")
	require.Equal(t, int64(7), attr(span, "tcpstate.connection.id").AsInt64())
	require.Equal(t, "connection", attr(span, "tcpstate.finding.subject").AsString())
	require.Equal(t, int64(2896), attr(span, "tcpstate.send_queue").AsInt64())
	require.Equal(t, int64(2), attr(span, "tcpstate.unacked").AsInt64())
	require.Equal(t, int64(4), attr(span, "tcpstate.timeouts").AsInt64())
	require.False(t, has(span, "tcpstate.probes"))
}

func TestWhatIsBelowAWarningIsOnMetricsOnly(t *testing.T) {
	for _, s := range []tcpstate.Severity{tcpstate.Count, tcpstate.Audit, tcpstate.Inventory} {
		r := told(t, tcpstate.Finding{Kind: tcpstate.KindKeepaliveOff, Severity: s, Subject: tcpstate.Subject{Type: tcpstate.SubjectSite}})
		require.Empty(t, r.spans.GetSpans())
		require.Empty(t, r.logs.all())
		require.Equal(t, map[string]float64{"kind=keepalive.off severity=" + s.String(): 1}, r.points("tcpstate.finding.opened"))
	}
}

func TestMetricsShowTheSeverityOfTheFindingNotOfItsKind(t *testing.T) {
	const kind = tcpstate.KindResetUnexplained
	require.Equal(t, tcpstate.Count, kind.Severity())
	r := told(t, tcpstate.Finding{
		Kind: kind, Severity: tcpstate.Warning,
		Subject: tcpstate.Subject{Type: tcpstate.SubjectTarget, Name: "db"},
	})
	require.Equal(t, map[string]float64{"kind=reset.unexplained name=db severity=warning": 1}, r.points("tcpstate.finding.opened"))
	require.Len(t, r.named("tcpstate finding reset.unexplained"), 1)
}
