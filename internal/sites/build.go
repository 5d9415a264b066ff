package sites

import (
	"cmp"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
)

// kind says whose code a frame is. The order is the order of preference for
// an owner, best first.
type kind uint8

const (
	kindMain  kind = iota // the program: its main module, workspace and package main
	kindOther             // somebody's library
	kindLayer             // instrumentation and SDKs: between the one who asked and the socket
	kindStd
	kindOwn // this library: never shown
)

// selfModule is the module this package is part of.
const selfModule = "github.com/tcpstate/tcpstate-go"

// selfDirs hold the library. The rest of the module (examples, e2e, bench) is
// code that uses it, and shown like any other.
var selfDirs = [...]string{"tcpstate", "dialer", "listener", "pool", "otel", "internal"}

// layers are import path prefixes that stand between the code that wants a
// connection and the socket. A driver or client library is not listed: where no
// frame of the program is left, it is the best answer there is.
var layers = [...]string{
	// Tracing, metrics and error reporting wrap transports and handlers.
	"go.opentelemetry.io/",
	"go.elastic.co/apm",
	"github.com/DataDog/dd-trace-go",
	"gopkg.in/DataDog/dd-trace-go",
	"github.com/newrelic/go-agent",
	"github.com/getsentry/sentry-go",
	"github.com/prometheus/client_golang",
	"github.com/felixge/httpsnoop",
	"github.com/XSAM/otelsql",

	// Transports, and helpers that run somebody else's function.
	"golang.org/x/net/",
	"golang.org/x/oauth2",
	"golang.org/x/sync/",
	"google.golang.org/grpc",
	"github.com/hashicorp/go-cleanhttp",
	"github.com/hashicorp/go-retryablehttp",
	"github.com/jackc/puddle",

	// Cloud SDKs: generated clients over long middleware stacks.
	"cloud.google.com/go",
	"google.golang.org/api",
	"github.com/googleapis/gax-go",
	"github.com/aws/aws-sdk-go", // and -v2
	"github.com/aws/smithy-go",
	"github.com/Azure/azure-sdk-for-go",

	// Test frameworks call the test.
	"github.com/stretchr/testify",
	"github.com/onsi/ginkgo",
}

// build is what is known about the running program. It is immutable.
type build struct {
	mainPkg string   // import path of package main, if known
	own     []string // module paths of the program: the main one, the workspace
	deps    []string // module paths of its dependencies

	goroot string // source prefix of the standard library, with slash; empty under -trimpath
	self   string // source prefix of selfModule, with slash; empty if unknown
	trim   bool   // files are import paths, not places on the machine of the build
}

var thisBuild = sync.OnceValue(func() *build {
	info, _ := debug.ReadBuildInfo()
	_, selfFile, _, _ := runtime.Caller(0)
	var pcs [8]uintptr
	runtimeFile := ""
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs[:])])
	// The first frame is runtime.Callers itself.
	if f, _ := frames.Next(); strings.HasPrefix(f.Function, "runtime.") {
		runtimeFile = f.File
	}
	return newBuild(info, runtimeFile, selfFile)
})

// newBuild derives the build from its inputs: the build info, which may be nil,
// the file of any function of package runtime, and the file of this package's
// build.go, both as the compiler recorded them.
func newBuild(info *debug.BuildInfo, runtimeFile, selfFile string) *build {
	b := &build{}
	if dir, ok := strings.CutSuffix(path.Dir(runtimeFile), "/runtime"); ok {
		b.goroot = dir + "/"
	}
	b.self, _ = strings.CutSuffix(selfFile, "internal/sites/build.go")
	if b.self == selfFile {
		b.self = ""
	}
	if info == nil {
		return b
	}
	// Bazel trims paths its own way and leaves no build info.
	b.trim = path.Dir(runtimeFile) == "runtime"
	if info.Path != "command-line-arguments" {
		b.mainPkg = info.Path
	}
	if p := info.Main.Path; p != "" && p != "command-line-arguments" {
		b.own = append(b.own, p)
	}
	for _, m := range info.Deps {
		// Only the modules of a workspace, and the module around files that
		// were named on the command line, are dependencies without a version.
		if m.Version == "(devel)" && m.Replace == nil {
			b.own = append(b.own, m.Path)
		} else {
			b.deps = append(b.deps, m.Path)
		}
	}
	// The longest path first: modules nest.
	longest := func(x, y string) int { return cmp.Compare(len(y), len(x)) }
	slices.SortFunc(b.own, longest)
	slices.SortFunc(b.deps, longest)
	return b
}

// frame describes one function and line as the runtime reports them.
func (b *build) frame(function, file string, line int) Frame {
	function = strings.TrimSuffix(function, "-fm")
	pkg, name := splitFunction(function)
	f := Frame{Function: function, Line: line, Short: short(pkg, name)}

	test := strings.HasSuffix(file, "_test.go")
	f.pkg = pkg
	if test {
		f.pkg = strings.TrimSuffix(pkg, "_test") // external test package, same directory
	}
	// A closure inside an inlined function is named after the function it was
	// inlined into: "main.main.Collect[...].func1" is code of package slices.
	// The file knows better, when its path tells the package.
	if p := b.filePackage(file); p != "" && p != b.mainPkg && pkg != "" {
		f.pkg = p
	}
	f.kind = b.kindOf(f.pkg, file, test)
	if file == autogenerated {
		f.Line = 0
		return f
	}
	f.File = b.relative(f.pkg, file, f.kind)
	return f
}

// namedFrame describes a frame that a test made up.
func (b *build) namedFrame(n named) Frame {
	if isAbs(n.file) {
		return b.frame(n.function, n.file, n.line)
	}
	f := b.frame(n.function, path.Base(n.file), n.line)
	f.File = n.file
	return f
}

// filePackage returns the import path of the package a file is in, or "" when
// its path does not tell.
func (b *build) filePackage(file string) string {
	p := b.fileDir(file)
	if p != path.Clean(p) || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "..") || strings.Contains(p, `\`) {
		return "" // no import path: a line directive, or another build system
	}
	return p
}

func (b *build) fileDir(file string) string {
	if rest, ok := cutPrefix(file, b.self); ok {
		return join(selfModule, dir(rest))
	}
	if rest, ok := cutPrefix(file, b.goroot); ok {
		return dir(rest)
	}
	if i := strings.LastIndex(file, "/pkg/mod/"); i >= 0 {
		return unescapeModule(unversion(dir(file[i+len("/pkg/mod/"):])))
	}
	if i := strings.LastIndex(file, "/vendor/"); i >= 0 {
		return dir(file[i+len("/vendor/"):])
	}
	if b.trim && !isAbs(file) && !strings.HasPrefix(file, ".") {
		return unversion(dir(file))
	}
	return ""
}

func (b *build) kindOf(pkg, file string, test bool) kind {
	switch {
	case isSelf(pkg) && !test:
		return kindOwn
	case pkg == "main" && !strings.HasSuffix(file, "_testmain.go"), within(pkg, b.own) != "":
		return kindMain
	case b.isStd(pkg, file):
		return kindStd
	case slices.ContainsFunc(layers[:], func(p string) bool { return strings.HasPrefix(pkg, p) }):
		return kindLayer
	case len(b.own) == 0 && within(pkg, b.deps) == "":
		return kindMain // nothing says which module is the program's: any may be
	}
	return kindOther
}

func isSelf(pkg string) bool {
	rest, ok := strings.CutPrefix(pkg, selfModule+"/")
	if !ok {
		return false
	}
	first, _, _ := strings.Cut(rest, "/")
	return slices.Contains(selfDirs[:], strings.TrimSuffix(first, "_test"))
}

// isStd goes by the rule of cmd/go: an import path whose first element has no
// dot is reserved for the standard library. Modules may break it, so known ones
// come first, and with no build info the file may prove it wrong.
func (b *build) isStd(pkg, file string) bool {
	if within(pkg, b.deps) != "" {
		return false
	}
	first, _, _ := strings.Cut(pkg, "/")
	if strings.Contains(first, ".") {
		return false
	}
	if len(b.own) == 0 && isAbs(file) && pkg != "main" {
		return strings.Contains(file, "/src/"+pkg+"/")
	}
	return true
}

// relative turns file into what a reader needs to find it.
func (b *build) relative(pkg, file string, k kind) string {
	base := file[strings.LastIndexAny(file, `/\`)+1:]
	if pkg == "main" {
		if b.mainPkg == "" || k == kindStd { // unknown, or the main of a test binary
			return base
		}
		pkg = b.mainPkg
	}
	if mod := within(pkg, b.own); mod != "" {
		return join(strings.TrimPrefix(pkg[len(mod):], "/"), base)
	}
	if k == kindStd {
		return join(pkg, base)
	}
	return join(lastElems(pkg, 2), base)
}

// within returns the first module that contains pkg.
func within(pkg string, modules []string) string {
	for _, m := range modules {
		if rest, ok := strings.CutPrefix(pkg, m); ok && (rest == "" || rest[0] == '/') {
			return m
		}
	}
	return ""
}

// unversion removes "@v1.2.3" from the path of a directory in a module.
func unversion(dir string) string {
	mod, rest, ok := strings.Cut(dir, "@")
	if !ok {
		return dir
	}
	_, sub, _ := strings.Cut(rest, "/")
	return join(mod, sub)
}

// unescapeModule undoes the case escape of the module cache: "!azure" is "Azure".
func unescapeModule(p string) string {
	before, after, ok := strings.Cut(p, "!")
	if !ok || after == "" {
		return p
	}
	return before + strings.ToUpper(after[:1]) + unescapeModule(after[1:])
}

// cutPrefix is strings.CutPrefix where no prefix is no match.
func cutPrefix(s, prefix string) (string, bool) {
	if prefix == "" {
		return s, false
	}
	return strings.CutPrefix(s, prefix)
}

func isAbs(file string) bool {
	return strings.HasPrefix(file, "/") || len(file) > 1 && file[1] == ':' || strings.HasPrefix(file, `\`)
}

func dir(file string) string {
	if i := strings.LastIndexByte(file, '/'); i >= 0 {
		return file[:i]
	}
	return ""
}

func join(dir, base string) string {
	if dir == "" || base == "" {
		return dir + base
	}
	return dir + "/" + base
}
