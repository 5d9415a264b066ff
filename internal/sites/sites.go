// Package sites remembers which code did something to a connection.
//
// A connection is born, borrowed and closed far more often than it is
// reported. So the call stack is taken as bare program counters and interned:
// the hot path keeps four bytes and allocates nothing. Names, files and the
// question of whose code it is wait until a report asks. A stack that was seen
// before is recognised by its frame pointers, and not unwound again.
//
// Interned stacks are never freed. The number of distinct stacks a program can
// produce is a property of its code, not of its load, and a table that only
// grows can be read without a lock; the bound is there for recursion and for
// generated code.
package sites

import (
	"math"
	"runtime"
)

const (
	// maxDepth is how many frames identify a stack. An owner is nearly always
	// within a dozen frames of the call that is recorded; 32 leave room for
	// middleware.
	maxDepth = 32

	// maxDeepDepth applies to stacks whose first maxDepth frames hold nothing
	// of the main module. Some SDKs put a hundred frames of middleware between
	// their caller and the transport.
	maxDeepDepth = 128

	// maxStacks bounds the table at about 12 MB for stacks of 16 frames.
	maxStacks = 1 << 16
)

// ID names an interned stack. The zero ID means no stack. IDs are comparable,
// valid for the life of the process, and mean nothing in another one.
type ID uint32

// Overflow is what the capturing functions return once the table is full. It
// has no frames and no owner.
const Overflow ID = math.MaxUint32

var stacks = newTable(maxStacks)

// Capture interns the stack of its caller. With skip 0 the first frame is the
// function that calls Capture, with skip 1 the caller of that one.
//
// A stack that was seen before costs no allocation and takes no lock.
//
//go:noinline
func Capture(skip int) ID {
	if !canWalk {
		return capture(skip + 1)
	}
	var key [maxWalk]uintptr
	n, whole := walk(&key)
	if !whole {
		return capture(skip + 1)
	}
	h := hashPCs(key[:n])
	s := shortcuts.find(h, key[:n], skip)
	if s != nil && s.id != 0 && !checking {
		return s.id
	}
	id := capture(skip + 1)
	switch {
	case s == nil:
		shortcuts.add(h, key[:n], skip, id)
	case s.id != 0 && s.id != id:
		panic("sites: a shortcut leads to another stack")
	}
	return id
}

var checking bool

// CheckShortcuts is for a TestMain, before anything is captured: every stack is
// then unwound, and Capture panics if that leads to another one.
func CheckShortcuts() { checking = true }

// capture is Capture by the tables of the compiler.
//
//go:noinline
func capture(skip int) ID {
	var pcs [maxDepth]uintptr
	n := runtime.Callers(skip+2, pcs[:])
	if n == 0 {
		return 0
	}
	s := stacks.intern(pcs[:n], nil)
	if s == nil {
		return Overflow
	}
	if s.cut {
		return captureDeep(skip + 1)
	}
	return s.id
}

// captureDeep is a function of its own so that only the stacks that need the
// larger array pay for clearing it.
//
//go:noinline
func captureDeep(skip int) ID {
	var pcs [maxDeepDepth]uintptr
	n := runtime.Callers(skip+2, pcs[:])
	s := stacks.intern(pcs[:n], nil)
	if s == nil {
		return Overflow
	}
	return s.id
}

// FromFrame interns a stack of one frame given in words. It exists for tests
// of code that shows or groups sites. A relative file is taken as it is.
func FromFrame(function, file string, line int) ID {
	s := stacks.internNamed(named{function, file, line})
	if s == nil {
		return Overflow
	}
	return s.id
}

// Dropped counts the captures that got Overflow because the table was full.
func Dropped() uint64 { return stacks.dropped.Load() }

// Frames returns the whole stack, nearest frame first, as far as it was
// captured. The slice is shared and must not be changed.
func (id ID) Frames() []Frame {
	s := stacks.get(id)
	if s == nil {
		return nil
	}
	return s.symbolise()
}

// Owner returns the frames a report shows, at most three: the line whose code
// is responsible for what happened, and its callers. See [owner] for the rule.
// The functions whose full name starts with an element of hide are passed over.
// The slice is shared and must not be changed.
func (id ID) Owner(hide []string) []Frame {
	if v := id.view(hide); v != nil {
		return v.frames
	}
	return nil
}

// OwnerKey identifies the line that Owner shows first. It is the same for all
// stacks with that line, and for the same line in another process, so that
// groups can be compared across restarts. It is 0 when there is no owner.
func (id ID) OwnerKey(hide []string) uint64 {
	if v := id.view(hide); v != nil {
		return v.key
	}
	return 0
}
