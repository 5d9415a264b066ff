//go:build linux && (amd64 || arm64)

package sites

import (
	"iter"
	"reflect"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// visit captures at one place, twice: the second time there is a shortcut, and
// it is held against what it stands for.
func visit(t *testing.T) ID {
	t.Helper()
	checking = true
	defer func() { checking = false }()
	var ids [2]ID
	for i := range ids {
		ids[i] = Capture(0)
	}
	if ids[0] == 0 || ids[0] != ids[1] {
		t.Errorf("got %d and %d of the same stack", ids[0], ids[1])
	}
	return ids[0]
}

func hasShortcut(id ID) bool { return id != 0 && countShortcuts(id) > 0 }

func countShortcuts(id ID) (n int) {
	for i := range shortcuts.buckets {
		for s := shortcuts.buckets[i].Load(); s != nil; s = s.next {
			if s.id == id {
				n++
			}
		}
	}
	return n
}

// The functions that stacks are made of.

func inlined(t *testing.T) ID { return visit(t) }

func generic[T any](t *testing.T, _ T) ID { return visit(t) }

type caller struct{ t *testing.T }

func (c caller) byValue() ID    { return visit(c.t) }
func (c *caller) byPointer() ID { return visit(c.t) }

type embedding struct{ *caller }

func sequence(t *testing.T) iter.Seq[ID] {
	return func(yield func(ID) bool) { yield(visit(t)) }
}

//go:noinline
func grow(t *testing.T, n int) ID {
	var room [1 << 10]byte
	if n == 0 {
		return visit(t)
	}
	id := grow(t, n-1)
	runtime.KeepAlive(&room)
	return id
}

func TestShortcutsLeadWhereTheTablesLead(t *testing.T) {
	shapes := map[string]func(t *testing.T) ID{
		"call":    visit,
		"inlined": inlined,
		"inlined twice": func(t *testing.T) ID {
			return func() ID { return inlined(t) }()
		},
		"generic":            func(t *testing.T) ID { return generic(t, 1) },
		"generic of another": func(t *testing.T) ID { return generic(t, "") },
		"method":             func(t *testing.T) ID { return caller{t}.byValue() },
		"method value":       func(t *testing.T) ID { f := (&caller{t}).byPointer; return f() },
		"promoted method": func(t *testing.T) ID {
			var i interface{ byValue() ID } = embedding{&caller{t}} // by a wrapper that runtime.Callers leaves out
			return i.byValue()
		},
		"defer": func(t *testing.T) (id ID) {
			defer func() { id = visit(t) }()
			return 0
		},
		"panic": func(t *testing.T) (id ID) {
			defer func() {
				id = visit(t)
				_ = recover()
			}()
			panic("expected")
		},
		"recovered": func(t *testing.T) ID {
			func() {
				defer func() { _ = recover() }()
				panic("expected")
			}()
			return visit(t)
		},
		"reflection": func(t *testing.T) ID {
			return reflect.ValueOf(visit).Call([]reflect.Value{reflect.ValueOf(t)})[0].Interface().(ID)
		},
		"made function": func(t *testing.T) ID {
			made := reflect.MakeFunc(reflect.TypeFor[func() ID](), func([]reflect.Value) []reflect.Value {
				return []reflect.Value{reflect.ValueOf(visit(t))}
			})
			return made.Interface().(func() ID)()
		},
		"reflected method": func(t *testing.T) ID {
			return reflect.ValueOf(&caller{t}).MethodByName("ByReflection").Interface().(func() ID)()
		},
		"iterator": func(t *testing.T) (id ID) {
			for id = range sequence(t) {
			}
			return id
		},
		"range over function": func(t *testing.T) (id ID) {
			for range sequence(t) {
				id = visit(t)
			}
			return id
		},
		"pulled iterator": func(t *testing.T) ID {
			next, stop := iter.Pull(sequence(t))
			defer stop()
			id, _ := next()
			return id
		},
		"callback of the library": func(t *testing.T) (id ID) {
			sort.Slice([]int{2, 1}, func(i, j int) bool {
				id = visit(t)
				return i < j
			})
			return id
		},
		"goroutine": func(t *testing.T) (id ID) {
			var wg sync.WaitGroup
			wg.Go(func() { id = visit(t) })
			wg.Wait()
			return id
		},
		"timer": func(t *testing.T) ID {
			c := make(chan ID)
			time.AfterFunc(0, func() { c <- visit(t) })
			return <-c
		},
		"grown stack":     func(t *testing.T) ID { return grow(t, 40) },
		"once":            func(t *testing.T) ID { return sync.OnceValue(func() ID { return visit(t) })() },
		"select and send": func(t *testing.T) ID { c := make(chan ID, 1); c <- visit(t); return <-c },
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				if id := shape(t); !hasShortcut(id) {
					t.Errorf("no shortcut to %v", id.Frames())
				}
			}
		})
	}
	t.Run("bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if id := visit(t); !hasShortcut(id) {
				t.Errorf("no shortcut to %v", id.Frames())
			}
		})
	})
	t.Run("cleanup", func(t *testing.T) {
		c := make(chan ID, 1)
		runtime.AddCleanup(new([64]byte), func(c chan ID) { c <- visit(t) }, c)
		for {
			runtime.GC()
			select {
			case id := <-c:
				if !hasShortcut(id) {
					t.Errorf("no shortcut to %v", id.Frames())
				}
				return
			case <-time.After(time.Second):
				t.Fatal("no cleanup after a second")
			}
		}
	})
}

// ByReflection is found by its name.
func (c *caller) ByReflection() ID { return visit(c.t) }

func TestSkippedFramesArePartOfTheKey(t *testing.T) {
	checking = true
	defer func() { checking = false }()
	for range 2 {
		for skip := range 3 {
			id := Capture(skip)
			if got, want := len(id.Frames()), 3-skip; got != want { // the test, testing and the runtime
				t.Errorf("skipped %d: got %d frames, want %d", skip, got, want)
			}
		}
	}
}

func TestADeepStackHasNoShortcut(t *testing.T) {
	before := shortcuts.used.Load()
	grow(t, maxWalk)
	if n := shortcuts.used.Load() - before; n != 0 {
		t.Errorf("got %d: the frames that a walk does not reach are not known", n)
	}
	if id := grow(t, maxWalk-10); !hasShortcut(id) {
		t.Error("no shortcut to a stack that can be walked to its end")
	}
}

type node struct{ next *node }

// below has no frame: it is stopped by a signal where its caller's is.
//
//go:noinline
func below(n *node) *node { return n.next }

// A function without a frame of its own that is stopped by a signal leaves no
// trace of the line that called it.
func TestAStackThatASignalStoppedHasNoShortcut(t *testing.T) {
	checking = true
	defer func() { checking = false }()
	stop := func(first bool) (id ID) {
		defer func() {
			_ = recover()
		}()
		defer func() {
			for range 2 {
				id = Capture(0)
			}
		}()
		if first {
			below(nil)
		} else {
			below(nil)
		}
		return 0
	}
	one, two := stop(true), stop(false)
	if one == two {
		t.Error("got the same stack for two lines")
	}
	for _, id := range []ID{one, two} {
		if !slices.ContainsFunc(id.Frames(), func(f Frame) bool { return strings.HasSuffix(f.Function, ".below") }) {
			t.Errorf("got %v, want one in below", id.Frames())
		}
		if hasShortcut(id) {
			t.Errorf("there is a shortcut to %v", id.Frames())
		}
	}
}

func TestAShortcutThatLeadsAstrayIsNoticed(t *testing.T) {
	var astray bool
	for i := range 2 {
		func() {
			defer func() { astray = recover() != nil }()
			checking = i == 1
			defer func() { checking = false }()
			id := Capture(0)
			for j := range shortcuts.buckets {
				for s := shortcuts.buckets[j].Load(); s != nil; s = s.next {
					if s.id == id {
						s.id++
						t.Cleanup(func() { s.id = id })
					}
				}
			}
		}()
	}
	if !astray {
		t.Error("Capture returned a wrong stack and did not notice while it was checked")
	}
}

func TestShortcutsAreBounded(t *testing.T) {
	var tab shortcutTable
	id := Capture(0)
	for i := range 2 * maxShortcuts {
		tab.add(uint64(i), []uintptr{uintptr(i)}, 0, id)
	}
	if got := tab.used.Load(); got != maxShortcuts {
		t.Errorf("got %d, want %d", got, maxShortcuts)
	}
	if n := testing.AllocsPerRun(10, func() { tab.add(1<<40, []uintptr{1}, 0, id) }); n != 0 {
		t.Errorf("got %v allocations for a stack that finds no room", n)
	}
	if s := tab.find(7, []uintptr{7}, 0); s == nil || s.id != id {
		t.Errorf("got %v, want a shortcut to %d", s, id)
	}
	if s := tab.find(7, []uintptr{7}, 1); s != nil {
		t.Errorf("got %v for another number of frames to skip", s)
	}
	if s := tab.find(7, []uintptr{8}, 0); s != nil {
		t.Errorf("got %v for another stack of the same hash", s)
	}
}

func TestManyGoroutinesMakeOneShortcut(t *testing.T) {
	var wg sync.WaitGroup
	ids := make([]ID, 8)
	for i := range ids {
		wg.Go(func() {
			for range 100 {
				ids[i] = Capture(0)
			}
		})
	}
	wg.Wait()
	if got := slices.Compact(slices.Clone(ids)); len(got) != 1 || countShortcuts(got[0]) != 1 {
		t.Errorf("got %v with %d shortcuts, want one of one", got, countShortcuts(ids[0]))
	}
}
