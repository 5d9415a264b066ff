package sites

import (
	"strconv"
	"strings"
)

// Frame is one line of code on a stack.
type Frame struct {
	// Function is the full name as the runtime gives it, with the mark of a
	// method value ("-fm") removed.
	Function string

	// File is relative to the module, as a reader of its repository would
	// write it: "billing/client.go". For other modules it is the end of the
	// import path, for the standard library the whole of it. It is empty when
	// the compiler wrote the function.
	File string

	Line int

	// Short is Function with at most the last two elements of its package
	// path: "acme/billing.(*Client).Charge".
	Short string

	pkg  string // import path, or "main"
	kind kind
}

// String returns the place, "billing/client.go:88", or the function when the
// place is not known.
func (f Frame) String() string {
	switch {
	case f.File == "":
		return f.Short
	case f.Line <= 0:
		return f.File
	}
	return f.File + ":" + strconv.Itoa(f.Line)
}

// IsStd reports whether f is of the standard library. An owner is that only for
// want of a better one.
func (f Frame) IsStd() bool { return f.kind == kindStd }

// splitFunction separates the package path from the name within the package.
// The linker escapes the dots in the last path element, so the first dot after
// the last slash ends the path; type arguments may hold slashes of their own
// and come after it.
func splitFunction(function string) (pkg, name string) {
	end := strings.IndexAny(function, "[(")
	if end < 0 {
		end = len(function)
	}
	slash := strings.LastIndexByte(function[:end], '/')
	dot := strings.IndexByte(function[slash+1:], '.')
	if dot < 0 {
		return "", function
	}
	dot += slash + 1
	return unvendor(unescape(function[:dot])), function[dot+1:]
}

// unvendor removes the directory part of a vendored import path. A leading
// "vendor/" stays: that is the standard library's own.
func unvendor(pkg string) string {
	if i := strings.LastIndex(pkg, "/vendor/"); i >= 0 {
		return pkg[i+len("/vendor/"):]
	}
	return pkg
}

// unescape undoes the %xx escapes of cmd/internal/objabi.PathToPrefix.
func unescape(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c, err := strconv.ParseUint(path[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// short joins a name to the end of its package path.
func short(pkg, name string) string {
	if pkg == "" {
		return name
	}
	return lastElems(pkg, 2) + "." + name
}

// lastElems returns the last n elements of a slash-separated path.
func lastElems(path string, n int) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			if n--; n == 0 {
				return path[i+1:]
			}
		}
	}
	return path
}
