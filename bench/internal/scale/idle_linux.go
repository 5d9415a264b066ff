package scale

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Idle is what a tracker of idle connections does by itself.
type Idle struct {
	Conns   int
	Windows []IdleWindow
	Ticks   Ticks // of the tracked process, in the first window

	Heap, RSS Drift // of the tracked process
	Took      time.Duration

	// Of a process whose tracker had connections and has none now.
	EmptyLooping bool
	EmptySlept   int // context switches in the first window: how often its threads went to sleep
}

// IdleWindow is what the processes used in some time. Of each two figures the
// second is that of a process with as many connections and no tracker.
type IdleWindow struct {
	CPU, PlainCPU     float64 // share of a core
	Slept, PlainSlept float64 // context switches a second
}

// Drift is a figure at the beginning and at the end.
type Drift struct{ Begin, End uint64 }

// Ticks are the times for which a process ran without sleeping.
type Ticks struct {
	Count   int
	For     time.Duration // of observation
	Longest time.Duration // on one thread, in CPU time
	Total   time.Duration
}

// idler is a process that observes idle ones, so that the program that measures
// other things meanwhile has nothing to do with it.
type idler struct {
	tracked, plain, empty *crowd
	result                Idle
	done                  chan error
	cancel                func()
}

func (d *idler) commands() map[string]command {
	return map[string]command{"begin": on(d.begin), "end": on(d.end)}
}

type idleArgs struct {
	Conns          int
	Settle, Window time.Duration
	Windows        int
}

// begin makes the connections and begins to observe.
func (d *idler) begin(a idleArgs) (none, error) {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	err := together(
		func() (err error) { d.tracked, err = newCrowd(ctx, a.Conns, true); return err },
		func() (err error) { d.plain, err = newCrowd(ctx, a.Conns, false); return err },
		func() (err error) {
			if d.empty, err = newCrowd(ctx, 10, true); err == nil {
				err = tell(d.empty.holder, "close", none{})
			}
			return err
		},
	)
	if err != nil {
		return none{}, errors.Join(err, d.stop())
	}
	d.result.Conns = a.Conns
	d.done = make(chan error, 1)
	go func() { d.done <- d.observe(a) }()
	return none{}, nil
}

// end waits until everything was observed.
func (d *idler) end(none) (Idle, error) {
	return d.result, errors.Join(<-d.done, d.stop())
}

func (d *idler) stop() error {
	for _, c := range []*crowd{d.tracked, d.plain, d.empty} {
		if c != nil {
			c.stop()
		}
	}
	d.cancel()
	return nil
}

// observe looks at the processes for some time.
func (d *idler) observe(a idleArgs) error {
	time.Sleep(a.Settle) // the first sweep finds everything new
	all := []*crowd{d.tracked, d.plain, d.empty}
	look := func(collect bool) (us [3]Usage, err error) {
		for i, c := range all {
			if c == d.empty && !collect {
				break // nobody disturbs it
			}
			if us[i], err = c.usage(collect); err != nil {
				return us, err
			}
		}
		return us, nil
	}
	first, err := look(true)
	if err != nil {
		return err
	}
	time.Sleep(a.Settle / 4) // what the collection has left to do in the background
	var sampling sync.WaitGroup
	var ticks Ticks
	var tickErr error
	before, err := look(false)
	if err != nil {
		return err
	}
	time.Sleep(10 * tickLook) // the question is no tick
	sampling.Go(func() { ticks, tickErr = watchTicks(d.tracked.holder.cmd.Process.Pid, a.Window-20*tickLook) })
	slept := switches(d.empty.holder.cmd.Process.Pid)
	for i := range a.Windows {
		time.Sleep(a.Window)
		if sampling.Wait(); i == 0 {
			d.result.EmptySlept = switches(d.empty.holder.cmd.Process.Pid) - slept
		}
		now, err := look(false)
		if err != nil {
			return err
		}
		w := IdleWindow{}
		w.CPU, w.Slept = rates(before[0], now[0])
		w.PlainCPU, w.PlainSlept = rates(before[1], now[1])
		d.result.Windows = append(d.result.Windows, w)
		before = now
	}
	d.result.Ticks = ticks
	last, err := look(true)
	if err != nil {
		return err
	}
	d.result.Heap = Drift{first[0].Heap, last[0].Heap}
	d.result.RSS = Drift{first[0].RSS, last[0].RSS}
	d.result.Took = last[0].At.Sub(first[0].At)
	d.result.EmptyLooping = last[2].Looping
	return tickErr
}

// rates returns the share of a core, and the context switches a second.
func rates(from, to Usage) (cpu, slept float64) {
	d := to.At.Sub(from.At).Seconds()
	return (to.CPU - from.CPU).Seconds() / d, float64(to.Voluntary-from.Voluntary) / d
}

// switches returns how often the threads of a process have gone to sleep.
func switches(pid int) (n int) {
	names, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/status")
	for _, name := range names {
		b, _ := os.ReadFile(name)
		_, after, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
		line, _, _ := strings.Cut(after, "\n")
		one, _ := strconv.Atoi(strings.TrimSpace(line))
		n += one
	}
	return n
}

// tickLook separates two looks at the threads of a process. Ticks of the tracker
// are further apart than that.
const tickLook = 10 * time.Millisecond

// watchTicks looks from outside at how long the threads of a process run: the
// kernel counts the nanoseconds of each. A thread that has run since the last
// look, and not since the one before, has woken up.
func watchTicks(pid int, d time.Duration) (t Ticks, err error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	threads := make(map[string]*threadTime)
	defer func() {
		for _, th := range threads {
			th.stat.Close()
		}
	}()
	buf := make([]byte, 64)
	begin := time.Now()
	awake := true // what is seen first has begun before
	for looks := 0; time.Since(begin) < d; looks++ {
		if looks%100 == 0 {
			names, err := filepath.Glob(dir + "/*")
			if err != nil {
				return t, err
			}
			for _, name := range names {
				if threads[name] == nil {
					f, err := os.Open(name + "/schedstat")
					if err != nil {
						continue // it has ended
					}
					threads[name] = &threadTime{stat: f, ran: -1}
				}
			}
		}
		ran := false
		for _, th := range threads {
			n, err := th.stat.ReadAt(buf, 0)
			if n == 0 {
				if err != nil && !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "no such process") {
					return t, err
				}
				continue
			}
			cpu, _, _ := strings.Cut(string(buf[:n]), " ")
			ns, err := strconv.ParseInt(cpu, 10, 64)
			if err != nil {
				return t, err
			}
			now := time.Duration(ns)
			if th.ran >= 0 && now > th.ran {
				th.tick += now - th.ran
				t.Total += now - th.ran
				t.Longest = max(t.Longest, th.tick)
				ran = true
			} else {
				th.tick = 0
			}
			th.ran = now
		}
		if ran && !awake {
			t.Count++
		}
		awake = ran
		time.Sleep(tickLook)
	}
	t.For = time.Since(begin)
	return t, nil
}

// threadTime is what is known of a thread.
type threadTime struct {
	stat *os.File
	ran  time.Duration // ever; negative: not known yet
	tick time.Duration // since it last slept
}
