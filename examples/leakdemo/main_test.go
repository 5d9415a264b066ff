package main

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// Without one leak exactly its report disappears; with all, there is one each.
func TestEachLeakIsReportedOnceAndHealthyTrafficNever(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "leakdemo")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)

	for _, without := range append([]leak{{}}, leaks...) {
		t.Run("without "+string(without.kind), func(t *testing.T) {
			t.Parallel()
			var want, args []string
			for _, l := range leaks {
				if l.kind != without.kind {
					want = append(want, string(l.kind))
				}
			}
			if without.kind != "" {
				args = []string{"-without", string(without.kind)}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, bin, args...)
			cmd.Env = append(cmd.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT=")
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			start := time.Now()
			require.NoError(t, cmd.Run(), "%s%s", &out, &errs)
			require.Less(t, time.Since(start), 20*time.Second)
			require.Empty(t, errs.String())
			require.ElementsMatch(t, want, reported(out.String()), "%s", &out)
			require.Contains(t, out.String(), "\nhealthy: 0 findings\n")
		})
	}
}

// The same program without a leak is silent, and closes all it has opened.
func TestHealthyTrafficLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	require.NoError(t, run(t.Context(), leaktest.Tracker(t), nil, false))
}

var reportLine = regexp.MustCompile(`(?m)^tcpstate (?:WARN|ERROR) .* (\S+)$`)

func reported(out string) []string {
	var kinds []string
	for _, m := range reportLine.FindAllStringSubmatch(out, -1) {
		kinds = append(kinds, m[1])
	}
	return kinds
}

func TestAnUnknownKindIsRefused(t *testing.T) {
	err := demonstrate(t.Context(), "close_wait.typo", false)
	require.ErrorContains(t, err, "close_wait.typo")
	require.ErrorContains(t, err, "close_wait.unread_body", "it says what there is")
	require.False(t, strings.Contains(err.Error(), "\n"))
}
