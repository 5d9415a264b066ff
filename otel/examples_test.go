package tcpotel_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

const spanLimit = "reason=span_limit"

// closings is an observer that is told of connections that had a finding.
type closings struct {
	*rig
	o   *tcpstate.Observer
	now time.Time
}

func newClosings(r *rig, opts ...tcpotel.Option) *closings {
	o, end, err := tcpotel.Detached(append(r.options(), opts...)...)
	require.NoError(r, err)
	r.Cleanup(func() { require.NoError(r, end()) })
	return &closings{r, o, r.clock.Now()}
}

// close ends n connections whose findings name a line.
func (c *closings) close(n, line int) {
	for range n {
		c.o.Closed(tcpstate.ClosedInfo{
			Name: "api", Role: tcpstate.Server, Opened: c.now.Add(-time.Hour), PeerClosed: c.now.Add(-time.Minute), Ended: c.now,
			Reason: tcpstate.ClosePeerFIN, Findings: []tcpstate.Kind{tcpstate.KindCloseWaitNeverRead},
			Frame: &tcpstate.Frame{Function: "main.serve", File: "main.go", Line: line},
		})
	}
}

// counts returns how many there are of connections and in all, and how many
// connections were left without.
func (c *closings) counts() (conns, spans, left int) {
	c.Helper()
	return len(c.named("tcpstate connection")), len(c.spans.GetSpans()), int(c.points("tcpstate.report.suppressed")[spanLimit])
}

func (c *closings) require(conns, spans, left int) {
	c.Helper()
	gotConns, gotSpans, gotLeft := c.counts()
	require.Equal(c, []int{conns, spans, left}, []int{gotConns, gotSpans, gotLeft}, "connections, spans, left out")
}

func TestSuspectsOfOneLineAreExamples(t *testing.T) {
	c := newClosings(newRig(t))
	c.require(0, 0, 0)
	c.close(1, 1)
	c.require(1, 3, 0)
	c.close(2999, 1)
	c.require(10, 30, 2990)

	c.now = c.now.Add(time.Minute - 1)
	c.close(5, 1)
	c.require(10, 30, 2995)
	c.now = c.now.Add(1)
	c.close(3000, 1)
	c.require(20, 60, 5985)
}

func TestEachLineHasItsExamplesUpToAHundredInAll(t *testing.T) {
	c := newClosings(newRig(t))
	for line := range 9 {
		c.close(1000, line)
	}
	c.require(90, 270, 9*990)
	for line := range 500 {
		c.close(1, 100+line)
	}
	c.require(100, 300, 9*990+490)
	c.now = c.now.Add(time.Minute)
	c.close(20, 1000)
	c.require(110, 330, 9*990+490+10)
}

func TestKindsAndNamesHaveTheirOwnExamples(t *testing.T) {
	c := newClosings(newRig(t))
	for i := range 60 {
		for _, kinds := range [][]tcpstate.Kind{
			{tcpstate.KindCloseWaitNeverRead},
			{tcpstate.KindCloseWaitNeverRead, tcpstate.KindLeakDeadSocket},
		} {
			c.o.Closed(tcpstate.ClosedInfo{Name: fmt.Sprint(i % 3), Ended: c.now, Findings: kinds})
		}
	}
	conns, _, left := c.counts()
	require.Equal(t, []int{60, 60}, []int{conns, left})
}

func TestOnlySuspectIsBounded(t *testing.T) {
	for _, which := range []tcpotel.ConnectionSpans{tcpotel.Dialed, tcpotel.All} {
		t.Run(fmt.Sprint(which), func(t *testing.T) {
			c := newClosings(newRig(t), tcpotel.WithConnectionSpans(which))
			c.close(300, 1)
			c.require(300, 900, 0)
		})
	}
}

func TestSuspectsThatAreNotSampledLeaveRoom(t *testing.T) {
	r := newRig(t)
	everyTenth := &nth{n: 10}
	r.traces = sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans), sdktrace.WithSampler(sdktrace.ParentBased(everyTenth)))
	c := newClosings(r)
	c.close(150, 1)
	c.require(10, 30, 50)
	require.Equal(t, 100, everyTenth.asked, "nobody asks once there are enough")
}

// nth samples one of n.
type nth struct{ n, asked int }

func (s *nth) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	s.asked++
	if s.asked%s.n == 0 {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

func (s *nth) Description() string { return "nth" }

func TestTheSpanOfASuspectNamesTheLine(t *testing.T) {
	r := newRig(t).start()
	conn, client := r.accepted("api")
	r.abandon(conn, client)
	require.NoError(t, conn.Close())
	r.finish()
	span, finding := r.span("tcpstate connection"), r.span("tcpstate finding close_wait.never_read")
	require.Equal(t, codes.Unset, span.Status.Code)
	for _, key := range []string{"code.function.name", "code.file.path", "code.line.number"} {
		require.NotEmpty(t, attr(span, key).Emit(), key)
		require.Equal(t, attr(finding, key), attr(span, key), key)
	}
	for _, phase := range []string{"open", "close_wait"} {
		require.Equal(t, span.SpanContext.SpanID(), r.span(phase).Parent.SpanID())
	}
	require.Zero(t, r.points("tcpstate.report.suppressed")[spanLimit])
}
