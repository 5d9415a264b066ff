package debughttp_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/internal/testclock"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/debughttp"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// everything returns a tracker with one of each: an error, a warning, inventory,
// a reset, a dial, a listener and a closed socket.
func everything(t *testing.T) *tcpstate.Tracker {
	tr := &tcpstate.Tracker{Logger: slog.New(slog.DiscardHandler)}
	clk := testclock.Install(tr)
	t.Cleanup(func() { testclock.Remove(tr) })
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	leaktest.Check(t, tr, leaktest.IgnoreFindings())

	cfg := listener.Config{Tracker: tr, Name: "api"}
	ln, err := cfg.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	accept := func() *net.TCPConn {
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		s, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return c.(*net.TCPConn)
	}
	gone := accept() // close_wait.never_read

	dial := func(name string, x tcpstate.Expect) (*tcpstate.Conn, *net.TCPConn) {
		c, s := tcptest.Pair(t)
		return tr.Track(c, tcpstate.Origin{Name: name, Target: name + ":5432", Expect: x}), s
	}
	idle, idleServer := dial("pool", tcpstate.Expect{Pooled: true}) // close_wait.idle_in_pool
	reset, resetServer := dial("reset", tcpstate.Expect{})
	closed, closedServer := dial("closed", tcpstate.Expect{})
	clk.Advance(2 * time.Second)

	require.NoError(t, gone.Close())
	require.NoError(t, idleServer.Close())
	tcptest.WaitState(t, idle, tcptest.CloseWait)
	tcptest.Reset(t, resetServer)
	tcptest.WaitState(t, reset, tcptest.Closed)
	require.NoError(t, reset.Close())
	tcptest.Deafen(t, closedServer)
	_, err = closed.Write([]byte("bye"))
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	waits, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { waits.Close() })

	dead := tcptest.DeadListener(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d := dialer.Dialer{Tracker: tr, Name: "billing"}
		if c, err := d.DialContext(ctx, "tcp", dead); err == nil {
			c.Close()
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	tcptest.WaitUntil(t, "the dial to be seen", func() bool {
		for range tr.Dials() {
			return true
		}
		return false
	})
	for range 50 {
		clk.Advance(time.Second)
	}
	return tr
}

func TestThePageShowsEverything(t *testing.T) {
	tr := everything(t)
	tcptest.WaitUntil(t, "the closed socket to be seen", func() bool {
		for range tr.Closing() {
			return true
		}
		return false
	})
	h := debughttp.Handler(tr)
	w := get(t, h, "/")
	body := w.Body.String()
	if path := os.Getenv("TCPSTATE_PAGE"); path != "" {
		require.NoError(t, os.WriteFile(path, w.Body.Bytes(), 0o644))
	}
	at := 0
	for _, want := range []string{
		"</b> audits",
		`<h3 class="error">error <b>`, "listener.not_accepting",
		`<h3 class="warning">warning <b>`, "close_wait.never_read",
		`<h3 class="inventory">inventory <b>`, "close_wait.idle_in_pool",
		"Counted in the last ten minutes", "reset.unexplained", "reset:5432",
		"Dials in progress", "billing",
		"<h2>Listeners", "api", "listener.not_accepting",
		"<h2>Connections", "close_wait.idle_in_pool",
		"Closed, waiting for the peer", "FIN-WAIT-1",
		"Facilities",
	} {
		i := strings.Index(body[at:], want)
		require.GreaterOrEqual(t, i, 0, "%s, in this order", want)
		at += i
	}
	require.NotContains(t, body, "Nothing is wrong.")
	require.NotContains(t, body, "SYN sent again: 0")
	require.NotContains(t, body, `<td class="n">?</td>`)
	require.Contains(t, get(t, h, "/?n=0").Body.String(), "1 more; add <code>?n=1</code>")

	var v struct {
		Findings []struct {
			Kind     tcpstate.Kind
			Severity tcpstate.Severity
			Subject  struct{ Type tcpstate.SubjectType }
		}
		Counted []struct{ Kind tcpstate.Kind }
		Dials   []struct {
			Name, Line string
			Deadline   time.Time
			Attempts   []struct {
				Remote, State string
			}
		}
		Listeners []struct {
			Name, Addr   string
			Queue, Limit int
			LastAccept   time.Time `json:"last_accept"`
			Findings     []tcpstate.Kind
		}
		Closing []struct {
			Name, State, Line string
			SendQueue         int `json:"send_queue"`
		}
	}
	require.NoError(t, json.Unmarshal(get(t, h, "/?format=json").Body.Bytes(), &v))
	require.Equal(t, tcpstate.Error, v.Findings[0].Severity, "the worst first")
	require.Equal(t, tcpstate.SubjectListener, v.Findings[0].Subject.Type)
	require.Len(t, v.Counted, 1)
	require.Len(t, v.Dials, 1)
	require.NotEmpty(t, v.Dials[0].Attempts[0].Remote)
	require.Equal(t, "SYN-SENT", v.Dials[0].Attempts[0].State)
	require.Contains(t, v.Dials[0].Line, "everything_linux_test.go:")
	require.False(t, v.Dials[0].Deadline.IsZero())
	require.Len(t, v.Listeners, 1)
	require.Equal(t, 1, v.Listeners[0].Queue)
	require.Positive(t, v.Listeners[0].Limit)
	require.False(t, v.Listeners[0].LastAccept.IsZero())
	require.Equal(t, []tcpstate.Kind{tcpstate.KindListenerNotAccepting}, v.Listeners[0].Findings)
	require.Len(t, v.Closing, 1)
	require.Equal(t, "FIN-WAIT-1", v.Closing[0].State)
	require.Equal(t, 4, v.Closing[0].SendQueue)
}
