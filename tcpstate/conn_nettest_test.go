package tcpstate_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// newTracker returns a tracker that ends with the test, which must have closed
// all connections by then. Findings are the test's affair. The tracker is in use
// already: Config is changed by Set.
func newTracker(t testing.TB) *tcpstate.Tracker {
	return leaktest.Tracker(t, leaktest.IgnoreFindings())
}

// needSockets skips a test of what only real sockets do.
func needSockets(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "js" {
		t.Skip("in the fake network of js/wasm a second Close succeeds, no descriptor has a number, and no program can be started")
	}
}

func dialAccept(tr *tcpstate.Tracker, noWrap bool) (dialed, accepted net.Conn, err error) {
	lc := listener.Config{Tracker: tr, Name: "server", NoWrap: noWrap}
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	d := dialer.Dialer{Tracker: tr, Name: "client", NoWrap: noWrap}
	dialed, err = d.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	accepted, err = ln.Accept()
	if err != nil {
		dialed.Close()
		return nil, nil, err
	}
	return dialed, accepted, nil
}

// TestConnBehavesAsNettestDemands runs the conformance tests of x/net from
// either end: the tests treat the two differently.
func TestConnBehavesAsNettestDemands(t *testing.T) {
	type ends func(dialed, accepted net.Conn) (c1, c2 net.Conn)
	plain := func(c net.Conn) net.Conn { return c.(*tcpstate.Conn).NetConn() }
	for name, ends := range map[string]ends{
		"dialed":                  func(d, a net.Conn) (net.Conn, net.Conn) { return d, a },
		"accepted":                func(d, a net.Conn) (net.Conn, net.Conn) { return a, d },
		"dialed to a plain one":   func(d, a net.Conn) (net.Conn, net.Conn) { return d, plain(a) },
		"accepted of a plain one": func(d, a net.Conn) (net.Conn, net.Conn) { return a, plain(d) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := leaktest.Tracker(t)
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				d, a, err := dialAccept(tr, false)
				if err != nil {
					return nil, nil, nil, err
				}
				c1, c2 := ends(d, a)
				return c1, c2, func() { d.Close(); a.Close() }, nil
			})
			stats := tr.Stats()
			require.Equal(t, stats.Opened, stats.Closed)
			require.Zero(t, stats.Open)
		})
	}
	t.Run("attached", func(t *testing.T) {
		t.Parallel()
		tr := leaktest.Tracker(t)
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			d, a, err := dialAccept(tr, true)
			return d, a, func() { d.Close(); a.Close() }, err
		})
	})
}

// childEnv tells the test below that it is the child, and of which kind.
const childEnv = "TCPSTATE_TEST_TLS_CHILD"

// TestTLSAboveFailsOnlyWhereItFailsAlone compares TLS over tracked connections
// with TLS over plain ones. TLS cannot pass all of nettest: a tls.Conn is
// useless after a Write that timed out (crypto/tls, Conn.SetWriteDeadline). So
// both run in processes of their own, and the verdicts on every subtest must
// be the same.
func TestTLSAboveFailsOnlyWhereItFailsAlone(t *testing.T) {
	needSockets(t)
	if kind := os.Getenv(childEnv); kind != "" {
		testTLS(t, kind == "tracked")
		return
	}
	if testing.Short() {
		t.Skip("the subtests that TLS fails take their time")
	}
	t.Parallel()
	var plain map[string]string
	done := make(chan struct{})
	go func() { defer close(done); plain = verdicts(t, "plain") }()
	tracked := verdicts(t, "tracked")
	<-done
	t.Logf("TLS over plain connections:   %v", plain)
	t.Logf("TLS over tracked connections: %v", tracked)
	// What TLS fails depends on the scheduler, so it gets more than one chance
	// to fail by itself what it failed on tracked connections.
	for range 2 {
		if failuresAreIn(plain, tracked) {
			break
		}
		for subtest, v := range verdicts(t, "plain") {
			if v == "FAIL" {
				plain[subtest] = v
			}
		}
	}
	require.True(t, failuresAreIn(plain, tracked))
	require.Equal(t, "PASS", tracked["BasicIO"])
	require.Equal(t, "PASS", tracked["CloseTimeout"])
}

// failuresAreIn reports whether plain failed everything that tracked failed.
func failuresAreIn(plain, tracked map[string]string) bool {
	for subtest, v := range tracked {
		if v == "FAIL" && plain[subtest] != "FAIL" {
			return false
		}
	}
	return true
}

var verdict = regexp.MustCompile(`(?m)^ +--- (\w+): \w+/(\w+)`)

// verdicts runs the calling test in a child process. A goroutine of a subtest
// that TLS fails may fail once more when the subtest is over, and take the
// process with it; then another child tries.
func verdicts(t *testing.T, kind string) map[string]string {
	exe, err := os.Executable()
	if err != nil {
		t.Error(err)
		return nil
	}
	for try := 1; ; try++ {
		cmd := exec.CommandContext(t.Context(), exe, "-test.v", "-test.timeout=3m", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), childEnv+"="+kind)
		out, err := cmd.CombinedOutput()
		found := make(map[string]string)
		for _, m := range verdict.FindAllSubmatch(out, -1) {
			found[string(m[2])] = string(m[1])
		}
		if len(found) >= 11 {
			return found
		}
		if try == 3 {
			t.Errorf("%s: %v, only %d subtests:\n%s", kind, err, len(found), out)
			return found
		}
	}
}

func testTLS(t *testing.T, tracked bool) {
	// A subtest that hangs does so for a minute unless its connections end.
	const patience = 5 * time.Second
	tr := leaktest.Tracker(t)
	server, client := tcptest.TLSConfigs(t)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		d, a, err := dialAccept(tr, false)
		if err != nil {
			return nil, nil, nil, err
		}
		if !tracked {
			d, a = d.(*tcpstate.Conn).NetConn(), a.(*tcpstate.Conn).NetConn()
		}
		c, s := tls.Client(d, client), tls.Server(a, server)
		shaken := make(chan error, 1)
		go func() { shaken <- s.Handshake() }()
		if err := c.Handshake(); err != nil {
			return nil, nil, nil, err
		}
		if err := <-shaken; err != nil {
			return nil, nil, nil, err
		}
		hang := time.AfterFunc(patience, func() { d.Close(); a.Close() })
		c1, c2 := &closesInTurn{Conn: c}, &closesInTurn{Conn: s}
		return c1, c2, func() { hang.Stop(); c1.Close(); c2.Close(); d.Close(); a.Close() }, nil
	})
}

// closesInTurn lets a second Close wait for the first. A subtest is over when
// it has read the peer's close_notify, and the peer may yet be in Close: the
// end of the subtest must not close the socket under it.
type closesInTurn struct {
	*tls.Conn
	closing sync.Mutex
}

func (c *closesInTurn) Close() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	return c.Conn.Close()
}
