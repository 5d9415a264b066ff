//go:build linux

// Package e2e runs the demonstration against a real tracing backend.
package e2e

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/e2e/jaegertest"
)

const source = "../examples/leakdemo/leaks.go"

// planted says for each kind which of the demo's own spans used the connection,
// and whether the connection stays open.
var planted = map[string]struct {
	request string // name of the span that the finding links to
	open    bool   // in CLOSE-WAIT for as long as the demo holds it
}{
	"close_wait.unread_body": {request: "check invoice", open: true},
	"close_wait.not_reading": {open: true},
	"close_wait.eof_seen":    {open: true},
	"leak.collected":         {},
}

func TestLeaksShowInTheTracingBackendWhileTheyAreOpen(t *testing.T) {
	jaeger := jaegertest.Start(t)
	demo := startDemo(t, jaeger.OTLPEndpoint())

	for kind, want := range planted {
		name := "tcpstate finding " + kind
		traces := jaeger.WaitTraces(t, "leakdemo", jaegertest.Query{Operation: name}, func(ts []jaegertest.Trace) bool { return len(ts) > 0 })
		require.True(t, demo.running(), "the demo still runs when the finding is there")
		require.Len(t, traces, 1, kind)
		span, ok := traces[0].Span(name)
		require.True(t, ok)

		file, line := markedLine(t, kind)
		require.Equal(t, file, tag(span, "code.file.path"), kind)
		require.Equal(t, strconv.Itoa(line), tag(span, "code.line.number"), kind)
		require.Equal(t, kind, tag(span, "tcpstate.finding.kind"))
		require.Equal(t, "warning", tag(span, "tcpstate.finding.severity"))
		require.Equal(t, "ERROR", tag(span, "otel.status_code"))
		require.Equal(t, kind, tag(span, "error.type"))
		if want.open {
			local := netip.AddrPortFrom(netip.MustParseAddr(tag(span, "network.local.address")), uint16(atoi(t, tag(span, "network.local.port"))))
			require.Contains(t, kernelStates(t, local), "08", "%s: %s is still in CLOSE-WAIT", kind, local)
		}
		if want.request != "" {
			requireLink(t, jaeger, span, want.request)
		}
	}

	demo.waitFor(t, "healthy: 0 findings")
	var all []string
	for _, tr := range jaeger.Traces(t, "leakdemo", jaegertest.Query{Limit: 1000}) {
		for _, s := range tr.Spans {
			if strings.HasPrefix(s.OperationName, "tcpstate finding ") {
				all = append(all, s.OperationName)
				require.NotContains(t, tag(s, "tcpstate.connection.name"), "healthy")
			}
		}
	}
	require.Len(t, all, len(planted), "one span per leak and none for healthy traffic: %v", all)

	demo.interrupt(t)
	// The connections are closed now, so the suspects have a span of their own.
	jaeger.WaitTraces(t, "leakdemo", jaegertest.Query{Operation: "tcpstate connection"}, func(ts []jaegertest.Trace) bool { return len(ts) >= 3 })
}

// requireLink follows the link of a finding to the span of the request.
func requireLink(t *testing.T, jaeger *jaegertest.Server, finding jaegertest.Span, request string) {
	t.Helper()
	traces := jaeger.WaitTraces(t, "leakdemo", jaegertest.Query{Operation: request}, func(ts []jaegertest.Trace) bool { return len(ts) > 0 })
	span, ok := traces[0].Span(request)
	require.True(t, ok)
	require.True(t, finding.HasLink(span.TraceID, span.SpanID), "the finding links to %q", request)
	require.NotEqual(t, finding.TraceID, span.TraceID, "a finding is a trace of its own")
}

// markedLine finds the line that a comment in the demo marks as the leak.
func markedLine(t *testing.T, kind string) (file string, line int) {
	t.Helper()
	src, err := os.ReadFile(source)
	require.NoError(t, err)
	for i, l := range strings.Split(string(src), "\n") {
		if strings.HasSuffix(l, "// LEAK "+kind) {
			require.Zero(t, line, "%s is marked twice", kind)
			line = i + 1
		}
	}
	require.NotZero(t, line, "%s is not marked", kind)
	return "leakdemo/" + filepath.Base(source), line
}

// kernelStates returns the kernel's states (proc(5), hexadecimal) of the
// sockets with this local address.
func kernelStates(t *testing.T, local netip.AddrPort) []string {
	t.Helper()
	f, err := os.Open("/proc/net/tcp")
	require.NoError(t, err)
	defer f.Close()
	b := local.Addr().Unmap().As4()
	want := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString([]byte{b[3], b[2], b[1], b[0]})), local.Port())
	var states []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 3 && fields[1] == want {
			states = append(states, fields[3])
		}
	}
	return states
}

func tag(s jaegertest.Span, key string) string {
	v := s.Tags.Value(key)
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// demo is the demonstration as a process.
type demo struct {
	cmd  *exec.Cmd
	done chan error

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func startDemo(t *testing.T, endpoint string) *demo {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "leakdemo")
	out, err := exec.Command("go", "build", "-C", "../examples", "-o", bin, "./leakdemo").CombinedOutput()
	require.NoError(t, err, "%s", out)
	d := &demo{cmd: exec.Command(bin, "-hold"), done: make(chan error, 1)}
	d.cmd.Env = append(os.Environ(),
		"OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint,
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_BSP_SCHEDULE_DELAY=100",
		// The backend takes traces only.
		"OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none",
	)
	d.cmd.Stdout, d.cmd.Stderr = d, d
	require.NoError(t, d.cmd.Start())
	go func() { d.done <- d.cmd.Wait() }()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("output of the demo:\n%s", d.output())
		}
	})
	return d
}

func (d *demo) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(b)
}

func (d *demo) output() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

func (d *demo) running() bool {
	select {
	case err := <-d.done:
		d.done <- err
		return false
	default:
		return true
	}
}

func (d *demo) waitFor(t *testing.T, line string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(d.output(), line) }, 30*time.Second, 50*time.Millisecond, "%s", line)
}

// interrupt ends the demo as a person would.
func (d *demo) interrupt(t *testing.T) {
	t.Helper()
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGINT))
	select {
	case err := <-d.done:
		d.done <- err
		require.NoError(t, err, "exit code")
	case <-time.After(15 * time.Second):
		t.Fatal("the demo does not end")
	}
}
