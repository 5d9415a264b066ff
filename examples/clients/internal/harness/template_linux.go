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

// templates are new databases to copy: making one takes a second or more, and
// every test wants its own.
var templates struct {
	sync.Mutex
	dirs map[string]string
}

// template makes the server's directory "data" a copy of what install has made
// of it for the first server called name.
func (s *Server) template(t testing.TB, name string, install func(data string)) string {
	t.Helper()
	data := filepath.Join(s.dir, "data")
	templates.Lock()
	defer templates.Unlock()
	dir, ok := templates.dirs[name]
	if !ok {
		install(data)
		var err error
		dir, err = os.MkdirTemp("", "tcpstate-"+name+"-")
		require.NoError(t, err)
		if templates.dirs == nil {
			templates.dirs = map[string]string{}
		}
		templates.dirs[name] = dir
		data, dir = dir, data // copied the other way round
	}
	out, err := exec.CommandContext(t.Context(), "cp", "-a", dir+"/.", data).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	return filepath.Join(s.dir, "data")
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
