package sites

import "testing"

func TestAFullTableAnswersOverflowAndCounts(t *testing.T) {
	known := func() ID { return Capture(0) }
	var ids [2]ID
	for i := range ids {
		ids[i] = known() // the loop makes both one stack
	}

	limit, dropped := stacks.limit, Dropped()
	stacks.limit = stacks.used.Load()
	t.Cleanup(func() { stacks.limit = limit })

	for i, got := range []ID{Capture(0), FromFunc(func() {}), FromFrame("a.F", "full.go", 1)} {
		if got != Overflow {
			t.Errorf("capture %d: got ID %d, want Overflow", i, got)
		}
	}
	if got := Dropped() - dropped; got != 3 {
		t.Errorf("got %d dropped, want 3", got)
	}
	var again ID
	for range 2 {
		again = Capture(0)
	}
	if again != Overflow {
		t.Errorf("got ID %d, want Overflow each time", again)
	}
	if len(ids[0].Frames()) == 0 || ids[0] != ids[1] {
		t.Error("a full table forgot what it knew")
	}

	stacks.limit = limit
	if got := Capture(0); got == Overflow || got == 0 {
		t.Errorf("got ID %d with room again", got)
	}
}

func TestATableHoldsEveryStackUpToItsLimit(t *testing.T) {
	tab := newTable(maxStacks)
	pcs := make([]uintptr, 3)
	at := func(i int) []uintptr {
		pcs[0], pcs[1], pcs[2] = uintptr(0x400000+16*i), 0x500000, 0x600000
		return pcs
	}
	longest := 0
	for i := range maxStacks {
		if s := tab.intern(at(i), nil); s == nil || s.id != ID(i+1) {
			t.Fatalf("stack %d: got %+v", i, s)
		}
	}
	if tab.intern(at(maxStacks), nil) != nil {
		t.Error("the table took one more than its limit")
	}
	for i := range maxStacks {
		s := tab.intern(at(i), nil)
		if s == nil || s.id != ID(i+1) || tab.get(s.id) != s {
			t.Fatalf("stack %d is not found again", i)
		}
	}
	for i := range tab.buckets {
		n := 0
		for s := tab.buckets[i].Load(); s != nil; s = s.next {
			n++
		}
		longest = max(longest, n)
	}
	if longest > 20 {
		t.Errorf("got a chain of %d stacks, want about 4: the hash is poor", longest)
	}
}

func TestStacksWithOneHashStayApart(t *testing.T) {
	tab := newTable(10)
	a := tab.intern([]uintptr{1, 2}, nil)
	b := &stack{hash: a.hash, pcs: []uintptr{2, 1}}
	tab.addLocked(&tab.buckets[a.hash%uint64(len(tab.buckets))], b)
	if got := tab.intern([]uintptr{1, 2}, nil); got != a {
		t.Errorf("got %+v, want the stack with these counters", got)
	}
}

func TestCollidingSplitsOfANameDiffer(t *testing.T) {
	if fnvFrame("ab", "c", 1) == fnvFrame("a", "bc", 1) {
		t.Error("function and file run together")
	}
	if fnvFrame("a", "b", 1) == fnvFrame("a", "b", 256) {
		t.Error("lines collide")
	}
}
