package sites_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tcpstate/tcpstate-go/internal/sites"
)

// here returns the caller's stack and line.
func here(skip int) (sites.ID, int) {
	_, _, line, _ := runtime.Caller(1)
	return sites.Capture(skip + 1), line
}

func TestCaptureStartsAtTheCaller(t *testing.T) {
	id, line := here(0)
	frames := id.Frames()
	if len(frames) < 3 {
		t.Fatalf("got %d frames, want the test, testing and the runtime: %v", len(frames), frames)
	}
	got, want := frames[0], sites.Frame{
		Function: "github.com/tcpstate/tcpstate-go/internal/sites_test.TestCaptureStartsAtTheCaller",
		File:     "internal/sites/sites_test.go",
		Line:     line,
		Short:    "internal/sites_test.TestCaptureStartsAtTheCaller",
	}
	if got.Function != want.Function || got.File != want.File || got.Line != want.Line || got.Short != want.Short {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := frames[1].Function; got != "testing.tRunner" {
		t.Errorf("got caller %q, want testing.tRunner", got)
	}
}

func TestCaptureSkipsCallers(t *testing.T) {
	inner := func() sites.ID { return sites.Capture(1) }
	id := inner()
	if got, want := id.Frames()[0].Short, "internal/sites_test.TestCaptureSkipsCallers"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := sites.Capture(1000); got != 0 {
		t.Errorf("got ID %d beyond the end of the stack, want 0", got)
	}
}

func TestOneStackHasOneID(t *testing.T) {
	var ids []sites.ID
	for range 3 {
		ids = append(ids, sites.Capture(0))
	}
	other := sites.Capture(0)
	if ids[0] == 0 || ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("one line gave the IDs %v", ids)
	}
	if other == ids[0] {
		t.Errorf("two lines gave one ID")
	}
}

func TestFramesAreComputedOnce(t *testing.T) {
	id := sites.Capture(0)
	a, b := id.Frames(), id.Frames()
	if &a[0] != &b[0] {
		t.Error("the second call made another slice")
	}
	if n := testing.AllocsPerRun(100, func() { id.Frames(); id.Owner(nil); id.OwnerKey(nil) }); n != 0 {
		t.Errorf("got %v allocations for what is known already, want 0", n)
	}
}

func TestIDsThatNameNothingHaveNoFrames(t *testing.T) {
	for _, id := range []sites.ID{0, sites.Overflow, sites.Overflow - 1, 1 << 16, 1<<16 + 1} {
		if f, o, k := id.Frames(), id.Owner(nil), id.OwnerKey(nil); f != nil || o != nil || k != 0 {
			t.Errorf("ID %d: got frames %v, owner %v, key %d", id, f, o, k)
		}
	}
}

func TestCaptureOfAKnownStackDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(1000, func() { sites.Capture(0) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
	var deep float64
	recurse(100, func() { deep = testing.AllocsPerRun(1000, func() { sites.Capture(0) }) })
	if deep != 0 {
		t.Errorf("got %v allocations on a deep stack, want 0", deep)
	}
	h := http.HandlerFunc(http.NotFound)
	if n := testing.AllocsPerRun(1000, func() { sites.FromFunc(h) }); n != 0 {
		t.Errorf("got %v allocations for a func, want 0", n)
	}
}

//go:noinline
func recurse(n int, f func()) {
	if n == 0 {
		f()
		return
	}
	recurse(n-1, f)
}

func TestAStackIsCutAtItsLimit(t *testing.T) {
	var id sites.ID
	recurse(200, func() { id = sites.Capture(0) })
	if got, want := len(id.Frames()), 32; got != want {
		t.Errorf("got %d frames, want %d", got, want)
	}
}

// bottom captures the stack of the encoder that calls it.
type bottom struct{ id *sites.ID }

func (b bottom) MarshalJSON() ([]byte, error) {
	*b.id = sites.Capture(1)
	return []byte("0"), nil
}

func TestAStackIsFollowedUntilItMeetsTheProgram(t *testing.T) {
	encode := func() (id sites.ID) {
		var v any = bottom{&id}
		for range 25 {
			v = []any{v}
		}
		if _, err := json.Marshal(v); err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := encode()
	if got := len(id.Frames()); got <= 32 {
		t.Fatalf("got %d frames, want all of the encoder's", got)
	}
	got := id.Owner(nil)
	if len(got) == 0 || got[0].Short != "internal/sites_test.TestAStackIsFollowedUntilItMeetsTheProgram.func1" {
		t.Errorf("got owner %v, want the caller of the encoder", got)
	}
	if another := encode(); another == id {
		t.Error("two callers of one deep stack have one ID")
	}
}

func TestManyGoroutinesAgreeOnTheIDs(t *testing.T) {
	const workers, lines = 8, 40
	var got [workers][lines]sites.ID
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range lines {
				recurse(i%20, func() {
					if i < 20 {
						got[w][i] = sites.Capture(0)
					} else { // a line of its own
						got[w][i] = sites.Capture(0)
					}
				})
				got[w][i].Owner(nil)
				got[w][i].OwnerKey([]string{"testing."})
				got[w][i].Frames()
			}
		})
	}
	wg.Wait()
	seen := map[sites.ID]bool{}
	for i := range lines {
		for w := range workers {
			if got[w][i] != got[0][i] {
				t.Fatalf("worker %d: got ID %d for stack %d, want %d", w, got[w][i], i, got[0][i])
			}
		}
		if seen[got[0][i]] {
			t.Fatalf("stack %d has the ID of another one", i)
		}
		seen[got[0][i]] = true
	}
}

func TestFromFrameKeepsItsWords(t *testing.T) {
	id := sites.FromFrame("acme/billing.(*Client).Charge", "billing/client.go", 88)
	if again := sites.FromFrame("acme/billing.(*Client).Charge", "billing/client.go", 88); again != id {
		t.Errorf("got ID %d and then %d", id, again)
	}
	if other := sites.FromFrame("acme/billing.(*Client).Charge", "billing/client.go", 89); other == id {
		t.Error("another line has the same ID")
	}
	o := id.Owner(nil)
	if len(o) != 1 || o[0].String() != "billing/client.go:88" || o[0].Short != "acme/billing.(*Client).Charge" {
		t.Errorf("got owner %+v", o)
	}
	abs := sites.FromFrame("github.com/acme/shop/billing.Charge", "/home/ann/shop/billing/client.go", 1)
	if got, want := abs.Frames()[0].File, "shop/billing/client.go"; got != want {
		t.Errorf("got file %q, want %q", got, want)
	}
}

type handler struct{ hits int }

func (h *handler) large(http.ResponseWriter, *http.Request) { // found by a call
	for i := range 100 {
		h.hits += strings.Count(strings.Repeat("x", i), "x") + strings.Count(strings.Repeat("y", i), "y")
		h.hits += strings.Index(strings.Repeat("z", i), "z") + strings.LastIndex(strings.Repeat("u", i), "u")
	}
}

func (h *handler) small(http.ResponseWriter, *http.Request) { h.hits++ } // found inlined

func (h handler) value(http.ResponseWriter, *http.Request) { recurse(h.hits, func() {}) }

// ServeHTTP is small enough to be inlined and calls a method of its own name.
func (h *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.next.ServeHTTP(w, r) }

type middleware struct{ next *inner }

type inner struct{ handler }

func (i *inner) ServeHTTP(w http.ResponseWriter, r *http.Request) { i.large(w, r) }

type outer struct {
	_ int // so that the embedded one is not at offset 0
	*handler
}

type generic[T any] struct{ v T }

func (g *generic[T]) serve(http.ResponseWriter, *http.Request) { recurse(0, func() { _ = g.v }) }

func genericFunc[T any](http.ResponseWriter, *http.Request) { recurse(0, func() { _ = *new(T) }) }

// lineOf returns the first line of this file that holds text.
func lineOf(t *testing.T, text string) int {
	t.Helper()
	b, err := os.ReadFile("sites_test.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if strings.Contains(line, text) {
			return n
		}
	}
	t.Fatalf("no line holds %q", text)
	return 0
}

func TestFromFuncNamesTheDeclaration(t *testing.T) {
	h := &handler{}
	closure := func(http.ResponseWriter, *http.Request) { h.hits++ }
	const p = "internal/sites_test."
	// Elsewhere a method value may have no line, unless the method was inlined.
	wrappers := runtime.GOOS == "linux" && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64")
	for _, tt := range []struct {
		name  string
		fn    any
		short string
		decl  string // on the line it is declared; empty when it has none
	}{
		{"a function", TestFromFuncNamesTheDeclaration, p + "TestFromFuncNamesTheDeclaration", "func TestFromFuncNamesTheDeclaration"},
		{"a closure", closure, p + "TestFromFuncNamesTheDeclaration.func1", "closure := "},
		{"a handler", http.HandlerFunc(closure), p + "TestFromFuncNamesTheDeclaration.func1", "closure := "},
		{"a method expression", (*handler).large, p + "(*handler).large", ") large("},
		{"a method value", h.large, p + "(*handler).large", ") large("},
		{"a small method value", h.small, p + "(*handler).small", ") small("},
		{"a method value of a value", handler{}.value, p + "handler.value", ") value("},
		{"a method value as handler", http.HandlerFunc(h.large), p + "(*handler).large", ") large("},
		{"a promoted method value", (&outer{handler: h}).large, p + "(*handler).large", ") large("},
		{"a method value that calls its like", (&middleware{}).ServeHTTP, p + "(*middleware).ServeHTTP", "*middleware) ServeHTTP("},
		{"a generic method value", (&generic[int]{}).serve, p + "(*generic[...]).serve", ") serve("},
		{"a generic function", genericFunc[string], p + "genericFunc[...]", "func genericFunc"},
		{"the method value of an interface", http.Handler(http.HandlerFunc(closure)).ServeHTTP, "net/http.Handler.ServeHTTP", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := sites.FromFunc(tt.fn)
			frames := id.Frames()
			if len(frames) != 1 {
				t.Fatalf("got frames %v, want one", frames)
			}
			f := frames[0]
			if f.Short != tt.short {
				t.Errorf("got function %q, want %q", f.Short, tt.short)
			}
			switch {
			case tt.decl == "", !wrappers && f.File == "":
				if f.String() != f.Short {
					t.Errorf("got %q without a file, want the function", f)
				}
			default:
				if want := fmt.Sprintf("internal/sites/sites_test.go:%d", lineOf(t, tt.decl)); f.String() != want {
					t.Errorf("got %q, want %q", f, want)
				}
			}
			if again := sites.FromFunc(tt.fn); again != id {
				t.Errorf("got ID %d and then %d", id, again)
			}
		})
	}
}

func TestFromFuncOfSomethingElseIsNoStack(t *testing.T) {
	for _, fn := range []any{nil, 1, "f", (func())(nil), http.HandlerFunc(nil), &handler{}} {
		if got := sites.FromFunc(fn); got != 0 {
			t.Errorf("%T: got ID %d, want 0", fn, got)
		}
	}
}

func TestAFuncIsNotACallFromIt(t *testing.T) {
	f := func() {}
	if sites.FromFunc(f) == sites.Capture(0) {
		t.Error("one ID for a declaration and a stack")
	}
}

func TestOwnerKeyIsTheSameForOneLine(t *testing.T) {
	charge := func() sites.ID { return sites.Capture(0) }
	a := charge()
	b := charge()
	if a == b {
		t.Fatal("two callers gave one stack")
	}
	if a.OwnerKey(nil) == 0 || a.OwnerKey(nil) != b.OwnerKey(nil) {
		t.Errorf("got keys %d and %d for one owner line", a.OwnerKey(nil), b.OwnerKey(nil))
	}
	hide := []string{"github.com/tcpstate/tcpstate-go/internal/sites_test.TestOwnerKeyIsTheSameForOneLine.func1"}
	if a.OwnerKey(hide) == b.OwnerKey(hide) {
		t.Error("with the shared line hidden, two lines have one key")
	}
	const want = 0x3df859604f67a011 // changes only when groups may be renamed
	if got := sites.FromFrame("a/b.F", "b/f.go", 7).OwnerKey(nil); got != want {
		t.Errorf("got key %#x, want %#x", got, uint64(want))
	}
}

func TestOwnerFollowsTheHideListItIsGiven(t *testing.T) {
	id := sites.Capture(0)
	self := "github.com/tcpstate/tcpstate-go/internal/sites_test."
	hide := []string{self}
	if got := id.Owner(hide); len(got) != 1 || got[0].Function != "testing.tRunner" {
		t.Errorf("got %v with the test hidden, want testing.tRunner", got)
	}
	hide[0] = "nothing." // the cached answer must not follow
	if got := id.Owner(hide); len(got) == 0 || !strings.HasPrefix(got[0].Function, self) {
		t.Errorf("got %v with nothing hidden, want the test", got)
	}
	if got := id.Owner([]string{""}); len(got) == 0 || !strings.HasPrefix(got[0].Function, self) {
		t.Errorf("got %v: an empty prefix hides nothing", got)
	}
	if got := id.Owner([]string{self, "testing.", "runtime."}); got != nil {
		t.Errorf("got %v with everything hidden, want nothing", got)
	}
}

func BenchmarkCapture(b *testing.B) {
	for _, bb := range []struct {
		name  string
		depth int
	}{{"8 frames", 8}, {"16 frames", 16}, {"32 frames", 32}} {
		b.Run(bb.name, func(b *testing.B) {
			// testing and the runtime have three frames, this file has three.
			recurse(bb.depth-6, func() {
				if got := len(sites.Capture(0).Frames()); got != bb.depth {
					b.Fatalf("got %d frames, want %d", got, bb.depth)
				}
				b.ReportAllocs()
				for range b.N {
					sites.Capture(0)
				}
			})
		})
	}
}

// BenchmarkCaptureParallel shows that the hit path shares no lock.
func BenchmarkCaptureParallel(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		recurse(10, func() {
			for pb.Next() {
				sites.Capture(0)
			}
		})
	})
}

func BenchmarkFromFunc(b *testing.B) {
	h := http.HandlerFunc((&handler{}).large)
	b.ReportAllocs()
	for b.Loop() {
		sites.FromFunc(h)
	}
}

func BenchmarkOwner(b *testing.B) {
	id := sites.Capture(0)
	hide := []string{"github.com/acme/", "github.com/other/"}
	b.ReportAllocs()
	for b.Loop() {
		id.OwnerKey(hide)
	}
}
