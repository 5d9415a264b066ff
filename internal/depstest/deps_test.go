package depstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/tcpstate/tcpstate-go"

// forbidden is the import order, as what must not be linked into what. To make
// a test pass, change the import, not this table.
//
// A pattern is an import path; our own are relative to the module, so that
// "tcpstate" is the package of that name. "x/..." is x and everything below it.
var forbidden = []struct {
	from, linked []string
	because      string
}{
	{
		from: core, linked: []string{"net/http"},
		because: "a program without HTTP would link three times as much code, and gets an HTTP client it has to patch",
	},
	{
		from: core, linked: []string{"go.opentelemetry.io/..."},
		because: "programs report to what they have; only package otel knows OpenTelemetry",
	},
	{
		from: core, linked: []string{"github.com/jackc/puddle/..."},
		because: "only package pool is a pool",
	},
	{
		from: core, linked: []string{"database/sql", "expvar", "html/template", "text/template"},
		because: "the core links what every user needs",
	},
	{
		from: []string{"tcpstate", "tcpstate/debughttp", "dialer", "listener/...", "pool/...", "otel/..."},
		linked: []string{
			"testing", "internal/tcptest", "internal/depstest", "internal/zerocopy", "internal/ssagree", "internal/hangup",
			"tcpstate/leaktest",
			"github.com/stretchr/testify/...", "go.uber.org/goleak/...", "golang.org/x/net/...",
		},
		because: "test code does not belong into programs",
	},
	{
		from: []string{"internal/..."}, linked: []string{"tcpstate/...", "dialer", "listener/...", "pool/...", "otel/..."},
		because: "internal packages are the leaves below tcpstate, and a test kit that imports it cannot serve its own tests",
	},
	{
		from: []string{"tcpstate/...", "dialer", "listener/...", "pool/...", "otel/..."}, linked: []string{"go.opentelemetry.io/otel/sdk/..."},
		because: "the program chooses the SDK and its version; instrumentation uses the API",
	},
	{
		from: []string{"pool/httppool", "listener/...", "tcpstate/..."}, linked: []string{"github.com/jackc/puddle/...", "pool"},
		because: "an HTTP client or server needs no pool of raw connections",
	},
	{
		from: []string{"pool"}, linked: []string{"net/http"},
		because: "a proxy that speaks another protocol needs no HTTP",
	},
	{
		from: []string{"tcpstate/...", "dialer", "listener/...", "pool/..."}, linked: []string{"go.opentelemetry.io/..."},
		because: "only package otel knows OpenTelemetry",
	},
	{
		from: []string{"tcpstate/..."}, linked: []string{"dialer", "listener/...", "pool/...", "otel/..."},
		because: "connections are made above the tracker",
	},
	{
		from: []string{"dialer"}, linked: []string{"listener/...", "pool/..."},
		because: "a client needs no listener",
	},
	{
		from: []string{"listener/..."}, linked: []string{"dialer", "pool/..."},
		because: "a server needs no dialer",
	},
	{
		from: []string{"otel/..."}, linked: []string{"dialer", "listener/...", "pool/..."},
		because: "the reporter serves every way to make a connection, through the public API of tcpstate",
	},
}

// core is what every user links.
var core = []string{"tcpstate", "dialer", "listener"}

// allowed are the foreign modules of the root module, and why. Whatever a user
// of the module gets into his build is one of the first group.
var allowed = struct{ linked, tests map[string]string }{
	linked: map[string]string{
		"golang.org/x/sys":             "system calls that package syscall lacks",
		"go.opentelemetry.io/otel":     "the API, in package otel",
		"go.opentelemetry.io/otel/*":   "its parts are modules: metric, trace",
		"go.opentelemetry.io/auto/sdk": "the API needs it from 1.35 on",
		"github.com/go-logr/logr":      "the API needs it",
		"github.com/go-logr/stdr":      "the API needs it",
		"github.com/cespare/xxhash/v2": "the API needs it from 1.40 on",
		"github.com/jackc/puddle/v2":   "the engine of package pool",
		"golang.org/x/sync":            "puddle needs it",
	},
	tests: map[string]string{
		"github.com/stretchr/testify":   "assertions",
		"github.com/davecgh/go-spew":    "testify needs it",
		"github.com/pmezard/go-difflib": "testify needs it",
		"github.com/kr/text":            "the tests of yaml need it, so go mod tidy asks for it",
		"gopkg.in/yaml.v3":              "testify needs it",
		"go.opentelemetry.io/otel/sdk":  "readers and recorders in memory",
		"github.com/google/uuid":        "the SDK needs it",
		"golang.org/x/net":              "nettest.TestConn",
		"go.uber.org/goleak":            "proves that its users stay content",
	},
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	ForTest    string
	Imports    []string
	Standard   bool
	Module     *struct{ Path string }
}

// graph is the packages of one build, by import path.
type graph map[string]*pkg

// list returns the packages of the root module and what they link for goos.
func list(t *testing.T, goos string, tests bool) graph {
	t.Helper()
	args := []string{"list", "-deps", "-json=ImportPath,ForTest,Imports,Standard,Module"}
	if tests {
		args = append(args, "-test")
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, "./...")...)
	cmd.Dir = root(t)
	arch := map[string]string{"js": "wasm"}[goos]
	if arch == "" {
		arch = "amd64"
	}
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+arch, "CGO_ENABLED=0", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	g := make(graph)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return g
		} else {
			require.NoError(t, err)
		}
		g[p.ImportPath] = p
	}
}

// root returns the directory of the root module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Skipf("the tests run without their sources: %v", err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		if os.Getenv("TCPSTATE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skipf("no go command: %v", err)
	}
	return dir
}

// matches reports whether an import path is what pattern says.
func matches(pattern, path string) bool {
	if first, _, _ := strings.Cut(pattern, "/"); own(first) {
		pattern = module + "/" + pattern
	}
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == tree || strings.HasPrefix(path, tree+"/")
	}
	return path == pattern
}

// own reports whether a path that begins with first is relative to the module.
func own(first string) bool {
	return slices.Contains([]string{"tcpstate", "dialer", "listener", "pool", "otel", "internal"}, first)
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// way returns the shortest chain of imports from a package to one of targets,
// or nil.
func (g graph) way(from string, targets []string) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at != from && matchesAny(targets, at) {
			var chain []string
			for p := at; p != ""; p = before[p] {
				chain = append(chain, strings.TrimPrefix(p, module+"/"))
			}
			slices.Reverse(chain)
			return chain
		}
		if g[at] == nil {
			continue // "C"
		}
		for _, next := range g[at].Imports {
			if _, seen := before[next]; !seen {
				before[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

func TestNothingLinksWhatItMustNot(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows", "js"} {
		g := list(t, goos, false)
		for _, rule := range forbidden {
			for _, pattern := range rule.from {
				found := false
				for _, path := range slices.Sorted(maps.Keys(g)) {
					if !matches(pattern, path) {
						continue
					}
					found = true
					// Below its own tree everything is allowed.
					targets := slices.DeleteFunc(slices.Clone(rule.linked), func(target string) bool { return matches(target, path) })
					if way := g.way(path, targets); way != nil {
						t.Errorf("%s: %s: %s", goos, strings.Join(way, " → "), rule.because)
					}
				}
				if !found { // a renamed package would escape its rules
					t.Errorf("%s: there is no package %q", goos, pattern)
				}
			}
		}
	}
}

func TestOnlyKnownModulesAreUsed(t *testing.T) {
	known := func(lists ...map[string]string) func(string) bool {
		return func(path string) bool {
			for _, l := range lists {
				if l[path] != "" || l[parent(path)+"/*"] != "" {
					return true
				}
			}
			return path == module
		}
	}
	linked, tests := known(allowed.linked), known(allowed.linked, allowed.tests)
	sdk := func(path string) bool { return strings.HasPrefix(path, "go.opentelemetry.io/otel/sdk") }

	g := list(t, "linux", true)
	for path, p := range list(t, "linux", false) {
		// The test kits are packages that no program links, see above.
		kit := matchesAny([]string{"internal/tcptest", "internal/testall"}, path)
		if p.Module != nil && !kit && (!linked(p.Module.Path) || sdk(p.Module.Path)) {
			t.Errorf("package %s is linked; module %s is not in the list of those that may be", path, p.Module.Path)
		}
	}
	for path, p := range g {
		if p.Module != nil && !tests(p.Module.Path) && !sdk(p.Module.Path) {
			t.Errorf("package %s is linked into tests; module %s is not in the list of those that may be", path, p.Module.Path)
		}
	}

	// What go.mod asks for reaches every user's module graph, used or not.
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	require.NoError(t, err)
	var mod struct {
		Require []struct{ Path string }
		Replace []struct{ Old struct{ Path string } }
	}
	require.NoError(t, json.Unmarshal(out, &mod))
	assert.NotEmpty(t, mod.Require)
	for _, r := range mod.Require {
		assert.True(t, tests(r.Path) || sdk(r.Path), "go.mod requires %s", r.Path)
	}
	assert.Empty(t, mod.Replace, "a replacement does not reach users")
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}

func TestTheRulesCatchWhatTheyForbid(t *testing.T) {
	g := graph{
		module + "/dialer":                  {Imports: []string{module + "/tcpstate", "net"}},
		module + "/tcpstate":                {Imports: []string{"a", "go.opentelemetry.io/otel/trace"}},
		"a":                                 {Imports: []string{"net/http", "net/http/httptrace"}},
		"net":                               {},
		"net/http":                          {},
		"go.opentelemetry.io/otel/trace":    {},
		"go.opentelemetry.io/otelcollector": {},
	}
	assert.Equal(t, []string{"dialer", "tcpstate", "a", "net/http"}, g.way(module+"/dialer", []string{"net/http"}))
	assert.Equal(t, []string{"tcpstate", "go.opentelemetry.io/otel/trace"}, g.way(module+"/tcpstate", []string{"go.opentelemetry.io/otel/..."}))
	assert.Equal(t, []string{"dialer", "tcpstate"}, g.way(module+"/dialer", []string{"tcpstate/..."}))
	assert.Nil(t, g.way("net", []string{"net/http"}))
	assert.Nil(t, g.way("a", []string{"a"}))
	assert.False(t, matches("tcpstate", module+"/tcpstate/debughttp"))
	assert.False(t, matches("net/http", "net/http/httptrace"), "it does not import net/http")
	assert.False(t, matches("go.opentelemetry.io/otel/...", "go.opentelemetry.io/otelcollector"))
	for _, rule := range forbidden {
		assert.NotEmpty(t, rule.because, fmt.Sprint(rule.linked))
	}
}
