package tcptest_test

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Verbs that break the network or the kernel, and that wait for it.

func faultVerbs() map[string]*verb {
	return map[string]*verb{
		"deafen":    {"X: loses every segment that arrives for X: a black hole for its peer", 1, 1, "", "", (*run).deafen},
		"dropfin":   {"X: X loses FINs", 1, 1, "", "", filter(tcptest.DropFIN)},
		"dropdata":  {"X: X loses segments with data", 1, 1, "", "", filter(tcptest.DropData)},
		"droplarge": {"X N: X loses segments of more than N bytes", 2, 2, "", "", (*run).dropLarge},
		"onlysyn":   {"L: L loses everything but SYNs", 1, 1, "", "", filter(tcptest.OnlySYN)},
		"heal":      {"X: ends deafen, dropfin, dropdata and onlysyn", 1, 1, "", "", (*run).heal},
		"fill":      {"C: writes until the window of the peer is closed", 1, 1, "", "", (*run).fill},
		"timers":    {"C: keepalive and user timeout of the kernel, in its own time", 1, 1, "idle= interval= count= user=", "", (*run).timers},
		"keepalive": {"C on|off", 2, 2, "", "", (*run).keepalive},
		"finwait":   {"C SECONDS: of the kernel's time that C spends in FIN-WAIT-2 after close", 2, 2, "", "", (*run).finWait},
		"until":     {"X FACT: waits for the kernel; FACT is a state as close-wait, gone, fin (the tracker knows of it), or retrans|backoff|probes|unacked|queue|recvq|sendq with >= or = and a number", 2, 2, "", "", (*run).untilFact},
		"sleep":     {"D: lets the kernel's time pass, and the tracker's in pace", 1, 1, "", "", (*run).sleep},
	}
}

func (r *run) deafen(st *statement) error {
	return filter(tcptest.Deafen)(r, st)
}

func filter(f func(testing.TB, syscall.Conn) func()) func(*run, *statement) error {
	return func(r *run, st *statement) error {
		x, err := r.socket(st.args[0])
		if err != nil {
			return err
		}
		r.heals[st.args[0]] = f(r, x)
		return nil
	}
}

func (r *run) dropLarge(st *statement) error {
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	return filter(func(t testing.TB, c syscall.Conn) func() { return tcptest.DropLarge(t, c, n) })(r, st)
}

func (r *run) heal(st *statement) error {
	heal := r.heals[st.args[0]]
	if heal == nil {
		return fmt.Errorf("%q is well", st.args[0])
	}
	heal()
	return nil
}

func (r *run) fill(st *statement) error {
	c, err := r.tcp(st.args[0])
	if err != nil {
		return err
	}
	tcptest.FillWindow(r, c)
	return nil
}

func (r *run) timers(st *statement) error {
	c, err := r.tcp(st.args[0])
	if err != nil {
		return err
	}
	var timers tcptest.Timers
	for name, d := range map[string]*time.Duration{"idle": &timers.Idle, "interval": &timers.Interval, "user": &timers.UserTimeout} {
		if text := st.opts[name]; text != "" {
			if *d, err = time.ParseDuration(text); err != nil {
				return err
			}
		}
	}
	if text := st.opts["count"]; text != "" {
		if timers.Count, err = r.number(text); err != nil {
			return err
		}
	}
	tcptest.SetTimers(r, c, timers)
	return nil
}

func (r *run) keepalive(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	return c.(interface{ SetKeepAlive(bool) error }).SetKeepAlive(st.args[1] == "on")
}

func (r *run) finWait(st *statement) error {
	c, err := r.tcp(st.args[0])
	if err != nil {
		return err
	}
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	tcptest.SetFinWait(r, c, time.Duration(n)*time.Second)
	return nil
}

func (r *run) sleep(st *statement) error {
	d, err := time.ParseDuration(st.args[0])
	if err != nil {
		return err
	}
	return r.pass(d * pace)
}

var counter = regexp.MustCompile(`^([a-z]+)(>=|=)(\d+)$`)

func (r *run) untilFact(st *statement) error {
	name, fact := st.args[0], st.args[1]
	switch fact {
	case "gone":
		return r.until(name+" to be closed", func() (bool, error) {
			if c := r.conns[name]; c != nil {
				return !r.tr.Of(c).Open(), nil
			}
			return r.tr.Stats().Open == 0, nil
		})
	case "fin":
		w, err := r.watch(name)
		if err != nil {
			return err
		}
		return r.until("the tracker to see the FIN", func() (bool, error) {
			r.clk.Settle()
			return !w.Snapshot().PeerClosed.IsZero(), nil
		})
	}
	if m := counter.FindStringSubmatch(fact); m != nil {
		want, err := strconv.Atoi(m[3])
		if err != nil {
			return err
		}
		return r.until(fact, func() (bool, error) {
			got, err := r.count(name, m[1])
			return got == want || m[2] == ">=" && got >= want, err
		})
	}
	return r.until(fact, func() (bool, error) {
		state, err := r.state(name)
		return strings.EqualFold(state, fact), err
	})
}

// state returns the state of a connection, or of what the kernel has left of a
// closed one.
func (r *run) state(name string) (string, error) {
	if r.conns[name] == nil && r.dials[name] == nil && r.listeners[name] == nil {
		a, ok := r.addrs[name]
		if !ok {
			return "", fmt.Errorf("there is no connection %q", name)
		}
		return tcptest.StateName(tcptest.TableState(r, a[0], a[1])), nil
	}
	i, err := r.info(name)
	if errors.Is(err, net.ErrClosed) {
		return "ABSENT", nil
	}
	return i.State.String(), err
}

func (r *run) info(name string) (tcpstate.Info, error) {
	x, err := r.socket(name)
	if err != nil {
		return tcpstate.Info{}, err
	}
	return tcpstate.ReadInfo(x)
}

// count returns what the kernel counts of a connection or listener.
func (r *run) count(name, what string) (int, error) {
	switch what {
	case "recvq", "sendq":
		c, err := r.tcp(name)
		if err != nil {
			return 0, err
		}
		in, out := tcptest.Queues(r, c)
		if what == "recvq" {
			return in, nil
		}
		return out, nil
	}
	i, err := r.info(name)
	switch what {
	case "retrans":
		return int(i.Retransmits), err
	case "backoff":
		return int(i.Backoff), err
	case "probes":
		return int(i.Probes), err
	case "unacked", "queue":
		return int(i.Unacked), err
	}
	return 0, fmt.Errorf("nobody counts %q", what)
}
