package tcpotel_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/otel"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// sdkLimit is the number of sets at which an SDK begins to drop by default.
const sdkLimit = 2000

// worst feeds o with every combination of everything that it might be told:
// more names, targets and functions than there is room for.
func worst(o *tcpstate.Observer) {
	addresses := []net.Addr{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, &net.TCPAddr{IP: net.IPv6loopback}}
	errs := []error{
		nil, errors.New("other"), context.Canceled, context.DeadlineExceeded,
		&net.DNSError{IsNotFound: true}, &net.DNSError{IsTimeout: true}, &net.DNSError{},
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
		syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.EACCES,
	}
	reasons := []tcpstate.CloseReason{
		tcpstate.CloseLocal, tcpstate.ClosePeerFIN, tcpstate.CloseReset, tcpstate.CloseTimeout, tcpstate.CloseCollected,
	}
	severities := []tcpstate.Severity{tcpstate.Count, tcpstate.Audit, tcpstate.Inventory, tcpstate.Warning, tcpstate.Error}
	now := time.Now()
	for n := range tcpotel.MaxNames + 2 {
		name := fmt.Sprint("name", n)
		for i := range tcpotel.MaxTargets + 2 {
			target := fmt.Sprintf("host%d:443", i)
			for _, err := range errs {
				for _, a := range addresses {
					for _, role := range []tcpstate.Role{tcpstate.Client, tcpstate.Server} {
						o.HandshakeDone(tcpstate.HandshakeInfo{Role: role, Name: name, Protocol: tcpstate.ProtocolTLS, Err: err, Start: now, End: now})
					}
					o.DialDone(tcpstate.DialInfo{Name: name, Target: target, Err: err, Remote: a, Retransmits: 1, Start: now, End: now})
				}
			}
			for _, reason := range reasons {
				for _, role := range []tcpstate.Role{tcpstate.Client, tcpstate.Server} {
					for _, a := range addresses {
						o.Closed(tcpstate.ClosedInfo{
							Name: name, Target: target, Role: role, Reason: reason, Remote: a,
							Opened: now, PeerClosed: now, Ended: now, RTT: 1,
						})
					}
				}
			}
		}
		for i := range tcpotel.MaxFunctions + 2 {
			for j, k := range tcpstate.Kinds() {
				f := tcpstate.Finding{
					Kind: k.Kind, Severity: severities[(n+i)%len(severities)],
					Subject: tcpstate.Subject{Name: name},
					Sites:   []tcpstate.Site{{Frames: []tcpstate.Frame{{Function: fmt.Sprint("f", i)}}}},
					Group:   tcpstate.Group{ID: uint64(j), NewlyOpened: 1, NewlyCleared: 1},
				}
				if i%7 == 0 {
					f.Sites = nil
				}
				if n%7 == 0 {
					f.Subject.Name = ""
				}
				o.Opened(f)
			}
		}
	}
}

func TestNoInstrumentHasMoreSetsThanTheSDKKeeps(t *testing.T) {
	r := newRig(t)
	o, end, err := tcpotel.Detached(append(r.options(),
		tcpotel.WithServerAddress(), tcpotel.WithNetworkType(), tcpotel.WithConnectionSpans(tcpotel.Off),
		tcpotel.WithTracerProvider(noop.NewTracerProvider()), tcpotel.WithLogger(slog.New(slog.DiscardHandler)))...)
	require.NoError(t, err)
	defer func() { require.NoError(t, end()) }()
	worst(o)
	for name, m := range r.collected() {
		n, values := 0, make(map[attribute.Key]map[string]bool)
		eachSet(m, func(s attribute.Set) {
			n++
			for _, kv := range s.ToSlice() {
				if values[kv.Key] == nil {
					values[kv.Key] = make(map[string]bool)
				}
				values[kv.Key][kv.Value.Emit()] = true
			}
		})
		t.Logf("%-40s %d sets", name, n)
		require.Less(t, n, sdkLimit, name)
		require.LessOrEqual(t, len(values["tcpstate.connection.name"]), tcpotel.MaxNames+1, name)
		require.LessOrEqual(t, len(values["server.address"]), tcpotel.MaxTargets+1, name)
		require.LessOrEqual(t, len(values["code.function.name"]), tcpotel.MaxFunctions+1, name)
	}
	var total float64
	for _, n := range points(r.collected()["tcpstate.finding.opened"]) {
		total += n
	}
	require.Equal(t, float64((tcpotel.MaxNames+2)*(tcpotel.MaxFunctions+2)*len(tcpstate.Kinds())), total, "what is folded is not lost")
}

func TestTheCensusStaysBelowTheLimitWithMoreNamesThanItKeeps(t *testing.T) {
	r := newRig(t).start()
	for n := range 2*tcpotel.MaxNames + 10 {
		conn, _ := r.accepted(fmt.Sprint("name", n))
		require.NoError(t, conn.Close())
		dialed, _, _ := r.dialed(t.Context(), fmt.Sprint("name", n))
		require.NoError(t, dialed.Close())
	}
	for name, m := range r.collected() {
		n := 0
		eachSet(m, func(attribute.Set) { n++ })
		require.Less(t, n, sdkLimit, name)
	}
	count := r.points("tcpstate.connection.count")
	require.Contains(t, count, "name=_OTHER role=server state=established")
	require.LessOrEqual(t, len(count), 2*(tcpotel.MaxNames+1)*len(tcpstate.States()))
}

func TestRecordingTheEndOfAConnectionDoesNotAllocate(t *testing.T) {
	for _, tc := range []struct {
		name string
		sc   trace.SpanContext
		max  float64
	}{
		{"without a trace", trace.SpanContext{}, 0},
		// The context that exemplars are read from.
		{"with a sampled one", spanContext(1), 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			observer, closed := oneEnd(t, tc.sc)
			require.LessOrEqual(t, testing.AllocsPerRun(200, func() { observer.Closed(closed) }), tc.max)
		})
	}
}

// oneEnd returns an observer and the end of a connection to tell it.
func oneEnd(t testing.TB, sc trace.SpanContext) (*tcpstate.Observer, tcpstate.ClosedInfo) {
	mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	o, end, err := tcpotel.Detached(tcpotel.WithTracker(new(tcpstate.Tracker)), tcpotel.WithMeterProvider(mp))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, end()) })
	now := time.Now()
	c := tcpstate.ClosedInfo{
		Name: "api", Role: tcpstate.Server, Reason: tcpstate.ClosePeerFIN,
		Opened: now.Add(-time.Minute), PeerClosed: now.Add(-time.Second), Ended: now, RTT: time.Millisecond,
	}
	if sc.IsValid() {
		c.UseToken = o.Token(trace.ContextWithSpanContext(t.Context(), sc))
	}
	o.Closed(c) // makes the sets
	return o, c
}

func BenchmarkClosed(b *testing.B) {
	o, c := oneEnd(b, trace.SpanContext{})
	b.ReportAllocs()
	for b.Loop() {
		o.Closed(c)
	}
}

func BenchmarkToken(b *testing.B) {
	r := newRig(b)
	o, end, err := tcpotel.Detached(r.options()...)
	require.NoError(b, err)
	defer func() { require.NoError(b, end()) }()
	ctx, span := r.request("GET /")
	defer span.End()
	b.ReportAllocs()
	for b.Loop() {
		o.Token(ctx)
	}
}

func TestDialsGivenUpAreToldFromThoseThatFail(t *testing.T) {
	dial := func(d net.Dialer, ctx context.Context, address string) string {
		d.SetMultipathTCP(false)
		c, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			c.Close()
		}
		require.Error(t, err)
		return tcpotel.ErrorType(err)
	}
	dead := tcptest.DeadListener(t)
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	withdrawn, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	require.Equal(t, "timed_out", dial(net.Dialer{}, short, dead))
	require.Equal(t, "timed_out", dial(net.Dialer{Timeout: 20 * time.Millisecond}, t.Context(), dead))
	require.Equal(t, "timed_out", dial(net.Dialer{Deadline: time.Now().Add(20 * time.Millisecond)}, t.Context(), dead))
	require.Equal(t, "cancelled", dial(net.Dialer{}, withdrawn, dead))
	require.Equal(t, "connection_refused", dial(net.Dialer{}, t.Context(), refusingAddress(t)))
	require.Equal(t, "timed_out", tcpotel.ErrorType(os.ErrDeadlineExceeded))
}

func TestErrorTypesOfHandshakesComeFromAShortList(t *testing.T) {
	for want, err := range map[string]error{
		"certificate_invalid": &tls.CertificateVerificationError{},
		"tls_alert":           &net.OpError{Op: "remote error", Err: tls.AlertError(40)},
		"connection_closed":   io.EOF,
		"timed_out":           context.DeadlineExceeded,
		"cancelled":           context.Canceled,
		"_OTHER":              errors.New("no"),
	} {
		require.Equal(t, want, tcpotel.HandshakeError(err))
	}
}

func TestErrorTypesComeFromAShortList(t *testing.T) {
	wrapped := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	_, refused := new(net.Dialer).Dial("tcp", refusingAddress(t))
	past, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	_, late := new(net.Dialer).DialContext(past, "tcp", "127.0.0.1:1")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, gone := new(net.Dialer).DialContext(cancelled, "tcp", "127.0.0.1:1")
	for _, tc := range []struct {
		err  error
		want string
	}{
		{refused, "connection_refused"},
		{late, "timed_out"},
		{gone, "cancelled"},
		{context.DeadlineExceeded, "timed_out"},
		{wrapped(&net.DNSError{IsNotFound: true}), "host_not_found"},
		{wrapped(&net.DNSError{IsTimeout: true}), "dns_timed_out"},
		{wrapped(&net.DNSError{}), "dns_error"},
		{wrapped(errors.New("proxy says no")), "_OTHER"},
	} {
		require.Equal(t, tc.want, tcpotel.ErrorType(tc.err), "%v", tc.err)
	}
}
