package row

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"unicode"
)

// Raw writes measurements in the format of Go's benchmarks, so that
//
//	benchstat -col /variant file
//
// shows the columns, with confidence intervals. A nil Raw writes nothing. Its
// methods may be called concurrently.
type Raw struct {
	mu  sync.Mutex // guards following fields
	w   io.Writer
	err error
}

// NewRaw writes to w, beginning with what machine this is.
func NewRaw(w io.Writer, cpu string) *Raw {
	r := &Raw{w: w}
	r.printf("goos: %s\ngoarch: %s\npkg: github.com/tcpstate/tcpstate-go/bench\n", runtime.GOOS, runtime.GOARCH)
	if cpu != "" {
		r.printf("cpu: %s\n", cpu)
	}
	return r
}

// A Value is a figure and its unit as in Go's benchmarks: "ns/op".
type Value struct {
	V    float64
	Unit string
}

// Batch writes one batch of n operations of a row's column.
func (r *Raw) Batch(row, column string, n int, values ...Value) {
	if r == nil {
		return
	}
	var line strings.Builder
	fmt.Fprintf(&line, "Benchmark%s/variant=%s-%d\t%d", camel(row), strings.ReplaceAll(strings.TrimPrefix(column, "+"), " ", "_"), runtime.GOMAXPROCS(0), n)
	for _, v := range values {
		fmt.Fprintf(&line, "\t%.6g %s", v.V, v.Unit)
	}
	r.printf("%s\n", line.String())
}

// Err returns the first error of writing.
func (r *Raw) Err() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Raw) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.w, format, args...)
	}
}

// camel makes a benchmark's name of a row's: "dial+close" is DialClose.
func camel(name string) string {
	var b strings.Builder
	up := true
	for _, c := range name {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			up = true
			continue
		}
		if up {
			c = unicode.ToUpper(c)
		}
		b.WriteRune(c)
		up = false
	}
	return b.String()
}
