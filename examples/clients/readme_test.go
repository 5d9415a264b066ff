package clients

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
)

var update = flag.Bool("update", false, "write the table in README.md")

// maxRecipe is how long the code may be that a reader is asked to copy.
const maxRecipe = 60

// The table in README.md is made of the rows of the clients, whose claims their
// own tests have to show: see harness.Main.
func TestTheTableSaysWhatTheClientsDo(t *testing.T) {
	rows, err := filepath.Glob("*/row.json")
	require.NoError(t, err)
	require.NotEmpty(t, rows)
	goMod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	var table strings.Builder
	table.WriteString("| client | the line | connections | a finding names | leaks found | its own check, kept |\n|---|---|---|---|---|---|\n")
	for _, file := range rows {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		var row harness.Row
		require.NoError(t, json.Unmarshal(b, &row), file)
		dir := filepath.Dir(file)
		require.NotEmpty(t, row.Client, file)
		require.NotEmpty(t, row.Names, file)
		require.NotEmpty(t, row.Wrap, file)
		require.NotEmpty(t, row.Leaks, file)
		if strings.Contains(row.Module, ".") {
			require.Contains(t, string(goMod), "\t"+row.Module+" v", file)
		}
		require.True(t, inRecipe(t, dir, row.Recipe), "%s: no such line in the recipe: %s", file, row.Recipe)
		var leaks []string
		for _, k := range row.Leaks {
			require.NotEmpty(t, k.Info().Title, "%s: %s is no kind", file, k)
			leaks = append(leaks, fmt.Sprintf("`%s`", k))
		}
		liveness := row.Liveness
		if liveness == "" {
			liveness = "it has none"
		}
		fmt.Fprintf(&table, "| [%s](%s) | `%s` | %s | %s | %s | %s |\n",
			row.Client, dir, strings.ReplaceAll(row.Recipe, "|", "\\|"), row.Wrap, row.Names, strings.Join(leaks, ", "), liveness)
	}

	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(readme), "<!-- table -->\n")
	require.True(t, ok)
	_, after, ok := strings.Cut(rest, "<!-- end of table -->\n")
	require.True(t, ok)
	want := before + "<!-- table -->\n" + table.String() + "<!-- end of table -->\n" + after
	if *update {
		require.NoError(t, os.WriteFile("README.md", []byte(want), 0o644))
		return
	}
	require.Equal(t, want, string(readme), "go test . -update writes it")
}

// inRecipe reports whether line stands in the code of dir beside the tests, none
// of whose files is too long to copy.
func inRecipe(t *testing.T, dir, line string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	found := false
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSpace(string(source)), "\n")
		require.LessOrEqual(t, len(lines), maxRecipe, file)
		for _, l := range lines {
			found = found || strings.TrimSpace(l) == line
		}
	}
	return found
}
