package tcpstate

import (
	"cmp"
	"iter"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"github.com/tcpstate/tcpstate-go/internal/tcpinfo"
)

// ListenerSnapshot is one listener at one moment.
type ListenerSnapshot struct {
	Name string // Origin.Name
	Addr net.Addr
	// Queue is how many connections are established and wait for Accept, and
	// Limit how many may: when the queue is longer, the kernel drops
	// handshakes. TCP_INFO of a listening socket gives them as tcpi_unacked and
	// tcpi_sacked (net/ipv4/tcp.c, tcp_get_info).
	Queue, Limit int
}

// listenerTable is the listeners of a tracker. Its zero value is empty.
type listenerTable struct {
	mu sync.Mutex // guards m
	m  map[*listening]struct{}
}

// listening is one listener. Like an entry it holds the RawConn, which does not
// point back to the listener.
type listening struct {
	name string
	addr net.Addr
	raw  syscall.RawConn
	tab  *listenerTable
}

// AddListener makes the accept queue of ln visible in Listeners, until remove is
// called or ln is closed or dropped. Package listener calls it. A listener that
// is not TCP is ignored.
func (t *Tracker) AddListener(ln net.Listener, o Origin) (remove func()) {
	tl, ok := ln.(*net.TCPListener)
	if !ok || tl == nil {
		return func() {}
	}
	raw, err := tl.SyscallConn()
	if err != nil {
		return func() {}
	}
	l := &listening{name: o.Name, addr: tl.Addr(), raw: raw, tab: &t.listeners}
	l.tab.mu.Lock()
	if l.tab.m == nil {
		l.tab.m = make(map[*listening]struct{})
	}
	l.tab.m[l] = struct{}{}
	l.tab.mu.Unlock()
	cleanup := runtime.AddCleanup(tl, (*listening).remove, l)
	return func() {
		cleanup.Stop()
		l.remove()
	}
}

func (l *listening) remove() {
	l.tab.mu.Lock()
	defer l.tab.mu.Unlock()
	delete(l.tab.m, l)
}

// Listeners returns the open listeners by name and address, each read from the
// kernel, which takes one system call. Where the kernel does not tell (other
// systems than Linux), Queue and Limit are 0.
func (t *Tracker) Listeners() iter.Seq[ListenerSnapshot] {
	return func(yield func(ListenerSnapshot) bool) {
		t.init()
		for _, l := range t.listeners.sorted() {
			s := ListenerSnapshot{Name: l.name, Addr: l.addr}
			var buf [tcpinfo.MaxSize]byte
			err := l.raw.Control(func(fd uintptr) {
				if n, err := t.seam.info(fd, buf[:]); err == nil {
					info := decodeInfo(buf[:n])
					s.Queue, s.Limit = int(info.Unacked), int(info.Sacked)
				}
			})
			if err != nil {
				l.remove() // closed behind our back
				continue
			}
			if !yield(s) {
				return
			}
		}
	}
}

func (tab *listenerTable) sorted() []*listening {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	all := make([]*listening, 0, len(tab.m))
	for l := range tab.m {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *listening) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.addr.String(), b.addr.String()))
	})
	return all
}
