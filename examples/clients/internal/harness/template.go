package harness

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// templates are directories with what is made once in a process: new databases to
// copy, since making one takes a second or more and every test wants its own, and
// programs.
var templates struct {
	sync.Mutex
	dirs map[string]string
}

// build returns the program in internal/name, compiled once in this process, and
// taken from Go's build cache by others.
func build(t testing.TB, name string) string {
	t.Helper()
	templates.Lock()
	defer templates.Unlock()
	binary := filepath.Join(templates.dirs[name], name)
	if templates.dirs[name] == "" {
		dir := newTemplate(t, name)
		binary = filepath.Join(dir, name)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-C", filepath.Join(moduleRoot(t), "internal", name),
			"-race=false", "-cover=false", "-buildvcs=false", "-o", binary, ".")
		cmd.Env = append(os.Environ(), "GOWORK=off")
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	}
	return binary
}

// newTemplate makes the directory of name. The caller holds the lock.
func newTemplate(t testing.TB, name string) string {
	dir, err := os.MkdirTemp("", "tcpstate-"+name+"-")
	require.NoError(t, err)
	if templates.dirs == nil {
		templates.dirs = map[string]string{}
	}
	templates.dirs[name] = dir
	return dir
}

// removeTemplates is called when all tests have ended.
func removeTemplates() error {
	templates.Lock()
	defer templates.Unlock()
	var errs []error
	for _, dir := range templates.dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	templates.dirs = nil
	return errors.Join(errs...)
}
