package tcpstate

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryKindIsDescribed(t *testing.T) {
	seen := make(map[Kind]bool)
	for _, k := range Kinds() {
		require.False(t, seen[k.Kind], "%s is there twice", k.Kind)
		seen[k.Kind] = true
		family, name, ok := strings.Cut(string(k.Kind), ".")
		require.True(t, ok && family != "" && name != "", k.Kind)
		require.Contains(t, []Severity{Count, Audit, Inventory, Warning, Error}, k.Severity, k.Kind)
		require.NotEqual(t, PhaseUnknown, k.Phase, k.Kind)
		require.NotEmpty(t, k.Causes, k.Kind)
		for _, text := range append(k.Causes, k.Title, k.Meaning, k.Fix, k.Default) {
			require.Equal(t, strings.TrimSpace(text), text, k.Kind)
			require.NotEmpty(t, text, k.Kind)
		}
		require.True(t, strings.HasSuffix(k.Meaning, "."), "the meaning is a sentence: %s", k.Meaning)
		require.False(t, strings.HasSuffix(k.Title+k.Fix, "."), "title and fix are none: %s", k.Fix)
		require.Less(t, len(k.Title)+len(k.Kind), 84, "fits into one line of a report")
		require.Equal(t, k, k.Kind.Info())
		require.Equal(t, k.Severity, k.Kind.Severity())
	}
	require.Equal(t, KindInfo{}, Kind("none").Info())
	require.Zero(t, Kind("none").Severity())
}

func TestTheTableOfKindsCannotBeChangedFromOutside(t *testing.T) {
	all := Kinds()
	all[0].Causes[0], all[0].Title = "spoilt", "spoilt"
	one := all[1].Kind.Info()
	one.Causes[0] = "spoilt"
	for _, k := range Kinds() {
		require.NotContains(t, k.Causes, "spoilt")
		require.NotEqual(t, "spoilt", k.Title)
	}
}

// TestTheDocumentationOfKindsIsUpToDate also writes it: go generate ./tcpstate
func TestTheDocumentationOfKindsIsUpToDate(t *testing.T) {
	golden(t, filepath.Join("..", "docs", "findings.md"), findingsDoc())
}

const docHead = `# Findings

<!-- Made by go generate ./tcpstate from the table of kinds. Do not edit. -->

What this version can find, what it means, and what to do about it. A program
gets the same from ` + "`tcpstate.Kinds()`" + `.

A finding is about one fault of a connection, or of what its kind says: a dial,
a listener, a target, a tunnel, a line of code, the process. It opens once, keeps
its number and its age while its kind sharpens, and is cleared when the condition
ends; an event, which has no end, after ten minutes. Findings of one kind from
one line of code and one name are a group: a group is reported when it opens,
with its counts at growing intervals while they change, and when its last member
has gone. Of several faults of one connection the gravest is reported.

Progress starts every clock again: bytes that the peer acknowledges, a read by
the application, a use that begins or ends. ` + "`Expect`" + ` declares what is normal on
a connection, ` + "`Config.Thresholds`" + ` changes the times below, ` + "`Config.Mute`" + `
silences what is known.

| severity | meaning |
|---|---|
| error | the service refuses or loses work now |
| warning | code that misbehaves or a dead path, on evidence |
| inventory | worth seeing on a page or a gauge; never logged, never an alert |
| audit | a configuration, once for each line of code; like inventory |
| count | a metric only |

`

func findingsDoc() []byte {
	var b bytes.Buffer
	b.WriteString(docHead)
	b.WriteString("| kind | severity | phase | reported |\n|---|---|---|---|\n")
	all := Kinds()
	for _, k := range all {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s | %s |\n", k.Kind, anchor(k.Kind), k.Severity, k.Phase, k.Default)
	}
	for _, k := range all {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n%s\n\n", k.Kind, upperFirst(k.Title), k.Meaning)
		b.WriteString("Likely causes, the likeliest first:\n\n")
		for _, c := range k.Causes {
			fmt.Fprintf(&b, "- %s\n", c)
		}
		fmt.Fprintf(&b, "\nWhat to do: %s.\n\n", k.Fix)
		if len(k.Checks) > 0 {
			b.WriteString("What to check next, filled in for the subject in reports:\n\n")
			for _, c := range k.Checks {
				fmt.Fprintf(&b, "    %s\n", c)
			}
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "About: %s. Reported: %s.\n\n", k.Subject, k.Default)
		i := slices.IndexFunc(examples, func(ex exampleRow) bool { return ex.Kind == k.Kind })
		fmt.Fprintf(&b, "```text\n%s```\n", examples[i].String())
	}
	return b.Bytes()
}

// anchor is what GitHub makes of a heading.
func anchor(k Kind) string { return strings.ReplaceAll(string(k), ".", "") }
