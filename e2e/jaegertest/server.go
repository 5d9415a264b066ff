package jaegertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	loopback = "127.0.0.1"
	anyPort  = loopback + ":0"

	// launches is how often Start tries to get the OTLP ports.
	launches = 5

	// stopDelay is how long Jaeger has to end before it is killed.
	stopDelay = 5 * time.Second
)

var errPortTaken = errors.New("a port was taken by another process")

// Server is a running Jaeger all-in-one. Its methods may be called from several
// goroutines.
type Server struct {
	otlpHTTP string // host:port, as are the next three
	otlpGRPC string
	query    string
	admin    string

	client *http.Client
	log    *logBuffer
	pid    int
	cancel context.CancelFunc
	done   chan struct{} // closed by run when the process has ended
	err    error         // how it ended; immutable once done is closed
}

// Start builds Jaeger if need be (see [Build]), starts it and waits until its
// query API answers. It listens on 127.0.0.1 only and keeps traces in memory. A
// cleanup of the test stops it; the log is shown if the test has failed.
//
// Cleanups run last in, first out: register the shutdown of an exporter after
// Start, so that what it flushes still finds Jaeger.
func Start(t testing.TB) *Server {
	t.Helper()
	bin := Build(t)
	var s *Server
	var err error
	for range launches {
		s, err = launch(t.Context(), bin, freePorts)
		if !errors.Is(err, errPortTaken) {
			break
		}
		t.Logf("jaegertest: trying again: %v", err)
	}
	if err != nil {
		t.Fatalf("jaegertest: start Jaeger: %v", err)
	}
	t.Cleanup(func() {
		select {
		case <-s.done:
			t.Errorf("jaegertest: Jaeger ended during the test: %v", s.err)
		default:
		}
		s.stop()
		if t.Failed() {
			t.Logf("jaegertest: log of Jaeger:\n%s", s.log)
		}
	})
	return s
}

// OTLPEndpoint returns the base URL of the OTLP/HTTP receiver, as in
// OTEL_EXPORTER_OTLP_ENDPOINT: traces go to its path /v1/traces.
func (s *Server) OTLPEndpoint() string { return "http://" + s.otlpHTTP }

// OTLPGRPCEndpoint returns the host:port of the OTLP/gRPC receiver, which speaks
// without TLS.
func (s *Server) OTLPGRPCEndpoint() string { return s.otlpGRPC }

// QueryURL returns the base URL of the query API.
func (s *Server) QueryURL() string { return "http://" + s.query }

// AdminURL returns the base URL of the admin server: /, /metrics, /debug/pprof/.
func (s *Server) AdminURL() string { return "http://" + s.admin }

// arguments returns Jaeger's command line. Every listener that the all-in-one has
// is named here, since each one's default is a fixed port on all interfaces. Port
// 0 is for those whose address Jaeger logs and for those that nobody uses; it does
// not log the address of the OTLP receivers.
func arguments(otlpHTTP, otlpGRPC string) []string {
	return []string{
		"--admin.http.host-port=" + anyPort,
		"--query.http-server.host-port=" + anyPort,
		"--query.grpc-server.host-port=" + anyPort,
		"--collector.otlp.enabled=true",
		"--collector.otlp.http.host-port=" + otlpHTTP,
		"--collector.otlp.grpc.host-port=" + otlpGRPC,
		"--collector.grpc-server.host-port=" + anyPort,
		"--collector.http-server.host-port=" + anyPort,
		"--collector.zipkin.host-port=", // empty: off
		"--http-server.host-port=" + anyPort,
		"--processor.jaeger-binary.server-host-port=" + anyPort,
		"--processor.jaeger-compact.server-host-port=" + anyPort,
		"--processor.zipkin-compact.server-host-port=" + anyPort,
		"--log-level=info", // the level of the two lines that logBuffer reads
	}
}

// environment is all that Jaeger gets: each of its flags, and those of the
// OpenTelemetry SDK in it, could also be set from the test's own environment.
func environment() []string {
	return []string{
		"SPAN_STORAGE_TYPE=memory",
		// Jaeger traces its query API, to localhost:4317 whoever that is.
		"OTEL_TRACES_SAMPLER=always_off",
	}
}

// launch starts Jaeger and returns once its query API answers. The error is
// errPortTaken if one of the ports that it was given was no longer free.
func launch(ctx context.Context, bin string, ports func() (http, grpc string, err error)) (*Server, error) {
	otlpHTTP, otlpGRPC, err := ports()
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	s := &Server{
		otlpHTTP: otlpHTTP,
		otlpGRPC: otlpGRPC,
		// A transport of its own: stop closes its idle connections.
		client: &http.Client{Transport: &http.Transport{}, Timeout: patience},
		log:    newLogBuffer(),
		cancel: cancel,
		done:   make(chan struct{}),
	}
	cmd := exec.CommandContext(life, bin, arguments(otlpHTTP, otlpGRPC)...)
	cmd.Env = environment()
	cmd.Stdout = s.log
	cmd.Stderr = s.log
	cmd.SysProcAttr = dieWithParent()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopDelay

	started := make(chan error)
	go s.run(cmd, started)
	if err := <-started; err != nil {
		cancel()
		return nil, err
	}
	s.pid = cmd.Process.Pid
	if err := s.waitReady(ctx); err != nil {
		s.stop()
		if strings.Contains(s.log.String(), "address already in use") {
			err = errPortTaken
		}
		return nil, fmt.Errorf("%w\n%s", err, s.log)
	}
	return s, nil
}

// run starts the process and waits for its end. It keeps its thread to itself:
// Linux counts the end of the thread that started a process as the end of the
// parent, and a thread the runtime shares may end early, with a goroutine that
// exits while locked to it.
func (s *Server) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.done)
	err := cmd.Start()
	started <- err
	if err == nil {
		s.err = cmd.Wait()
	}
}

// waitReady returns when the query API answers. Jaeger opens the OTLP receivers
// before it, and ends if it cannot.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-s.log.listening:
	case <-s.done:
		return fmt.Errorf("jaeger ended at start: %w", s.err)
	case <-ctx.Done():
		return fmt.Errorf("jaeger does not log where it listens: %w", context.Cause(ctx))
	}
	s.query, s.admin = s.log.addresses()
	return poll(ctx, func() error {
		var services []string
		return s.get(ctx, "/api/services", nil, &services)
	}, func(error) bool { return true })
}

// stop ends Jaeger and waits for it.
func (s *Server) stop() {
	s.client.CloseIdleConnections()
	s.cancel()
	<-s.done
}

// freePorts returns two addresses that were free a moment ago. Both are held
// while they are chosen, so that they differ.
func freePorts() (http, grpc string, err error) {
	a, err := net.Listen("tcp", anyPort)
	if err != nil {
		return "", "", err
	}
	defer a.Close()
	b, err := net.Listen("tcp", anyPort)
	if err != nil {
		return "", "", err
	}
	defer b.Close()
	return a.Addr().String(), b.Addr().String(), nil
}

// logBuffer keeps what Jaeger logs and picks from it the addresses it listens on.
type logBuffer struct {
	listening chan struct{} // closed by Write when both addresses are known

	mu    sync.Mutex // guards all following fields
	all   bytes.Buffer
	read  int // how much of all was looked at
	query string
	admin string
}

func newLogBuffer() *logBuffer {
	return &logBuffer{listening: make(chan struct{})}
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all.Write(p)
	for b.query == "" || b.admin == "" {
		line, _, whole := bytes.Cut(b.all.Bytes()[b.read:], []byte("\n"))
		if !whole {
			return len(p), nil
		}
		b.read += len(line) + 1
		b.readLineLocked(line)
		if b.query != "" && b.admin != "" {
			close(b.listening)
		}
	}
	return len(p), nil
}

// readLineLocked takes the addresses from the lines that tell them.
func (b *logBuffer) readLineLocked(line []byte) {
	var entry struct {
		Msg       string `json:"msg"`
		QueryHTTP string `json:"http_addr"`
		AdminHTTP string `json:"http.host-port"`
	}
	if json.Unmarshal(line, &entry) != nil {
		return // the first lines are plain text
	}
	switch entry.Msg {
	case "Query server started":
		b.query = entry.QueryHTTP
	case "Admin server started":
		b.admin = entry.AdminHTTP
	}
}

func (b *logBuffer) addresses() (query, admin string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.query, b.admin
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}
