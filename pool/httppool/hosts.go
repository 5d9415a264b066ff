package httppool

import (
	"maps"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// maxHosts bounds the hosts that are told apart. The rest shares one.
const maxHosts = 256

// hosts are those that a Transport has made requests to. A request looks its
// own up, so the map is copied when it grows.
type hosts struct {
	first atomic.Pointer[host] // most clients have one
	all   atomic.Pointer[map[hostKey]*host]
	mu    sync.Mutex // held by those who add
	rest  *host      // of all beyond maxHosts; guarded by mu
}

type hostKey struct{ scheme, name string }

// host counts the requests to one scheme and host. Those that share a proxy are
// told apart although their connections may not be.
type host struct {
	key    hostKey
	part   *tcpstate.Pool // of the Transport's; nil: the tracker is off, or keep-alive
	put    func(error)    // for httptrace.ClientTrace.PutIdleConn
	kept   int            // connections that may lie idle
	shared bool           // by several hosts: what is known of it is true of none

	requests, reused, stale atomic.Uint64
	waits, waitNanos        atomic.Uint64
	surplus, cut            atomic.Uint64
	waiting                 atomic.Int64

	mu           sync.Mutex // guards following fields
	target       string     // as dialed; empty: not known yet
	toldSurplus  uint64
	toldRequests uint64
	toldReused   uint64
}

// of returns the host that requests to u belong to.
func (hs *hosts) of(t *Transport, u *url.URL) *host {
	var key hostKey
	if u != nil {
		key = hostKey{u.Scheme, u.Host}
	}
	if h := hs.first.Load(); h != nil && h.key == key {
		return h
	}
	if all := hs.all.Load(); all != nil {
		if h := (*all)[key]; h != nil {
			return h
		}
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	var all map[hostKey]*host
	if p := hs.all.Load(); p != nil {
		all = *p
	}
	switch h := all[key]; {
	case h != nil:
		return h
	case len(all) >= maxHosts:
		if hs.rest == nil {
			hs.rest = newHost(t)
			hs.rest.shared = true
		}
		return hs.rest
	}
	h, grown := newHost(t), maps.Clone(all)
	if grown == nil {
		grown = make(map[hostKey]*host)
	}
	h.key = key
	grown[key] = h
	hs.all.Store(&grown)
	hs.first.CompareAndSwap(nil, h)
	return h
}

func newHost(t *Transport) *host {
	h := &host{part: t.watch.Part(), kept: t.inner.MaxIdleConnsPerHost}
	if h.kept == 0 {
		h.kept = http.DefaultMaxIdleConnsPerHost
	}
	h.put = h.putIdle
	return h
}

// each calls f with every host.
func (hs *hosts) each(f func(*host)) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if all := hs.all.Load(); all != nil {
		for _, h := range *all {
			f(h)
		}
	}
	if hs.rest != nil {
		f(hs.rest)
	}
}

// tooManyIdle is the text of the error that PutIdleConn gets when a connection
// is closed because enough to its host lie idle. The error is not exported.
const tooManyIdle = "http: putIdleConn: too many idle connections for host"

// putIdle is called when an exchange is over and its connection could be used
// again, or could if there was room for it.
func (h *host) putIdle(err error) {
	if err == nil || h.part == nil || err.Error() != tooManyIdle {
		return
	}
	h.surplus.Add(1)
	if h.shared {
		return
	}
	h.mu.Lock()
	closed, requests, reused := h.surplus.Load(), h.requests.Load(), h.reused.Load()
	s := tcpstate.Surplus{
		Target: h.target, Setting: "MaxIdleConnsPerHost", Kept: h.kept,
		Closed: closed - h.toldSurplus, Uses: requests - h.toldRequests,
	}
	s.Dialed = s.Uses - min(s.Uses, reused-h.toldReused)
	h.toldSurplus, h.toldRequests, h.toldReused = closed, requests, reused
	h.mu.Unlock()
	h.part.Surplus(s)
}

// served notes that a request has got a connection, after it had waited if it
// was a new one or one that another request had to return.
func (h *host) served(reused bool, waited time.Duration) {
	h.requests.Add(1)
	if waited > 0 {
		h.waits.Add(1)
		h.waitNanos.Add(uint64(waited))
	}
	if reused {
		h.reused.Add(1)
	}
}

// reached notes where a new connection goes.
func (h *host) reached(w *tcpstate.Watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.target == "" {
		h.target = w.Target()
	}
}
