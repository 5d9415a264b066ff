package debughttp

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// findings returns one of each severity, from the first to the last.
func findings(from, to tcpstate.Severity) []severity {
	var all []tcpstate.Finding
	for s := from; s >= to; s-- {
		all = append(all, tcpstate.Finding{Kind: "a.b", Severity: s, Subject: tcpstate.Subject{Type: tcpstate.SubjectSite}})
	}
	return bySeverity(all)
}

func TestWhatIsMissingStandsAboveTheFindings(t *testing.T) {
	v := &view{BySeverity: findings(tcpstate.Error, tcpstate.Audit), Missing: []tcpstate.Facility{{
		Name: "ports", Detail: "sock_diag: operation not permitted", Kinds: []tcpstate.Kind{"a.b", "c.d"},
	}}}
	var b bytes.Buffer
	require.NoError(t, page.Execute(&b, v))
	require.Regexp(t, `(?s)error <b>1<.*audit <b>1<`, b.String())
	require.Regexp(t, `(?s)Not seen on this machine.*ports.*operation not permitted.*a\.b, c\.d.*<h2>Findings`, b.String())
}
