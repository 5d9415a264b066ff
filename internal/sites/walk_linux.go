//go:build linux && (amd64 || arm64)

package sites

// canWalk says that walk works.
const canWalk = true

// walk follows the frame pointers, which Go keeps on these processors, and
// fills pcs with return addresses: that of its caller first. It reports whether
// these are all, up to the first function of the goroutine.
//
//go:noescape
func walk(pcs *[maxWalk]uintptr) (n int, whole bool)
