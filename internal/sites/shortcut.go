package sites

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// runtime.Callers unwinds with the compiler's tables, which takes a microsecond
// of a busy program. Frame pointers take some nanoseconds, but show calls as the
// processor made them: inlined ones are missing. So they serve as a key only:
// what runtime.Callers said of a stack is what it will say again of one with the
// same return addresses all the way down.

const (
	// maxWalk is how many frames a key may have. A stack that is deeper has none,
	// as nothing is known of those below.
	maxWalk = 64

	// maxShortcuts bounds the keys at 4 MB for stacks of 32 frames.
	maxShortcuts = 1 << 14
)

// shortcut leads from a key to the stack.
type shortcut struct {
	next *shortcut // in the same bucket; immutable
	hash uint64
	pcs  []uintptr
	skip int
	id   ID // 0: to be asked for each time
}

// shortcutTable is read without a lock, as table is.
type shortcutTable struct {
	buckets [1 << 12]atomic.Pointer[shortcut]
	used    atomic.Uint32

	mu sync.Mutex // held to store
}

var shortcuts shortcutTable

// find returns the shortcut of a key, or nil.
func (t *shortcutTable) find(h uint64, pcs []uintptr, skip int) *shortcut {
	for s := t.buckets[h%uint64(len(t.buckets))].Load(); s != nil; s = s.next {
		if s.hash == h && s.skip == skip && slices.Equal(s.pcs, pcs) {
			return s
		}
	}
	return nil
}

// add makes a shortcut to id, if there is room.
func (t *shortcutTable) add(h uint64, pcs []uintptr, skip int, id ID) {
	if t.used.Load() >= maxShortcuts {
		return // without the work below, which every capture of such a stack would pay for
	}
	own := append([]uintptr(nil), pcs...) // see table.intern
	if !distinct(id) {
		id = 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	used := t.used.Load()
	if used >= maxShortcuts || t.find(h, own, skip) != nil {
		return
	}
	t.used.Store(used + 1)
	bucket := &t.buckets[h%uint64(len(t.buckets))]
	bucket.Store(&shortcut{next: bucket.Load(), hash: h, pcs: own, skip: skip, id: id})
}

// distinct reports whether the frame pointers tell the stack of id from all
// others. They do not where a function that needs no frame of its own was
// stopped by a signal: the call of it has left no trace that they lead to.
func distinct(id ID) bool {
	s := stacks.get(id)
	if s == nil {
		return false
	}
	frames := runtime.CallersFrames(s.pcs) // not symbolise, which keeps what it finds
	for {
		f, more := frames.Next()
		if f.Function == "runtime.sigpanic" {
			return false
		}
		if !more {
			return true
		}
	}
}
