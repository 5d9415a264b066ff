package harness

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Row is what the table of clients says of one of them. It stands in row.json
// in the client's directory. The recipe must be a line of the code there.
type Row struct {
	Client   string          `json:"client"`   // "go-redis"
	Module   string          `json:"module"`   // its import path
	Recipe   string          `json:"recipe"`   // the line that hands tcpstate to the client
	Wrap     string          `json:"wrap"`     // "wrap" or "NoWrap", and why
	Names    string          `json:"names"`    // what a finding names
	Leaks    []tcpstate.Kind `json:"leaks"`    // planted, and found by Rig.Finds
	Liveness string          `json:"liveness"` // what of the client's own checks was shown to work, see Kept; empty: it has none
}

var proven struct {
	sync.Mutex
	leaks []tcpstate.Kind
	kept  bool
}

// skipped is set when a test was skipped for want of a server.
var skipped atomic.Bool

func shown(k tcpstate.Kind) {
	proven.Lock()
	defer proven.Unlock()
	proven.leaks = append(proven.leaks, k)
}

// Kept says that the calling test has shown the client's own liveness check,
// which the row claims, to work through tcpstate.
func Kept(t testing.TB) {
	t.Helper()
	if t.Failed() {
		return
	}
	proven.Lock()
	defer proven.Unlock()
	proven.kept = true
}

// Main is the body of a client's TestMain:
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
// It fails when row.json claims what no test has shown, unless only some of
// the tests ran.
func Main(m *testing.M) {
	code := m.Run()
	if err := removeTemplates(); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		code = 1
	}
	if partial := flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.list").Value.String() != "" ||
		flag.Lookup("test.skip").Value.String() != ""; code == 0 && !partial {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, "harness:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func check() error {
	b, err := os.ReadFile("row.json")
	if err != nil {
		return err
	}
	var row Row
	if err := json.Unmarshal(b, &row); err != nil {
		return err
	}
	proven.Lock()
	defer proven.Unlock()
	if skipped.Load() {
		return nil // its reason was printed
	}
	for _, k := range row.Leaks {
		if !slices.Contains(proven.leaks, k) {
			return fmt.Errorf("row.json claims %s, which no test has found", k)
		}
	}
	for _, k := range proven.leaks {
		if !slices.Contains(row.Leaks, k) {
			return fmt.Errorf("a test has found %s, which row.json does not list", k)
		}
	}
	if (row.Liveness != "") != proven.kept {
		return fmt.Errorf("row.json says of liveness %q; a test has called Kept: %v", row.Liveness, proven.kept)
	}
	return nil
}
