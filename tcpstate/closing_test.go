package tcpstate

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/sockdiag"
)

// answers is a diagnoser that says what the test says.
type answers struct {
	socket func(sockdiag.Tuple) (sockdiag.Status, sockdiag.Socket)
	err    error
	asked  int
	closed bool
}

func (a *answers) Lookup(dst []sockdiag.Result, tuples []sockdiag.Tuple) ([]sockdiag.Result, error) {
	for _, t := range tuples {
		a.asked++
		status, s := a.socket(t)
		dst = append(dst, sockdiag.Result{Tuple: t, Status: status, Socket: s})
	}
	return dst, a.err
}

func (a *answers) LookupInfo(dst []sockdiag.Result, info []byte, tuples []sockdiag.Tuple) ([]sockdiag.Result, []byte, error) {
	dst, err := a.Lookup(dst, tuples)
	return dst, info, err
}

func (a *answers) Close() error {
	a.closed = true
	return nil
}

// stuck is a socket whose FIN nobody acknowledges.
var stuck = sockdiag.Socket{State: uint8(FinWait1), Timer: sockdiag.Retransmit, Retrans: 5, SendQueue: 1, Cookie: 77}

// follower is a docket whose closed connections are looked up in answers.
type follower struct {
	*docket
	*answers
	c *closingChore
}

func newFollower(t *testing.T) *follower {
	d := newDocket(t, Config{})
	f := &follower{docket: d, answers: new(answers), c: &d.tr.judge.closing}
	d.tr.seam.orphans = func() (int, error) { return 1, nil }
	d.tr.seam.diag = func() (diagnoser, error) { f.closed = false; return f.answers, nil }
	d.tr.live = 1
	d.tr.running, d.tr.sleep = true, 0 // the docket is the loop
	t.Cleanup(func() {
		d.tr.mu.Lock()
		d.tr.running = false
		d.tr.mu.Unlock()
	})
	f.says(sockdiag.Found, stuck)
	return f
}

func (f *follower) says(status sockdiag.Status, s sockdiag.Socket) {
	f.socket = func(sockdiag.Tuple) (sockdiag.Status, sockdiag.Socket) { return status, s }
}

// closes hands over n connections that have just been closed.
func (f *follower) closes(n int) {
	f.pass(time.Millisecond, func(now int64) {
		for range n {
			e := f.entry("db", line(1))
			e.end = &ending{at: f.clk.Now(), sample: sample{ok: true, state: Established}}
			d, ok := e.departure()
			require.True(f, ok)
			f.tr.mu.Lock()
			f.tr.departLocked(d)
			f.tr.mu.Unlock()
		}
		f.c.take(f.tr, now)
	})
}

// runs lets time pass as the loop does.
func (f *follower) runs(d time.Duration) {
	for end := f.clk.Now().Add(d); f.clk.Now().Before(end); {
		f.pass(250*time.Millisecond, func(now int64) {
			f.c.take(f.tr, now)
			if at := f.c.next(); at != 0 && now >= at {
				f.c.run(f.tr, now)
			}
		})
	}
}

// runsUntil runs as long as it takes: how much is done in a tick depends on the
// machine.
func (f *follower) runsUntil(cond func() bool) {
	f.T.Helper()
	for range 1000 {
		if f.runs(time.Second); cond() {
			return
		}
	}
	require.True(f.T, cond())
}

func (f *follower) kinds() (all []Kind) {
	for _, x := range f.tr.Findings() {
		all = append(all, x.Kind)
	}
	return all
}

func TestAClosedSocketIsFollowedUntilItIsGone(t *testing.T) {
	for name, end := range map[string]func(f *follower){
		"gone":                    func(f *follower) { f.says(sockdiag.Gone, sockdiag.Socket{}) },
		"acknowledged":            func(f *follower) { f.says(sockdiag.Found, sockdiag.Socket{State: uint8(FinWait2), Cookie: 77}) },
		"another one":             func(f *follower) { s := stuck; s.Cookie++; f.says(sockdiag.Found, s) },
		"a descriptor shows it":   func(f *follower) { s := stuck; s.Inode = 5; f.says(sockdiag.Found, s) },
		"nobody's socket waits":   func(f *follower) { f.tr.seam.orphans = func() (int, error) { return 0, nil } },
		"no answers":              func(f *follower) { f.says(sockdiag.Unknown, sockdiag.Socket{}) },
		"the kernel is different": func(f *follower) { f.says(sockdiag.Unknown, sockdiag.Socket{}); f.err = errors.New("lost") },
		"off":                     func(f *follower) { require.NoError(f, f.tr.Set(func(c *Config) { c.Off = true })) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFollower(t)
			f.closes(1)
			f.runs(9 * time.Second)
			require.Empty(t, f.kinds())
			require.Equal(t, 1, f.tr.Stats().Closing)
			f.runs(2 * time.Second)
			require.Equal(t, []Kind{KindClosingFINUnacked}, f.kinds())
			require.Equal(t, 1, f.tr.pins)
			end(f)
			f.runs(25 * time.Second)
			require.Empty(t, f.kinds())
			require.Zero(t, f.tr.Stats().Closing)
			require.Zero(t, f.tr.pins)
			require.True(t, f.closed)
		})
	}
}

// An acknowledged byte starts the clock again.
func TestProgressClearsWhatWasFoundAfterClose(t *testing.T) {
	f := newFollower(t)
	s := stuck
	s.Timer, s.SendQueue = sockdiag.ZeroWindow, 9000
	f.says(sockdiag.Found, s)
	f.closes(1)
	f.runs(35 * time.Second)
	require.Equal(t, []Kind{KindClosingDataUndelivered}, f.kinds())
	s.SendQueue--
	f.says(sockdiag.Found, s)
	f.runs(6 * time.Second)
	require.Empty(t, f.kinds())
	f.runs(31 * time.Second)
	require.Equal(t, []Kind{KindClosingDataUndelivered}, f.kinds())
	s.Timer, s.Retrans = sockdiag.Retransmit, 4 // and now it has died
	f.says(sockdiag.Found, s)
	f.runs(6 * time.Second)
	require.Equal(t, []Kind{KindClosingFINUnacked}, f.kinds())
}

func TestWhatIsFollowedIsBounded(t *testing.T) {
	f := newFollower(t)
	for range 3 {
		f.closes(maxClosing)
	}
	require.Equal(t, uint64(2*maxClosing), f.tr.Stats().Unfollowed)
	f.runsUntil(func() bool { return f.tr.Stats().Closing == maxClosing })
	f.closes(100)
	f.runsUntil(func() bool { return f.tr.Stats().Unfollowed == 2*maxClosing+100 })
	require.Equal(t, maxClosing, f.tr.Stats().Closing)
	f.says(sockdiag.Gone, sockdiag.Socket{})
	f.runsUntil(func() bool { return f.tr.Stats().Closing == 0 })
}

// While nobody's socket waits, closes in any number cost a question at a time.
func TestWithoutOrphansNothingIsLookedUp(t *testing.T) {
	f := newFollower(t)
	f.tr.seam.orphans = func() (int, error) { return 0, nil }
	for range 20 {
		f.closes(wakeClosing)
		f.runs(250 * time.Millisecond)
	}
	require.Zero(t, f.tr.Stats().Unfollowed)
	f.runs(5 * time.Second)
	require.Zero(t, f.asked)
	f.runs(time.Minute)
	require.LessOrEqual(t, f.asked, 5*20*pollsPerRun, "polls of those that were closed first")
	require.Empty(t, f.kinds())
}

func TestWhatIsNotToBeFollowed(t *testing.T) {
	d := newDocket(t, Config{})
	for name, change := range map[string]func(e *entry){
		"an open end":            func(e *entry) { e.forgotten = true },
		"dropped":                func(e *entry) { e.leaked = true },
		"dead":                   func(e *entry) { e.end.sample.state = Closed },
		"aborted":                func(e *entry) { e.flags.Store(flagLingerZero) },
		"closed with bytes left": func(e *entry) { e.end.sample.recvQueue = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			e := d.entry("db", line(1))
			e.end = &ending{sample: sample{ok: true, state: Established}}
			_, ok := e.departure()
			require.True(t, ok)
			change(e)
			_, ok = e.departure()
			require.False(t, ok)
		})
	}
}
