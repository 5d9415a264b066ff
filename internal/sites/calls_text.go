//go:build linux && !android && (amd64 || arm64)

package sites

import (
	"encoding/binary"
	"iter"
	"runtime"
	"unsafe"
)

// calls yields the targets of the direct calls in size bytes of code.
//
// It is the only way from a method value to its method: the runtime has no
// lookup by name. On amd64 it tries every offset instead of decoding, so the
// caller must check what it gets. Text is readable on Linux; other systems may
// map it execute-only.
func calls(code unsafe.Pointer, size int) iter.Seq[uintptr] {
	return func(yield func(uintptr) bool) {
		if size <= 0 {
			return
		}
		text := unsafe.Slice((*byte)(code), size)
		switch runtime.GOARCH {
		case "amd64": // CALL rel32, relative to the next instruction
			for i := 0; i+5 <= size; i++ {
				if text[i] != 0xe8 {
					continue
				}
				rel := int32(binary.LittleEndian.Uint32(text[i+1:]))
				if !yield(uintptr(code) + uintptr(i+5) + uintptr(rel)) {
					return
				}
			}
		case "arm64": // BL imm26, in words, relative to itself
			for i := 0; i+4 <= size; i += 4 {
				op := binary.LittleEndian.Uint32(text[i:])
				if op>>26 != 0b100101 {
					continue
				}
				rel := int32(op<<6) >> 4
				if !yield(uintptr(code) + uintptr(i) + uintptr(rel)) {
					return
				}
			}
		}
	}
}
