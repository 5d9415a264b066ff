package recipes

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every Go snippet in the README stands in this package, so it compiles.
func TestREADMEShowsCodeThatCompiles(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("recipes.go")
	require.NoError(t, err)
	code := normal(string(source))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.GreaterOrEqual(t, len(blocks), 6)
	for _, b := range blocks {
		require.Contains(t, code, normal(b[1]), "in README.md, but not in recipes.go")
	}
}

func normal(s string) string { return strings.Join(strings.Fields(s), " ") }

// The report in the README is one that the library writes: a golden file of its
// tests.
func TestREADMEShowsARealReport(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	report, err := os.ReadFile("../../tcpstate/testdata/report/unread_body.golden")
	require.NoError(t, err)
	require.Contains(t, string(readme), "```\n"+string(report)+"```\n")
}
