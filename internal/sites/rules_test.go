package sites

import (
	"fmt"
	"runtime/debug"
	"strings"
	"testing"
)

const (
	goRuntime      = "/usr/local/go/src/runtime/extern.go"
	trimmedRuntime = "runtime/extern.go"
	modSelf        = "/home/gopher/go/pkg/mod/github.com/tcpstate/tcpstate-go@v1.2.3/internal/sites/build.go"
	trimmedSelf    = "github.com/tcpstate/tcpstate-go@v1.2.3/internal/sites/build.go"
	checkoutSelf   = "/home/ann/tcpstate-go/internal/sites/build.go"
)

// info is the build info of a program at pkg in module main, with
// dependencies. A dependency without a version is part of the workspace.
func info(pkg, main string, deps ...string) *debug.BuildInfo {
	b := &debug.BuildInfo{Path: pkg, Main: debug.Module{Path: main, Version: "(devel)"}}
	for _, d := range deps {
		p, v, ok := strings.Cut(d, "@")
		if !ok {
			v = "(devel)"
		}
		b.Deps = append(b.Deps, &debug.Module{Path: p, Version: v})
	}
	return b
}

var (
	acme        = newBuild(info("acme/cmd/shop", "acme", "github.com/jackc/pgx/v5@v5.7.1", "acmelib@v1.0.0", "github.com/Azure/go-amqp@v1.0.0", selfModule+"@v1.2.3"), goRuntime, modSelf)
	acmeTrimmed = newBuild(info("acme/cmd/shop", "acme", "github.com/jackc/pgx/v5@v5.7.1", "acmelib@v1.0.0", "github.com/Azure/go-amqp@v1.0.0", selfModule+"@v1.2.3"), trimmedRuntime, trimmedSelf)
	dotted      = newBuild(info("github.com/acme/shop", "github.com/acme/shop"), goRuntime, modSelf)
	testBinary  = newBuild(info("acme/billing.test", "acme"), goRuntime, modSelf)
	workspace   = newBuild(info("example.com/api/cmd", "example.com/api", "example.com/lib"), goRuntime, modSelf)
	goRunFile   = newBuild(info("command-line-arguments", "", "acme", "github.com/jackc/pgx/v5@v5.7.1"), goRuntime, modSelf)
	noInfo      = newBuild(nil, "GOROOT/src/runtime/extern.go", "external/com_github_tcpstate_tcpstate_go/internal/sites/build.go")
	self        = newBuild(info(selfModule+"/dialer.test", selfModule), goRuntime, checkoutSelf)
	selfExample = newBuild(info(selfModule+"/examples/proxy", selfModule+"/examples", selfModule+"@v0.0.0"), goRuntime, checkoutSelf)
)

func TestFramesSayWhoseCodeItIsAndWhereToFindIt(t *testing.T) {
	const mod = "/home/gopher/go/pkg/mod/"
	for _, tt := range []struct {
		name     string
		build    *build
		function string
		file     string
		kind     kind
		short    string
		rel      string
	}{
		{"a package of the main module", acme, "acme/billing.(*Client).Charge", "/home/ann/src/billing/client.go", kindMain, "acme/billing.(*Client).Charge", "billing/client.go"},
		{"the same with trimmed paths", acmeTrimmed, "acme/billing.(*Client).Charge", "acme/billing/client.go", kindMain, "acme/billing.(*Client).Charge", "billing/client.go"},
		{"the root of the main module", acme, "acme.Run", "/home/ann/src/run.go", kindMain, "acme.Run", "run.go"},
		{"a main module with a host", dotted, "github.com/acme/shop/internal/billing.Charge", "/home/ann/shop/internal/billing/client.go", kindMain, "internal/billing.Charge", "internal/billing/client.go"},
		{"package main below the root", acme, "main.main", "/home/ann/src/cmd/shop/main.go", kindMain, "main.main", "cmd/shop/main.go"},
		{"the same with trimmed paths", acmeTrimmed, "main.main", "acme/cmd/shop/main.go", kindMain, "main.main", "cmd/shop/main.go"},
		{"package main at the root", dotted, "main.(*app).run", "/home/ann/shop/main.go", kindMain, "main.(*app).run", "main.go"},
		{"package main of files named on the command line", goRunFile, "main.main", "/home/ann/src/x/main.go", kindMain, "main.main", "main.go"},
		{"a package beside such files", goRunFile, "acme/billing.Charge", "/home/ann/src/billing/client.go", kindMain, "acme/billing.Charge", "billing/client.go"},
		{"package main on Windows", acme, "main.main", "C:/Users/ann/src/cmd/shop/main.go", kindMain, "main.main", "cmd/shop/main.go"},
		{"a module of the workspace", workspace, "example.com/lib/store.Open", "/home/ann/lib/store/open.go", kindMain, "lib/store.Open", "store/open.go"},
		{"a module whose path is a prefix of another", dotted, "github.com/acme/shopping.F", mod + "github.com/acme/shopping@v1.0.0/f.go", kindOther, "acme/shopping.F", "acme/shopping/f.go"},

		{"a test", testBinary, "acme/billing.TestCharge", "/home/ann/src/billing/client_test.go", kindMain, "acme/billing.TestCharge", "billing/client_test.go"},
		{"an external test", testBinary, "acme/billing_test.TestCharge", "/home/ann/src/billing/client_test.go", kindMain, "acme/billing_test.TestCharge", "billing/client_test.go"},
		{"an external test at the root", testBinary, "acme_test.TestRun", "/home/ann/src/run_test.go", kindMain, "acme_test.TestRun", "run_test.go"},
		{"the main function of a test binary", testBinary, "main.main", "_testmain.go", kindStd, "main.main", "_testmain.go"},

		{"a closure", acme, "acme/billing.(*Client).Charge.func1", "/home/ann/src/billing/client.go", kindMain, "acme/billing.(*Client).Charge.func1", "billing/client.go"},
		{"a method value", acme, "acme/billing.(*Client).Charge-fm", "/home/ann/src/billing/client.go", kindMain, "acme/billing.(*Client).Charge", "billing/client.go"},
		{"a generic function", acme, "acme/billing.Do[...]", "/home/ann/src/billing/do.go", kindMain, "acme/billing.Do[...]", "billing/do.go"},
		{"type arguments with paths", acme, "acme/billing.Do[github.com/x/y.T].func1", "/home/ann/src/billing/do.go", kindMain, "acme/billing.Do[github.com/x/y.T].func1", "billing/do.go"},
		{"the loop body of an iterator", acme, "acme/billing.(*G[...]).M-range1", "/home/ann/src/billing/g.go", kindMain, "acme/billing.(*G[...]).M-range1", "billing/g.go"},
		{"an escaped dot", acme, "acme/api/v%2e2.Serve", "/home/ann/src/api/v.2/serve.go", kindMain, "api/v.2.Serve", "api/v.2/serve.go"},
		{"a function the compiler wrote", acme, "acme/billing.(*Client).Charge", "<autogenerated>", kindMain, "acme/billing.(*Client).Charge", ""},
		{"a vendored package", acme, "acme/vendor/github.com/gorilla/mux.(*Router).ServeHTTP", "/home/ann/src/vendor/github.com/gorilla/mux/mux.go", kindOther, "gorilla/mux.(*Router).ServeHTTP", "gorilla/mux/mux.go"},

		{"a dependency", acme, "github.com/jackc/pgx/v5/pgconn.Connect", mod + "github.com/jackc/pgx/v5@v5.7.1/pgconn/pgconn.go", kindOther, "v5/pgconn.Connect", "v5/pgconn/pgconn.go"},
		{"the same with trimmed paths", acmeTrimmed, "github.com/jackc/pgx/v5/pgconn.Connect", "github.com/jackc/pgx/v5@v5.7.1/pgconn/pgconn.go", kindOther, "v5/pgconn.Connect", "v5/pgconn/pgconn.go"},
		{"a dependency at a dot", acme, "gopkg.in/yaml%2ev3.Unmarshal", mod + "gopkg.in/yaml.v3@v3.0.1/yaml.go", kindOther, "gopkg.in/yaml.v3.Unmarshal", "gopkg.in/yaml.v3/yaml.go"},
		{"a dependency without a dot", acme, "acmelib/store.Open", "/home/ann/acmelib/store/open.go", kindOther, "acmelib/store.Open", "acmelib/store/open.go"},
		{"a dependency with capitals", acme, "github.com/Azure/go-amqp.Dial", mod + "github.com/!azure/go-amqp@v1.0.0/conn.go", kindOther, "Azure/go-amqp.Dial", "Azure/go-amqp/conn.go"},
		{"an instrumentation", acme, "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp.(*Transport).RoundTrip", mod + "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp@v0.60.0/transport.go", kindLayer, "http/otelhttp.(*Transport).RoundTrip", "http/otelhttp/transport.go"},
		{"a transport", acme, "google.golang.org/grpc.(*ClientConn).Invoke", mod + "google.golang.org/grpc@v1.70.0/call.go", kindLayer, "google.golang.org/grpc.(*ClientConn).Invoke", "google.golang.org/grpc/call.go"},
		{"an SDK in its second version", acme, "github.com/aws/aws-sdk-go-v2/service/s3.(*Client).PutObject", mod + "github.com/aws/aws-sdk-go-v2/service/s3@v1.70.0/api.go", kindLayer, "service/s3.(*Client).PutObject", "service/s3/api.go"},

		{"std", acme, "net/http.(*Client).do", "/usr/local/go/src/net/http/client.go", kindStd, "net/http.(*Client).do", "net/http/client.go"},
		{"std with trimmed paths", acmeTrimmed, "net/http.(*Client).do", "net/http/client.go", kindStd, "net/http.(*Client).do", "net/http/client.go"},
		{"what std vendors", acme, "vendor/golang.org/x/net/http/httpproxy.FromEnvironment", "/usr/local/go/src/vendor/golang.org/x/net/http/httpproxy/proxy.go", kindStd, "http/httpproxy.FromEnvironment", "vendor/golang.org/x/net/http/httpproxy/proxy.go"},
		{"what std vendors with trimmed paths", acmeTrimmed, "vendor/golang.org/x/net/http/httpproxy.FromEnvironment", "vendor/golang.org/x/net/http/httpproxy/proxy.go", kindStd, "http/httpproxy.FromEnvironment", "vendor/golang.org/x/net/http/httpproxy/proxy.go"},
		{"cgo", acme, "net._Cfunc_getaddrinfo", "_cgo_gotypes.go", kindStd, "net._Cfunc_getaddrinfo", "net/_cgo_gotypes.go"},
		{"no name", acme, "", "", kindStd, "", ""},

		{"a std closure inlined into the program", acme, "main.main.Collect[...].func1", "/usr/local/go/src/slices/iter.go", kindStd, "main.main.Collect[...].func1", "slices/iter.go"},
		{"the same with trimmed paths", acmeTrimmed, "acme/billing.Run.Collect[...].func1", "slices/iter.go", kindStd, "acme/billing.Run.Collect[...].func1", "slices/iter.go"},
		{"a library's closure inlined into the program", acme, "main.main.Retry[...].func1", mod + "github.com/x/retry@v1.0.0/retry.go", kindOther, "main.main.Retry[...].func1", "x/retry/retry.go"},
		{"our closure inlined into the program", acme, "main.main.(*Dialer).Wrap.func1", mod + "github.com/tcpstate/tcpstate-go@v1.2.3/dialer/dialer.go", kindOwn, "main.main.(*Dialer).Wrap.func1", "tcpstate-go/dialer/dialer.go"},
		{"the program's closure inlined into main", acmeTrimmed, "main.main.F[...].func3", "acme/billing/client.go", kindMain, "main.main.F[...].func3", "billing/client.go"},

		{"our library", acme, selfModule + "/pool/httppool.(*Transport).RoundTrip", mod + "github.com/tcpstate/tcpstate-go@v1.2.3/pool/httppool/transport.go", kindOwn, "pool/httppool.(*Transport).RoundTrip", "pool/httppool/transport.go"},
		{"our library with trimmed paths", acmeTrimmed, selfModule + "/dialer.(*Dialer).DialContext", "github.com/tcpstate/tcpstate-go@v1.2.3/dialer/dialer.go", kindOwn, "tcpstate-go/dialer.(*Dialer).DialContext", "tcpstate-go/dialer/dialer.go"},
		{"our library in its own tests", self, selfModule + "/dialer.(*Dialer).DialContext", "/home/ann/tcpstate-go/dialer/dialer.go", kindOwn, "tcpstate-go/dialer.(*Dialer).DialContext", "dialer/dialer.go"},
		{"our tests", self, selfModule + "/dialer.TestDial", "/home/ann/tcpstate-go/dialer/dialer_test.go", kindMain, "tcpstate-go/dialer.TestDial", "dialer/dialer_test.go"},
		{"our external tests", self, selfModule + "/dialer_test.TestDial", "/home/ann/tcpstate-go/dialer/dialer_test.go", kindMain, "tcpstate-go/dialer_test.TestDial", "dialer/dialer_test.go"},
		{"our example program", selfExample, "main.main", "/home/ann/tcpstate-go/examples/proxy/main.go", kindMain, "main.main", "proxy/main.go"},
		{"a package of our examples", selfExample, selfModule + "/examples/redis.Run", "/home/ann/tcpstate-go/examples/redis/run.go", kindMain, "examples/redis.Run", "redis/run.go"},
		{"our end-to-end tests", self, selfModule + "/e2e.Run", "/home/ann/tcpstate-go/e2e/run.go", kindMain, "tcpstate-go/e2e.Run", "e2e/run.go"},
		{"our benchmarks", self, selfModule + "/bench/server.Run", "/home/ann/tcpstate-go/bench/server/run.go", kindMain, "bench/server.Run", "bench/server/run.go"},

		{"any package without build info", noInfo, "github.com/acme/shop/billing.Charge", "billing/client.go", kindMain, "shop/billing.Charge", "shop/billing/client.go"},
		{"package main without build info", noInfo, "main.main", "cmd/shop/main.go", kindMain, "main.main", "main.go"},
		{"std without build info", noInfo, "net/http.(*Client).do", "GOROOT/src/net/http/client.go", kindStd, "net/http.(*Client).do", "net/http/client.go"},
		{"an instrumentation without build info", noInfo, "go.opentelemetry.io/otel/trace.F", "external/io_opentelemetry_go_otel_trace/trace.go", kindLayer, "otel/trace.F", "otel/trace/trace.go"},
		{"our library without build info", noInfo, selfModule + "/dialer.(*Dialer).DialContext", "external/com_github_tcpstate_tcpstate_go/dialer/dialer.go", kindOwn, "tcpstate-go/dialer.(*Dialer).DialContext", "tcpstate-go/dialer/dialer.go"},
		{"a package without a dot that is not where std is", newBuild(nil, goRuntime, ""), "acme/billing.Charge", "/home/ann/src/billing/client.go", kindMain, "acme/billing.Charge", "acme/billing/client.go"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.build.frame(tt.function, tt.file, 7)
			if f.kind != tt.kind || f.Short != tt.short || f.File != tt.rel {
				t.Errorf("%s in %s:\n got kind %d, short %q, file %q\nwant kind %d, short %q, file %q",
					tt.function, tt.file, f.kind, f.Short, f.File, tt.kind, tt.short, tt.rel)
			}
			if isAbs(f.File) {
				t.Errorf("got an absolute path: %q", f.File)
			}
		})
	}
}

// stackOf makes a stack of the functions named, in the program acme.
func stackOf(functions string) []Frame {
	var out []Frame
	for f := range strings.FieldsSeq(functions) {
		out = append(out, acme.frame(f, "/nowhere/x.go", 1))
	}
	return out
}

func TestOwnerIsTheNearestLineThatCanBeHeldResponsible(t *testing.T) {
	const (
		dial    = selfModule + "/dialer.(*Dialer).DialContext "
		roundT  = selfModule + "/pool/httppool.(*Transport).RoundTrip "
		otel    = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp.(*Transport).RoundTrip "
		httpDo  = "net/http.(*Client).Do "
		server  = "net/http.HandlerFunc.ServeHTTP net/http.(*conn).serve runtime.goexit "
		charge  = "acme/billing.(*Client).Charge "
		pay     = "acme/checkout.(*Handler).Pay "
		sdk     = "github.com/aws/aws-sdk-go-v2/service/s3.(*Client).PutObject "
		router  = "github.com/gorilla/mux.(*Router).ServeHTTP "
		pgx     = "github.com/jackc/pgx/v5/pgconn.Connect "
		puddle  = "github.com/jackc/puddle/v2.(*Pool[...]).initResourceValue.func1 "
		mainFn  = "main.main runtime.main runtime.goexit "
		goexit  = "runtime.goexit "
		reflect = "reflect.Value.call "
	)
	for _, tt := range []struct {
		name  string
		stack string
		hide  []string
		want  string
	}{
		{"the caller of a wrapped client", roundT + httpDo + charge + pay + server, nil, charge + pay},
		{"behind instrumentation", roundT + otel + httpDo + charge + pay + server, nil, charge + pay},
		{"behind an SDK", roundT + httpDo + sdk + charge + server, nil, charge},
		{"before a library that is nearer", dial + pgx + charge + server, nil, charge},
		{"with its callers beyond a library", dial + charge + router + pay + mainFn, nil, charge + pay + "main.main"},
		{"at most three frames", charge + charge + pay + pay + mainFn, nil, charge + charge + pay},
		{"a library calls when nothing of the program is left", dial + charge + router + server, nil, charge + router},
		{"a library in the background", dial + pgx + puddle + goexit, nil, pgx},
		{"a layer in the background", dial + "net.(*Dialer).DialContext " + puddle + goexit, nil, puddle},
		{"std in the background", dial + "net/http.(*Transport).dial net/http.(*Transport).dialConn " + goexit, nil, "net/http.(*Transport).dial"},
		{"std that is only reached by reflection", dial + reflect + "testing.tRunner " + goexit, nil, "testing.tRunner"},
		{"nobody", dial + goexit, nil, ""},
		{"no stack", "", nil, ""},
		{"a hidden function", roundT + charge + pay + server, []string{"acme/billing.(*Client)"}, pay},
		{"a hidden package with a dot", "gopkg.in/yaml%2ev3.Unmarshal " + router + goexit, []string{"gopkg.in/yaml.v3"}, router},
		{"a hidden program", dial + pgx + charge + mainFn, []string{"acme/", "main."}, pgx},
		{"a hidden std package", dial + httpDo + "testing.tRunner " + goexit, []string{"net/http."}, "testing.tRunner"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range owner(stackOf(tt.stack), tt.hide) {
				got = append(got, f.Function)
			}
			if want := strings.Fields(tt.want); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestFrameStringIsThePlaceToOpen(t *testing.T) {
	for _, tt := range []struct {
		f    Frame
		want string
	}{
		{Frame{File: "billing/client.go", Line: 88, Short: "acme/billing.F"}, "billing/client.go:88"},
		{Frame{File: "billing/client.go", Short: "acme/billing.F"}, "billing/client.go"},
		{Frame{Short: "acme/billing.F"}, "acme/billing.F"},
	} {
		if got := tt.f.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestUnescapeLeavesWhatIsNoEscape(t *testing.T) {
	for in, want := range map[string]string{
		"a/b%2ec": "a/b.c", "%2e": ".", "%": "%", "%2": "%2", "%zz": "%zz", "a%25b": "a%b",
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzNoFileShowsWhereItWasBuilt(f *testing.F) {
	f.Add("/home/ann/src/billing/client.go")
	f.Add("C:/x/main.go")
	f.Add(`C:\x\main.go`)
	f.Add("/home/gopher/go/pkg/mod/gopkg.in/yaml.v3@v3.0.1/yaml.go")
	f.Add("/home/gopher/go/pkg/mod/github.com/!azure/go-amqp@v1.0.0/conn.go")
	f.Add("acme/cmd/shop/main.go")
	f.Fuzz(func(t *testing.T, file string) {
		for _, b := range []*build{acme, acmeTrimmed, goRunFile, noInfo, self} {
			for _, function := range []string{"", "main.main", "acme/billing.(*Client).Charge", "net/http.Get", "gopkg.in/yaml%2ev3.F"} {
				fr := b.frame(function, file, 1)
				owner([]Frame{fr, fr}, []string{"x"})
				if strings.HasPrefix(fr.File, "/") || strings.Contains(fr.File, `\`) {
					t.Errorf("%s in %q: got %q", function, file, fr.File)
				}
			}
		}
	})
}
