package jaegertest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	thisPackage   = "github.com/tcpstate/tcpstate-go/e2e/jaegertest"
	jaegerPackage = "github.com/jaegertracing/jaeger/cmd/all-in-one"

	// binaryEnv names the environment variable that holds the path of a Jaeger
	// all-in-one to use in place of building one.
	binaryEnv = "JAEGERTEST_BINARY"

	// deadlineMargin is left of the test's time to say why a build was given up.
	deadlineMargin = 15 * time.Second
)

// buildFlags leave the flags that key the build cache at their defaults, so that
// a build by hand and this one share what they compile. -race and -cover in
// GOFLAGS are meant for the code under test and would recompile all of Jaeger.
var buildFlags = []string{"-race=false", "-cover=false", "-mod=readonly", "-buildvcs=false", "-ldflags=-s -w"}

// Build returns the path of a Jaeger all-in-one binary, which it builds from the
// module e2e/jaeger unless it did so before.
//
// The first build downloads some 150 modules and takes minutes on two cores. The
// binary is kept in [os.UserCacheDir], under the hash of that module's go.mod and
// go.sum, of the Go release and of the flags. Test processes that ask at the same
// time wait for one of them to build. An environment variable JAEGERTEST_BINARY
// names a ready binary instead.
//
// Under -short the test is skipped, unless JAEGERTEST_BINARY is set. A build that
// would outlast the test's own deadline is given up before it, and fails the test.
func Build(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv(binaryEnv); bin != "" {
		abs, err := filepath.Abs(bin)
		if err != nil {
			t.Fatalf("jaegertest: %s: %v", binaryEnv, err)
		}
		return abs
	}
	if testing.Short() {
		t.Skip("jaegertest: no Jaeger under -short: the first build takes minutes")
	}

	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir() // no $HOME: build for this test only
	}
	ctx := t.Context()
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := d.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline.Add(-deadlineMargin))
			defer cancel()
		}
	}
	bin, err := build(ctx, filepath.Join(cache, "tcpstate-e2e"), t.Logf)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatalf("jaegertest: Jaeger was not built before the test's deadline; "+
			"run again with a longer -timeout, what is compiled is kept: %v", err)
	}
	if err != nil {
		t.Fatalf("jaegertest: build Jaeger: %v", err)
	}
	return bin
}

// build returns the binary in folder cache, building it if it is missing.
func build(ctx context.Context, cache string, logf func(string, ...any)) (string, error) {
	module, err := jaegerModule(ctx)
	if err != nil {
		return "", err
	}
	key, err := buildKey(module)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "jaeger-all-in-one-"+key)
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	if isBinary(bin) {
		return bin, nil
	}

	unlock, err := lockFile(ctx, bin+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if isBinary(bin) { // built by the process that held the lock
		return bin, nil
	}

	// Built beside its final place and renamed, so that no reader ever sees half a
	// binary.
	tmp, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, filepath.Base(bin))

	logf("jaegertest: building %s, which takes minutes the first time", jaegerPackage)
	began := time.Now()
	args := slices.Concat([]string{"build", "-C", module}, buildFlags, []string{"-o", out, jaegerPackage})
	if err := runGo(ctx, nil, args...); err != nil {
		return "", err
	}
	if err := os.Rename(out, bin); err != nil {
		return "", err
	}
	logf("jaegertest: built %s in %v", bin, time.Since(began).Round(time.Second))
	return bin, nil
}

// jaegerModule returns the folder of the module that pins Jaeger. It asks the go
// command where this package is, since the paths that runtime.Caller tells are
// not those of the disk under -trimpath.
func jaegerModule(ctx context.Context) (string, error) {
	var out strings.Builder
	if err := runGo(ctx, &out, "list", "-f", "{{.Dir}}", thisPackage); err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(strings.TrimSpace(out.String())), "jaeger"), nil
}

// buildKey hashes all that decides what binary comes out.
func buildKey(module string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH, buildFlags)
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		h.Write(data)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

func isBinary(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeType == 0 && info.Size() > 0
}

// runGo runs the go command, with its standard output to out if that is not nil.
func runGo(ctx context.Context, out *strings.Builder, args ...string) error {
	var errOut strings.Builder
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = &errOut
	if out != nil {
		cmd.Stdout = out
	}
	if args[0] == "build" {
		// A go.work above would mix Jaeger's requirements with ours.
		cmd.Env = append(os.Environ(), "GOWORK=off")
	}
	// An interrupted go command removes its work folder; its compilers hold on to
	// the pipe a little longer.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = deadlineMargin / 3
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return nil
}
