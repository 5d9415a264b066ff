package tcpstate_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// nameserver answers questions for any name with the same addresses.
type nameserver struct {
	conn    net.PacketConn
	answers []netip.Addr

	mu    sync.Mutex
	held  bool
	asked []func() // answers that are held back
}

func newNameserver(t *testing.T, answers ...string) *nameserver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ns := &nameserver{conn: conn}
	for _, a := range answers {
		ns.answers = append(ns.answers, netip.MustParseAddr(a))
	}
	var wg sync.WaitGroup
	wg.Go(ns.serve)
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return ns
}

// resolver returns one that asks ns only.
func (ns *nameserver) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", ns.conn.LocalAddr().String())
	}}
}

// hold keeps ns from answering until release.
func (ns *nameserver) hold() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.held = true
}

func (ns *nameserver) release() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.held = false
	for _, answer := range ns.asked {
		answer()
	}
	ns.asked = nil
}

// waiting returns the number of questions that are held.
func (ns *nameserver) waiting() int {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return len(ns.asked)
}

func (ns *nameserver) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := ns.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		reply := ns.reply(append([]byte(nil), buf[:n]...))
		answer := func() { _, _ = ns.conn.WriteTo(reply, from) }
		ns.mu.Lock()
		if ns.held {
			ns.asked = append(ns.asked, answer)
		} else {
			answer()
		}
		ns.mu.Unlock()
	}
}

// reply answers a question (RFC 1035, section 4).
func (ns *nameserver) reply(q []byte) []byte {
	end := 12
	for q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5 // the root, type and class
	kind := binary.BigEndian.Uint16(q[end-4:])
	r := append([]byte(nil), q[:end]...)
	r[2], r[3] = 0x81, 0x80 // a response, recursion available, no error
	n := 0
	for _, a := range ns.answers {
		if kind == 1 && !a.Is4() || kind == 28 && !a.Is6() || kind != 1 && kind != 28 {
			continue
		}
		ip := a.AsSlice()
		r = append(r, 0xc0, 12) // the name of the question
		r = binary.BigEndian.AppendUint16(r, kind)
		r = append(r, 0, 1, 0, 0, 0, 60, 0, byte(len(ip)))
		r = append(r, ip...)
		n++
	}
	for i := 6; i < 12; i++ {
		r[i] = 0
	}
	r[7] = byte(n)
	return r
}
