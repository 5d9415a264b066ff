package tcpotel_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// events returns the event names of all records.
func (r *rig) events() []string {
	var all []string
	for _, e := range r.logs.all() {
		all = append(all, e.event())
	}
	return all
}

func TestAFindingIsLoggedFromItsOpeningToItsEnd(t *testing.T) {
	r := newRig(t).start()
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	tcptest.WaitUntil(t, "the first record", func() bool { return len(r.logs.all()) == 1 })
	another, anotherClient := r.accepted("api")
	r.abandon(another, anotherClient)
	r.clock.Advance(time.Minute)
	tcptest.WaitUntil(t, "the reminder", func() bool { return len(r.logs.all()) == 2 })
	require.NoError(t, conn.Close())
	require.NoError(t, another.Close())
	r.clock.Advance(2 * time.Second)
	r.finish()

	require.Equal(t, []string{"tcpstate.finding.opened", "tcpstate.finding.reminded", "tcpstate.finding.cleared"}, r.events())
	recs := r.logs.all()
	require.Equal(t, slog.LevelWarn, recs[0].Level)
	require.Contains(t, recs[0].Message, "accepted, never touched, peer gone at otel/rig_test.go:")
	require.Equal(t, "close_wait.never_read", recs[0].value("tcpstate.finding.kind"))
	require.Equal(t, "127.0.0.0/24", recs[0].value("network.peer.address"))
	require.Equal(t, slog.LevelWarn, recs[1].Level)
	require.Equal(t, "2", recs[1].value("tcpstate.group.open"))
	require.Equal(t, slog.LevelInfo, recs[2].Level)
	require.Contains(t, recs[2].Message, "cleared after ")
	for i, rec := range recs {
		require.Equal(t, r.span("tcpstate finding close_wait.never_read").SpanContext.TraceID(), rec.sc.TraceID(), "record %d", i)
	}
}

func TestARecordCarriesTheTraceOfTheUseWhereThatWasSampled(t *testing.T) {
	unsampled := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	for _, tc := range []struct {
		name    string
		request trace.TracerProvider
		of      func(r *rig, use trace.SpanContext) trace.SpanID
	}{
		{"sampled", nil, func(_ *rig, use trace.SpanContext) trace.SpanID { return use.SpanID() }},
		{"not sampled", unsampled, func(r *rig, _ trace.SpanContext) trace.SpanID {
			return r.span("tcpstate finding close_wait.not_reading").SpanContext.SpanID()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t).start()
			if tc.request == nil {
				tc.request = r.traces
			}
			ctx, span := tc.request.Tracer("app").Start(t.Context(), "GET /orders")
			conn, client := r.accepted("api")
			defer conn.Watch().Use(ctx, tcpstate.Use{Name: "/orders"})()
			_, err := conn.Write([]byte("x"))
			require.NoError(t, err)
			buf := make([]byte, 1)
			_, err = client.Read(buf)
			require.NoError(t, err)
			span.End()
			r.abandon(conn, client)
			r.finish()
			require.Len(t, r.logs.all(), 1)
			require.Equal(t, tc.of(r, span.SpanContext()), r.logs.all()[0].sc.SpanID())
		})
	}
}

func TestWithoutALoggerRecordsGoToTheDefaultOfTheMoment(t *testing.T) {
	r := newRig(t).start(tcpotel.WithLogger(nil))
	old := slog.Default()
	defer slog.SetDefault(old)
	slog.SetDefault(slog.New(r.logs))
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	r.finish()
	require.Len(t, r.logs.all(), 1)
}

func TestADiscardingLoggerTurnsRecordsOff(t *testing.T) {
	r := newRig(t)
	r.start(tcpotel.WithLogger(slog.New(slog.DiscardHandler)))
	old := slog.Default()
	defer slog.SetDefault(old)
	slog.SetDefault(slog.New(r.logs))
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	r.finish()
	require.Empty(t, r.logs.all())
	require.Len(t, r.named("tcpstate finding close_wait.never_read"), 1)
}
