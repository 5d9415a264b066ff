package tcpstate

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// record returns what the logger writes of f, indented, without the time.
func record(t *testing.T, f Finding, event string) []byte {
	t.Helper()
	var b bytes.Buffer
	logFinding(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})), f, event)
	if b.Len() == 0 {
		return nil
	}
	var out bytes.Buffer
	require.NoError(t, json.Indent(&out, b.Bytes(), "", "  "))
	return out.Bytes()
}

func TestLogRecords(t *testing.T) {
	for _, ex := range examples {
		t.Run(ex.name, func(t *testing.T) {
			event := "tcpstate.finding.opened"
			if !ex.ClearedAt.IsZero() {
				event = "tcpstate.finding.cleared"
			}
			got := record(t, ex.Finding, event)
			switch {
			case ex.Severity < Warning:
				require.Empty(t, got, "inventory is not logged")
				return
			case ex.name == "became":
				require.Empty(t, got, "what it became is logged")
				return
			}
			golden(t, filepath.Join("testdata", "slog", ex.name+".golden"), got)
			require.NotContains(t, string(got), "192.0.2.77", "the address of a client in full")
			require.NotContains(t, string(got), "2001:db8:1:2:", "the address of a client in full")
			require.NotContains(t, string(got), "ss -tinp")
			require.NotContains(t, string(got), `: ""`, "an attribute without a value")
			require.NotContains(t, string(got), "-1e-09")
		})
	}
}

func TestLogLevels(t *testing.T) {
	level := func(f Finding) string {
		got := record(t, f, "x")
		if got == nil {
			return ""
		}
		var r struct{ Level string }
		require.NoError(t, json.Unmarshal(got, &r))
		return r.Level
	}
	f := example(KindLeakDeadSocket, Server, dead("reset"))
	require.Equal(t, "WARN", level(f))
	f.Severity = Error
	require.Equal(t, "ERROR", level(f))
	f.ClearedAt = noon
	require.Equal(t, "INFO", level(f))
	f.Became = KindCloseWaitIdleInPool
	require.Equal(t, "INFO", level(f), "it is no alarm any more")
	f.Severity = Inventory
	require.Empty(t, level(f))
}

func TestALoggerThatDoesNotWantToKnowIsNotAsked(t *testing.T) {
	f := example(KindLeakDeadSocket, Server, dead("reset"))
	require.Zero(t, testing.AllocsPerRun(100, func() { logFinding(slog.New(slog.DiscardHandler), f, "x") }))
}

func TestOneLeakIsOneRecordAndItsEndAnother(t *testing.T) {
	d := newDocket(t, Config{})
	es := entries(d, 5000)
	for i := 0; i < 5000; i += 1000 {
		d.finds(KindCloseWaitNotReading, es[i:i+1000]...)
	}
	d.wait(time.Minute)
	d.finds("", es...)
	d.drained()
	lines := d.log.all()
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], `"event.name":"tcpstate.finding.opened"`)
	require.Contains(t, lines[0], `"tcpstate.group.open":1000`)
	require.Contains(t, lines[1], `"event.name":"tcpstate.finding.reminded"`)
	require.Contains(t, lines[1], `"tcpstate.group.open":5000`)
	require.Contains(t, lines[2], `"msg":"cleared after 1m: close_wait.not_reading at billing/client.go:88"`)
	require.Contains(t, lines[2], `"tcpstate.group.opened":5000`)
}
