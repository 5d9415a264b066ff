package tcpstate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestAPoolForEveryCallIsReported(t *testing.T) {
	r := newRig(t)
	r.dialed(tcpstate.Expect{}) // keeps the clock running
	for i := range 10 {
		r.silent()
		r.tr.NewPool(tcpstate.Origin{Name: "payments"})
		r.clk.Advance(time.Duration(i%2+1) * time.Second)
	}
	f := r.one(tcpstate.KindLeakPoolPerCall)
	require.Equal(t, tcpstate.SubjectSite, f.Subject.Type)
	require.Contains(t, f.Sites[0].Frames[0].File, "pools_linux_test.go")
	r.clk.Advance(2 * time.Minute)
	require.Empty(t, r.tr.Findings(), "it has ended")
}

func TestPoolsMayBeMadeWhileFindingsAreRead(t *testing.T) {
	r := newRig(t)
	r.dialed(tcpstate.Expect{})
	makes := func(n int) {
		for range n {
			r.tr.NewPool(tcpstate.Origin{Name: "payments"})
		}
	}
	makes(10)
	r.clk.Advance(2 * time.Second)
	r.one(tcpstate.KindLeakPoolPerCall)
	done := make(chan struct{})
	go func() {
		defer close(done)
		makes(1000)
	}()
	for range 100 {
		r.tr.Findings()
	}
	<-done
}

func TestPoolsThatAreOfUseAreNotReported(t *testing.T) {
	for name, makes := range map[string]func(r *rig, i int){
		"reused": func(r *rig, i int) {
			p := r.tr.NewPool(tcpstate.Origin{Name: "payments"})
			if i%5 == 0 {
				p.Reused()
			}
		},
		"other names": func(r *rig, i int) { r.tr.NewPool(tcpstate.Origin{Name: string(rune('a' + i))}) },
		"slowly": func(r *rig, i int) {
			r.tr.NewPool(tcpstate.Origin{Name: "payments"})
			r.clk.Advance(7 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.dialed(tcpstate.Expect{})
			for i := range 20 {
				makes(r, i)
				r.clk.Advance(time.Millisecond)
			}
			r.clk.Advance(10 * time.Second)
			r.silent()
		})
	}
}

func TestAConnectionThatIsHeldForTooLong(t *testing.T) {
	r := newRig(t)
	r.clk.Pace(100)
	c, s := r.dialed(tcpstate.Expect{})
	p := r.tr.NewPool(tcpstate.Origin{Name: "db"})
	defer c.Watch().Borrow(t.Context(), p, tcpstate.Use{Name: "checkout"})()
	r.say(c, "query", s)
	r.say(s, "answer", c)
	r.clk.Advance(100 * time.Second)
	r.silent()
	require.ErrorContains(t, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.Held = time.Second }), "Held")
	require.NoError(t, r.tr.Set(func(c *tcpstate.Config) { c.Thresholds.Held = 3 * time.Minute }))
	r.clk.Advance(60 * time.Second)
	r.silent()
	r.clk.Advance(40 * time.Second)
	f := r.one(tcpstate.KindLeakNotReturned)
	require.Equal(t, "held", f.Cause)
	require.NotContains(t, f.Summary, "others wait")
	p.Waits()
	r.clk.Advance(12 * time.Second)
	require.Empty(t, r.one(tcpstate.KindLeakNotReturned).Cause, "now somebody misses it")
	p.Waited()
	r.say(c, "query", s)
	r.say(s, "answer", c)
	r.clk.Advance(12 * time.Second)
	require.Empty(t, r.tr.Findings())
}

func TestAConnectionThatIsMissedInItsPool(t *testing.T) {
	l := newLive(t, func(c *tcpstate.Config) { c.Thresholds.Borrowed = 2 * time.Second })
	client, server := l.dialed(tcpstate.Expect{})
	p := l.tr.NewPool(tcpstate.Origin{Name: "db"})
	done := client.Watch().Borrow(t.Context(), p, tcpstate.Use{Name: "checkout"})
	l.staysSilent(2500 * time.Millisecond) // nobody waits
	p.Waits()
	f := l.finds(tcpstate.KindLeakNotReturned)
	require.Equal(t, "use", f.Sites[0].Role)
	exchange(t, client, server)
	l.clears()
	l.finds(tcpstate.KindLeakNotReturned)
	p.Waited()
	l.clears()
	done()
}
