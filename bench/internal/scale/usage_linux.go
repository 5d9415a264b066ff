package scale

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Usage is what a process has used so far, and what it holds.
type Usage struct {
	At         time.Time
	CPU        time.Duration // user and system, by getrusage(2)
	Voluntary  int64         // context switches: how often a thread went to sleep
	Heap       uint64        // bytes after a collection; 0: there was none
	RSS        uint64        // bytes, 0 likewise
	Goroutines int
	Looping    bool // the tracker has a goroutine
	Stats      tcpstate.Stats
}

// usage takes stock. With collect it first collects garbage.
func (h *holder) usage(collect bool) (Usage, error) {
	var u Usage
	if collect {
		// Twice: what the first leaves to finalizers and pools the second takes.
		runtime.GC()
		runtime.GC()
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		u.Heap, u.RSS = m.HeapAlloc, rss()
		u.Goroutines, u.Looping = runtime.NumGoroutine(), h.looping()
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	u.At = time.Now()
	u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	u.Voluntary = r.Nvcsw
	u.Stats = h.tracker.Stats()
	return u, nil
}

// looping reports whether the tracker has a goroutine: without one it cannot
// wake up.
func (h *holder) looping() bool {
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
	return bytes.Contains(b.Bytes(), []byte("tcpstate.(*Tracker).loop+"))
}

// rss returns the resident memory of this process.
func rss() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(f[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}
