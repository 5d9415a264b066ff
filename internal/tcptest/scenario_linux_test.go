package tcptest_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

var (
	seedFlag   = flag.Uint64("seed", seedFromEnv(), "of the scenarios' sizes, delays and orders; also TCPSTATE_SEED")
	updateFlag = flag.Bool("update", false, "write the list of verbs into README.md")
	seedsFlag  = flag.Int("seeds", 1, "how many seeds the scenarios run with, from -seed on")
)

func seedFromEnv() uint64 {
	n, err := strconv.ParseUint(os.Getenv("TCPSTATE_SEED"), 10, 64)
	if err != nil {
		return 1
	}
	return n
}

// everythingOn switches on what is off by default. It sets nothing else: every
// script runs with the default thresholds.
func everythingOn(c *tcpstate.Config) {
	th := reflect.ValueOf(&c.Thresholds).Elem()
	for field, d := range offByDefault {
		if f := th.FieldByName(field); f.IsValid() && f.Type() == reflect.TypeFor[time.Duration]() {
			f.SetInt(int64(d))
		}
	}
}

// offByDefault names fields of tcpstate.Thresholds whose zero value is off.
var offByDefault = map[string]time.Duration{
	"NoResponse": 30 * time.Second,
	"Held":       30 * time.Second,
}

// classes is how many classes of failures there are, C01 and so on.
const classes = 40

// elsewhere are the failures that need more than one host, or a host of their
// own: they are tried in network namespaces by the examples module. Where a
// class has a script too, that shows what one end can see of it.
var elsewhere = []struct {
	class string
	kind  tcpstate.Kind
	why   string
}{
	{"C15", "dial.no_answer", "a host that is gone"},
	{"C16", "dial.tuple_stuck", "conntrack"},
	{"C17", noFinding, "a lost SYN of SNAT"},
	{"C19", "dial.ports", "a port range of its own"},
	{"C20", "listener.syn_recv", "an asymmetric path"},
	{"C25", "peer.unresponsive", "MTU"},
	{"C28", "peer.unresponsive", "conntrack"},
	{"C39", "reset.unexplained", "conntrack"},
	{"article", "path.local_address_gone", "an address to take away"},
	{"article", "fds.pressure", "a process of its own"},
}

// verbs is the vocabulary of scripts. It is filled by init because its
// functions use it.
var verbs = make(map[string]*verb)

func init() {
	for _, v := range vocabularies() {
		maps.Copy(verbs, v.verbs)
	}
}

// vocabularies is the vocabulary by subject.
func vocabularies() []struct {
	title string
	verbs map[string]*verb
} {
	return []struct {
		title string
		verbs map[string]*verb
	}{
		{"time and findings", expectVerbs()},
		{"connections", connVerbs()},
		{"bytes", ioVerbs()},
		{"faults", faultVerbs()},
		{"HTTP", httpVerbs()},
		{"declarations, pools, tunnels, TLS", useVerbs()},
		{"names", dnsVerbs()},
	}
}

func TestScenario(t *testing.T) {
	scripts, err := loadScripts(scriptDir())
	if err != nil {
		t.Fatal(err)
	}
	tab := newTable(scripts)
	t.Cleanup(func() { t.Log("\n" + tab.String()) })
	for seed := *seedFlag; seed < *seedFlag+uint64(*seedsFlag); seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			for _, s := range scripts {
				t.Run(s.name(), func(t *testing.T) {
					t.Parallel()
					defer func() {
						if t.Skipped() {
							tab.skipped(s)
						} else if t.Failed() {
							tab.failed(s)
						}
					}()
					if testing.Short() && s.threshold() > time.Minute {
						t.Skip("it takes half a minute")
					}
					got, err := runScript(t, s, seed)
					tab.ran(s, got)
					if err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
				})
			}
		})
	}
}

// table is what came of all scripts.
type table struct {
	mu   sync.Mutex // guards rows
	rows []*row     // one for each script
}

// row is one script, over all seeds.
type row struct {
	s       *script
	runs    int
	fails   int
	skip    bool
	verdict time.Duration // the longest
	took    time.Duration
	given   []tcpstate.Kind
}

func newTable(scripts []*script) *table {
	tab := new(table)
	for _, s := range scripts {
		tab.rows = append(tab.rows, &row{s: s})
	}
	return tab
}

func (t *table) row(s *script) *row {
	return t.rows[slices.IndexFunc(t.rows, func(r *row) bool { return r.s == s })]
}

func (t *table) ran(s *script, got result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.row(s)
	r.runs++
	r.verdict, r.took = max(r.verdict, got.verdict), max(r.took, got.took)
	for _, k := range got.seen {
		if !slices.Contains(r.given, k) {
			r.given = append(r.given, k)
		}
	}
}

func (t *table) failed(s *script) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.row(s).fails++
}

func (t *table) skipped(s *script) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.row(s).skip = true
}

// status says what became of the script.
func (r *row) status() string {
	switch {
	case r.fails > 0:
		return fmt.Sprintf("FAILED %d of %d", r.fails, max(r.runs, r.fails))
	case r.skip:
		return "skipped"
	case r.runs == 0:
		return "not run"
	case r.s.twin:
		return "silent"
	}
	return "ok"
}

// String shows a line for each case, with its twins in the last column, and
// what is tried elsewhere.
func (t *table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	line := func(class, name string, expected tcpstate.Kind, given, verdict, took, status string) {
		fmt.Fprintf(&b, "%-7s %-38s %-38s %-45s %8s %6s  %s\n", class, name, expected, given, verdict, took, status)
	}
	line("class", "script", "expected", "given", "verdict", "took", "")
	byClass := make(map[string][]*row)
	for _, r := range t.rows {
		byClass[r.s.class] = append(byClass[r.s.class], r)
	}
	for _, e := range elsewhere {
		if byClass[e.class] == nil {
			byClass[e.class] = []*row{}
		}
	}
	count := make(map[string]int)
	cases, twins, mixtures := make(map[string]int), make(map[string]int), make(map[string]int)
	for _, class := range slices.Sorted(maps.Keys(byClass)) {
		rows := byClass[class]
		slices.SortStableFunc(rows, func(a, b *row) int {
			return cmp.Compare(btoi(a.s.twin), btoi(b.s.twin))
		})
		var states []string
		for _, r := range rows {
			expected, verdict := r.s.kind, ""
			switch {
			case r.s.twin:
				expected = "- not " + expected
				twins[sum(r.status())]++
			case class == mixture:
				expected += " + " + r.s.also
				mixtures[sum(r.status())]++
			default:
				cases[sum(r.status())]++
				if r.runs > 0 && r.s.kind != noFinding {
					verdict = r.verdict.Round(100 * time.Millisecond).String()
				}
			}
			var given []string
			for _, k := range r.given {
				given = append(given, string(k))
			}
			took := ""
			if r.runs > 0 {
				took = r.took.Round(100 * time.Millisecond).String()
			}
			line(class, r.s.name(), expected, strings.Join(given, " "), verdict, took, r.status())
			states = append(states, sum(r.status()))
		}
		for _, e := range elsewhere {
			if e.class == class {
				line(class, "(netlab: "+e.why+")", e.kind, "", "", "", "netns")
			}
		}
		if strings.HasPrefix(class, "C") {
			count[classStatus(states)]++
		}
	}
	fmt.Fprintf(&b, "\nclasses: %d of %d pass%s\n", count["pass"], classes, others(count, "pass"))
	fmt.Fprintf(&b, "cases:   %d pass%s\n", cases["ok"], others(cases, "ok"))
	fmt.Fprintf(&b, "twins:   %d silent%s\n", twins["silent"], others(twins, "silent"))
	fmt.Fprintf(&b, "mixtures: %d of %d%s\n", mixtures["ok"], len(byClass[mixture]), others(mixtures, "ok"))
	return b.String()
}

// classStatus sums up a class: it passes when all that can be tried here does.
func classStatus(states []string) string {
	has := func(prefix string) bool {
		return slices.ContainsFunc(states, func(s string) bool { return strings.HasPrefix(s, prefix) })
	}
	switch {
	case has("FAILED"):
		return "FAILED"
	case has("ok") && !has("skipped") && !has("not run"):
		return "pass"
	case has("skipped"):
		return "skipped"
	case has("not run"):
		return "not run"
	}
	return "netns"
}

// sum is a status without its details.
func sum(status string) string {
	if strings.HasPrefix(status, "FAILED") {
		return "FAILED"
	}
	return status
}

func others(count map[string]int, without string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(count)) {
		if k != without {
			fmt.Fprintf(&b, ", %d %s", count[k], k)
		}
	}
	return b.String()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
