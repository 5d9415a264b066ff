package scale

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tcpstate/tcpstate-go/internal/hangup"
)

// peer is the process with the other ends.
type peer struct {
	conns []*net.TCPConn
	stuck net.Conn
}

func (p *peer) commands() map[string]command {
	return map[string]command{
		"dial": on(p.dial), "hello": on(p.hello), "fin": on(p.fin), "finAll": on(p.finAll), "churn": on(p.churn), "orphan": on(p.orphan),
	}
}

type dialArgs struct {
	Addrs []netip.AddrPort
	N     int // connections, spread over Addrs
}

// ramp is how many dials run at a time.
const ramp = 8

// dial makes the connections and has one exchange on each: its number there, a
// byte back.
func (p *peer) dial(a dialArgs) (none, error) {
	first := len(p.conns)
	p.conns = append(p.conns, make([]*net.TCPConn, a.N)...)
	return none{}, concurrently(ramp, a.N, func(i int) error {
		c, err := dialFrom(a.Addrs[i%len(a.Addrs)])
		if err != nil {
			return err
		}
		p.conns[first+i] = c
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(first+i))); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	})
}

// hello has a second exchange on each.
func (p *peer) hello(none) (none, error) {
	return none{}, concurrently(ramp, len(p.conns), func(i int) error {
		b := make([]byte, 1)
		if _, err := p.conns[i].Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(p.conns[i], b)
		return err
	})
}

// dialFrom dials addr from that address itself. So nobody else's ports on the
// usual loopback address are used up, and the ports here are those of this
// destination. A Close of it sends an RST: nothing stays behind.
func dialFrom(addr netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr.Addr(), 0)),
		KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			cerr := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			})
			return errors.Join(err, cerr)
		},
	}
	c, err := d.Dial("tcp4", addr.String())
	if err != nil {
		return nil, err
	}
	tcp := c.(*net.TCPConn)
	return tcp, tcp.SetLinger(0)
}

type finArgs struct {
	First, N int
	Gap      time.Duration // between two, on average
}

// fin ends the direction of connections here, one after the other, and returns
// when each call began, as hangup.Now says. It sleeps meanwhile: a busy core
// would keep the tracked process from running.
func (p *peer) fin(a finArgs) ([]int64, error) {
	at := make([]int64, a.N)
	for i := range at {
		time.Sleep(a.Gap/2 + rand.N(a.Gap+1))
		at[i] = hangup.Now()
		if err := p.conns[a.First+i].CloseWrite(); err != nil {
			return nil, err
		}
	}
	return at, nil
}

// finAll does the same with as many as there are, as fast as it can.
func (p *peer) finAll(a finArgs) (none, error) {
	for _, c := range p.conns[a.First : a.First+a.N] {
		if err := c.CloseWrite(); err != nil {
			return none{}, err
		}
	}
	return none{}, nil
}

type churnArgs struct {
	Addrs []netip.AddrPort
	Rate  int // connections a second
	For   time.Duration
}

// churn dials connections that are closed at the other end, for some time. It
// returns how many.
func (p *peer) churn(a churnArgs) (int, error) {
	const tick = 5 * time.Millisecond
	work := make(chan int, a.Rate) // what cannot be done in a second is not done
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	done := 0
	for range 2 * ramp {
		wg.Go(func() {
			buf := make([]byte, 1)
			for i := range work {
				c, err := dialFrom(a.Addrs[i%len(a.Addrs)])
				if err == nil {
					_, err = c.Read(buf)
					c.Close()
				}
				mu.Lock()
				if err != io.EOF {
					failed = err
				}
				done++
				mu.Unlock()
			}
		})
	}
	begin, sent := time.Now(), 0
	for since := time.Duration(0); since < a.For; since = time.Since(begin) {
		for due := int(since.Seconds() * float64(a.Rate)); sent < due; sent++ {
			work <- sent
		}
		time.Sleep(tick)
	}
	close(work)
	wg.Wait()
	return done, failed
}

// orphan makes a socket that is closed here and waits for its peer for as long
// as the process runs: there are bytes that nobody reads.
func (p *peer) orphan(none) (none, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return none{}, err
	}
	defer ln.Close()
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		return none{}, err
	}
	if p.stuck, err = ln.Accept(); err != nil { // kept, and never read
		return none{}, err
	}
	if err := c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return none{}, err
	}
	if _, err := c.Write(make([]byte, 32<<20)); err == nil {
		return none{}, fmt.Errorf("all was taken")
	}
	return none{}, c.Close()
}

// concurrently calls f for 0 to n-1, some at a time, and returns an error of
// one that failed.
func concurrently(workers, n int, f func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// together calls all at the same time and returns their errors.
func together(fs ...func() error) error {
	return concurrently(len(fs), len(fs), func(i int) error { return fs[i]() })
}
