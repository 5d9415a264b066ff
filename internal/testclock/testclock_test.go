package testclock

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// loop does what a tracker's loop does with its clock.
type loop struct {
	clk   *Clock
	every time.Duration // how soon it wants to pass again
	wake  chan struct{}
	stop  chan struct{}
	wg    sync.WaitGroup

	mu    sync.Mutex
	times []time.Time // of the passes
}

func start(clk *Clock) *loop { return startEvery(clk, time.Hour) }

func startEvery(clk *Clock, d time.Duration) *loop {
	l := &loop{clk: clk, every: d, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	clk.Starting()
	l.wg.Go(l.run)
	return l
}

func (l *loop) run() {
	l.clk.Started(func() {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	})
	defer l.clk.Ended()
	for {
		l.mu.Lock()
		l.times = append(l.times, l.clk.Now())
		l.mu.Unlock()
		l.clk.Passed(l.every)
		select {
		case <-l.wake:
		case <-l.stop:
			return
		}
	}
}

func (l *loop) passes() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]time.Time(nil), l.times...)
}

func TestAClockBelongsToOneTracker(t *testing.T) {
	a, b := new(int), new(int)
	clk := Install(a)
	require.Same(t, clk, For(a))
	require.Nil(t, For(b))
	Remove(a)
	require.Nil(t, For(a))
}

func TestTimeStandsStill(t *testing.T) {
	clk := Install(new(int))
	now := clk.Now()
	require.WithinDuration(t, time.Now(), now, time.Minute)
	require.Equal(t, now, clk.Now())
	clk.Advance(3 * time.Second) // nothing runs: it does not wait
	require.Equal(t, 3*time.Second, clk.Now().Sub(now))
}

func TestTheLoopSeesEverySecond(t *testing.T) {
	clk := Install(new(int))
	begin := clk.Now()
	l := start(clk)
	clk.Advance(2500 * time.Millisecond)
	seen := make(map[time.Duration]int)
	for _, at := range l.passes() {
		seen[at.Sub(begin)]++
	}
	for _, at := range []time.Duration{time.Second, 2 * time.Second, 2500 * time.Millisecond} {
		require.GreaterOrEqual(t, seen[at], 2, "passes at %v of %v", at, seen)
	}
	close(l.stop)
	l.wg.Wait()
}

func TestTheLoopPassesWhenItWantsTo(t *testing.T) {
	clk := Install(new(int))
	begin := clk.Now()
	l := startEvery(clk, 300*time.Millisecond)
	clk.Settle()
	clk.Advance(time.Second)
	seen := make(map[time.Duration]bool)
	for _, at := range l.passes() {
		seen[at.Sub(begin)] = true
	}
	require.Equal(t, map[time.Duration]bool{
		0: true, 300 * time.Millisecond: true, 600 * time.Millisecond: true, 900 * time.Millisecond: true, time.Second: true,
	}, seen)
	close(l.stop)
	l.wg.Wait()
}

func TestSettleIsTwoPasses(t *testing.T) {
	clk := Install(new(int))
	l := start(clk)
	clk.Settle()
	before := len(l.passes())
	clk.Settle()
	require.GreaterOrEqual(t, len(l.passes()), before+2)
	close(l.stop)
	l.wg.Wait()
	clk.Settle() // nothing runs
}

// A loop that ends while somebody waits for its next pass lets go of him.
func TestSettleEndsWithTheLoop(t *testing.T) {
	for range 200 {
		clk := Install(new(int))
		l := start(clk)
		done := make(chan struct{})
		go func() {
			defer close(done)
			clk.Advance(5 * time.Second)
		}()
		close(l.stop)
		<-done
		l.wg.Wait()
	}
}

func TestSettleWaitsForALoopThatStarts(t *testing.T) {
	clk := Install(new(int))
	clk.Starting()
	done := make(chan struct{})
	go func() {
		defer close(done)
		clk.Settle()
	}()
	l := &loop{clk: clk, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	l.wg.Go(l.run)
	<-done
	require.GreaterOrEqual(t, len(l.passes()), 2)
	close(l.stop)
	l.wg.Wait()
}

func TestAgesGrowWithAPacedClock(t *testing.T) {
	clk := Install(new(int))
	require.Equal(t, time.Minute, clk.Age(time.Minute), "without Pace the kernel's ages stay")
	clk.Pace(1000)
	begin, event := clk.Now(), time.Now()
	clk.Advance(10 * time.Second)
	require.GreaterOrEqual(t, time.Since(event), 10*time.Millisecond, "the kernel had its part of the time")
	require.Equal(t, 10*time.Second, clk.Now().Sub(begin))

	real := time.Since(event)
	require.Equal(t, real+10*time.Second, clk.Age(real))
	require.Zero(t, clk.Age(0), "it has just happened")
	require.Greater(t, clk.Age(real+time.Millisecond), clk.Age(real))
	clk.Advance(time.Second)
	require.Equal(t, time.Hour+11*time.Second, clk.Age(time.Hour))
}
