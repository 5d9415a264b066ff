package sites_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program is a service in a module of its own, with a package main that is not
// at its root. The library it uses is a copy of this package behind a package
// named like one of ours, so that every way to build has to tell them apart.
var program = map[string]string{
	"lib/go.mod": "module github.com/tcpstate/tcpstate-go\n\ngo 1.26\n",
	"lib/dialer/dialer.go": `// Package dialer stands for the real one.
package dialer

import (
	"fmt"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// Dial has a closure: inlined into a caller, it is named after that one.
func Dial(label string) {
	func() { show(label, sites.Capture(0)) }()
}

// Handle shows where fn is declared.
func Handle(label string, fn any) { show(label, sites.FromFunc(fn)) }

func show(label string, id sites.ID) {
	fmt.Print(label, ":")
	for _, f := range id.Owner(nil) {
		fmt.Print(" ", f.Short, "@", f)
	}
	fmt.Println()
}
`,
	"app/go.mod": `module acme

go 1.26

require github.com/tcpstate/tcpstate-go v0.0.0

replace github.com/tcpstate/tcpstate-go => ../lib
`,
	"app/billing/client.go": `package billing

import (
	"net/http"
	"slices"

	"github.com/tcpstate/tcpstate-go/dialer"
)

type Client struct{ n int }

func (c *Client) Charge() { dialer.Dial("charge") }

func Sorted[T any](xs []T) {
	slices.SortFunc(xs, func(a, b T) int { dialer.Dial("sorted"); return 0 })
}

func (c *Client) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for range r.Header {
		c.Charge()
	}
}
`,
	"app/billing/client_test.go": `package billing_test

import (
	"testing"

	"acme/billing"
)

func TestCharge(t *testing.T) { (&billing.Client{}).Charge() }
`,
	"app/cmd/shop/main.go": `package main

import (
	"acme/billing"

	"github.com/tcpstate/tcpstate-go/dialer"
)

func main() {
	c := &billing.Client{}
	pay(c)
	billing.Sorted([]int{1, 2})
	dialer.Dial("main")
	done := make(chan bool)
	go func() { pay(c); close(done) }()
	<-done
	dialer.Handle("handler", c.ServeHTTP)
}

func pay(c *billing.Client) { c.Charge() }
`,
}

func writeProgram(t *testing.T) (app string) {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range program {
		write(name, text)
	}
	sources, err := filepath.Glob("*.[gs]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write("lib/internal/sites/"+name, string(text))
	}
	return filepath.Join(root, "app")
}

func TestAProgramSeesItsOwnCodeHoweverItIsBuilt(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command: ", err)
	}
	app := writeProgram(t)

	// The main package of files named on the command line has no known place.
	lines := func(main string) string {
		return strings.ReplaceAll(`charge: acme/billing.(*Client).Charge@billing/client.go:12 main.pay@MAIN:20 main.main@MAIN:11
sorted: acme/billing.Sorted[...].func1@billing/client.go:15 acme/billing.Sorted[...]@billing/client.go:15 main.main@MAIN:12
main: main.main@MAIN:13
charge: acme/billing.(*Client).Charge@billing/client.go:12 main.pay@MAIN:20 main.main.func1@MAIN:15
handler: acme/billing.(*Client).ServeHTTP@billing/client.go:18
`, "MAIN", main)
	}
	for _, tt := range []struct {
		name string
		args string
		want string
	}{
		{"go run", "run ./cmd/shop", lines("cmd/shop/main.go")},
		{"go run -trimpath", "run -trimpath ./cmd/shop", lines("cmd/shop/main.go")},
		{"go run without inlining", "run -gcflags=acme/...=-l ./cmd/shop", lines("cmd/shop/main.go")},
		{"go run of a stripped binary", "run -ldflags=-s ./cmd/shop", lines("cmd/shop/main.go")},
		{"go run of a file", "run cmd/shop/main.go", lines("main.go")},
		{"go run -trimpath of a file", "run -trimpath cmd/shop/main.go", lines("main.go")},
		{"go test", "test -v ./billing", "charge: acme/billing.(*Client).Charge@billing/client.go:12 acme/billing_test.TestCharge@billing/client_test.go:9\n"},
		{"go test -trimpath", "test -trimpath -v ./billing", "charge: acme/billing.(*Client).Charge@billing/client.go:12 acme/billing_test.TestCharge@billing/client_test.go:9\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), tool, strings.Fields(tt.args)...)
			cmd.Dir = app
			cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("go %s: %v\n%s", tt.args, err, out)
			}
			if got := shown(string(out)); dedupe(got) != tt.want {
				t.Errorf("go %s:\ngot\n%s\nwant\n%s", tt.args, got, tt.want)
			}
		})
	}
}

// shown keeps the lines the program printed.
func shown(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		label, rest, _ := strings.Cut(line, ":")
		switch label {
		case "charge", "sorted", "main", "handler":
			b.WriteString(label + ":" + rest)
		}
	}
	return b.String()
}

// dedupe drops a line equal to the one before: a sort may compare twice.
func dedupe(s string) string {
	var b strings.Builder
	last := ""
	for line := range strings.Lines(s) {
		if line != last {
			b.WriteString(line)
		}
		last = line
	}
	return b.String()
}
