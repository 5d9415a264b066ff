package sites

import (
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// table interns stacks.
//
// Readers take no lock: a stack is complete before it is published, it is
// published by one atomic store, and it never moves or goes away. Writers hold
// mu, look again, and put the new stack in front of its chain.
type table struct {
	buckets [1 << 14]atomic.Pointer[stack] // by hash; at most 4 stacks a chain when full
	chunks  [maxStacks / chunkSize]atomic.Pointer[chunk]
	dropped atomic.Uint64

	mu    sync.Mutex // held to store in buckets, chunks and used
	used  atomic.Uint32
	limit uint32 // at most maxStacks; immutable outside tests
}

const chunkSize = 256

// chunk finds stacks by ID. Chunks keep an empty table small.
type chunk [chunkSize]atomic.Pointer[stack]

// stack is one interned stack. It is what it is because of pcs and code, or
// because of named.
type stack struct {
	next *stack // in the same bucket; immutable
	hash uint64
	id   ID

	// cut means that pcs names too many callers to be interned as it is: it
	// fills the array of Capture and shows nobody to hold responsible.
	cut bool

	pcs   []uintptr
	code  unsafe.Pointer // the func value's code, when FromFunc made this stack
	named named

	frames atomic.Pointer[[]Frame]
	owner  atomic.Pointer[view]
}

// named is a frame that came in words instead of as a program counter.
type named struct {
	function, file string
	line           int
}

func newTable(limit uint32) *table { return &table{limit: limit} }

// intern returns the stack of pcs, or nil when the table is full. It keeps a
// copy of pcs, never pcs itself: the caller's array stays on its stack.
func (t *table) intern(pcs []uintptr, code unsafe.Pointer) *stack {
	h := hashPCs(pcs)
	if code != nil {
		h = ^h // a func value is not a call from its first instruction
	}
	bucket := &t.buckets[h%uint64(len(t.buckets))]
	if s := find(bucket.Load(), h, pcs, code); s != nil {
		return s
	}

	if t.full() {
		return nil
	}
	// A new variable for the copy, and not slices.Clone, whose result may share
	// memory with its argument: either would let pcs escape, and every capture
	// would allocate.
	own := append([]uintptr(nil), pcs...)
	cut := code == nil && len(own) == maxDepth && ownerless(own)

	t.mu.Lock()
	defer t.mu.Unlock()
	if s := find(bucket.Load(), h, own, code); s != nil {
		return s
	}
	if t.full() {
		return nil
	}
	s := &stack{hash: h, cut: cut, pcs: own, code: code}
	t.addLocked(bucket, s)
	return s
}

func find(s *stack, h uint64, pcs []uintptr, code unsafe.Pointer) *stack {
	for ; s != nil; s = s.next {
		if s.hash == h && s.code == code && slices.Equal(s.pcs, pcs) {
			return s
		}
	}
	return nil
}

// internNamed is for tests, so it always takes the lock.
func (t *table) internNamed(f named) *stack {
	h := fnvFrame(f.function, f.file, f.line)
	bucket := &t.buckets[h%uint64(len(t.buckets))]
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := bucket.Load(); s != nil; s = s.next {
		if s.hash == h && s.pcs == nil && s.named == f {
			return s
		}
	}
	if t.full() {
		return nil
	}
	s := &stack{hash: h, named: f}
	t.addLocked(bucket, s)
	return s
}

// full counts the refusal. A caller that finds room must ask again under mu.
func (t *table) full() bool {
	if t.used.Load() < t.limit {
		return false
	}
	t.dropped.Add(1)
	return true
}

func (t *table) addLocked(bucket *atomic.Pointer[stack], s *stack) {
	used := t.used.Load()
	slot := &t.chunks[used/chunkSize]
	if slot.Load() == nil {
		slot.Store(new(chunk))
	}
	s.id = ID(used + 1)
	s.next = bucket.Load()
	slot.Load()[used%chunkSize].Store(s)
	t.used.Store(used + 1)
	bucket.Store(s)
}

// get returns the stack of id, or nil for the zero ID, Overflow and any number
// that was never handed out.
func (t *table) get(id ID) *stack {
	i := int64(id) - 1
	if i < 0 || i >= maxStacks {
		return nil
	}
	c := t.chunks[i/chunkSize].Load()
	if c == nil {
		return nil
	}
	return c[i%chunkSize].Load()
}

// symbolise returns the frames of s. Two goroutines may do the work at the same
// time; the first result wins, so that every caller sees the same slice.
func (s *stack) symbolise() []Frame {
	if f := s.frames.Load(); f != nil {
		return *f
	}
	b := thisBuild()
	var frames []Frame
	switch {
	case s.code != nil:
		frames = []Frame{funcFrame(b, s.code)}
	case s.pcs != nil:
		frames = framesOf(b, s.pcs)
	default:
		frames = []Frame{b.namedFrame(s.named)}
	}
	if s.frames.CompareAndSwap(nil, &frames) {
		return frames
	}
	return *s.frames.Load()
}

func framesOf(b *build, pcs []uintptr) []Frame {
	out := make([]Frame, 0, len(pcs))
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if f.Function != "" || f.File != "" {
			out = append(out, b.frame(f.Function, f.File, f.Line))
		}
		if !more {
			return slices.Clip(out)
		}
	}
}

// ownerless reports whether no frame of pcs belongs to the main module.
func ownerless(pcs []uintptr) bool {
	return !slices.ContainsFunc(framesOf(thisBuild(), pcs), func(f Frame) bool { return f.kind == kindMain })
}

// hashPCs mixes whole words: the counters differ in their low bits, and the
// final multiplication carries those into the bits that choose the bucket.
func hashPCs(pcs []uintptr) uint64 {
	const k0, k1 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93
	h := uint64(len(pcs)) * k1
	for _, pc := range pcs {
		hi, lo := bits.Mul64(h^uint64(pc), k0)
		h = hi ^ lo
	}
	return h
}

// fnvFrame is FNV-1a: OwnerKey promises the same value in every process, which
// hash/maphash does not give.
func fnvFrame(function, file string, line int) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for _, s := range [...]string{function, file} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
		h = (h ^ 0xff) * prime // no UTF-8 text holds this byte: "ab","c" is not "a","bc"
	}
	for n := uint64(line); n != 0; n >>= 8 {
		h = (h ^ n&0xff) * prime
	}
	return h
}
