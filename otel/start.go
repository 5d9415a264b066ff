package tcpotel

import (
	"context"
	"errors"
	"runtime/debug"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/metric"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// ScopeName is the name of the instrumentation scope of all that this package
// emits.
const ScopeName = "github.com/tcpstate/tcpstate-go/otel"

// modulePath is the module whose version is that of the scope.
const modulePath = "github.com/tcpstate/tcpstate-go"

// Version returns the version of this module in the running program, such as
// "0.3.0", or "devel" where the build does not tell.
func Version() string { return version() }

var version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == modulePath && strings.HasPrefix(m.Version, "v") {
			return m.Version[1:]
		}
	}
	return "devel"
})

// ErrStarted is returned by Start for a tracker that is reported already.
var ErrStarted = errors.New("tcpotel: the tracker is reported already")

// started holds the trackers between Start and the end of stop.
var started struct {
	mu       sync.Mutex // guards following fields
	trackers map[*tcpstate.Tracker]bool
}

// Start reports a tracker to OpenTelemetry until stop is called. It may be
// called after the first connections: open findings are reported at once, only
// the spans of earlier dials are missing. While it runs, the tracker does not
// log findings itself.
//
// stop tells what has happened so far and detaches everything; it waits until
// that is done or ctx ends, and may be called again, to wait longer. It does
// not flush the providers: shut them down after it. A later Start begins anew
// and counts what is still open again.
//
// On an error, which is ErrStarted or that of a provider that refuses an
// instrument, nothing is reported and stop does nothing; it is never nil.
func Start(opts ...Option) (stop func(context.Context) error, err error) {
	c := newConfig(opts)
	none := func(context.Context) error { return nil }
	if !claim(c.tracker) {
		return none, ErrStarted
	}
	r, err := newReporter(&c)
	if err != nil {
		release(c.tracker)
		return none, err
	}
	r.detach = c.tracker.Observe(r.observer())
	return r.stop, nil
}

func claim(t *tcpstate.Tracker) bool {
	started.mu.Lock()
	defer started.mu.Unlock()
	if started.trackers[t] {
		return false
	}
	if started.trackers == nil {
		started.trackers = make(map[*tcpstate.Tracker]bool)
	}
	started.trackers[t] = true
	return true
}

func release(t *tcpstate.Tracker) {
	started.mu.Lock()
	defer started.mu.Unlock()
	delete(started.trackers, t)
}

// ending is the stop of a reporter.
type ending struct {
	detach       func()
	registration metric.Registration
	once         sync.Once
	done         chan struct{} // closed when everything is detached
	err          error         // set before done is closed
}

func (r *reporter) stop(ctx context.Context) error {
	r.once.Do(func() { go r.end() })
	select {
	case <-r.done:
		return r.err
	default:
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end detaches everything. It waits for the observer, so it runs on a goroutine
// that stop can leave behind.
func (r *reporter) end() {
	defer close(r.done)
	defer release(r.tracker)
	r.detach()
	r.countEvents(r.tracker.FindingCounts())
	r.err = r.registration.Unregister()
}
