package tcpstate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// closes makes p close n connections because enough lie idle, after as many
// uses, of which dialed had to dial.
func closes(p *tcpstate.Pool, target string, n, uses, dialed uint64) {
	p.Surplus(tcpstate.Surplus{
		Target: target, Setting: "MaxIdleConnsPerHost", Kept: 2, Closed: n, Uses: uses, Dialed: dialed,
	})
}

func TestAPoolThatClosesWhatItNeedsIsAudited(t *testing.T) {
	r := newRig(t)
	p := r.tr.NewPool(tcpstate.Origin{Name: "payments"}).Part()
	for range 30 {
		c, _ := r.dialed(tcpstate.Expect{})
		u := r.tr.NewUsage(t.Context(), tcpstate.Use{})
		p.Lend(u)
		u.Attach(c.Watch())
	}
	require.Equal(t, 30, p.InUse())
	closes(p, "db:5432", 99, 110, 100)
	r.clk.Advance(2 * time.Second)
	r.silent()
	closes(p, "db:5432", 1, 1, 1)
	r.clk.Advance(2 * time.Second)
	f := r.one(tcpstate.KindPoolChurn)
	require.Equal(t, tcpstate.Audit, f.Severity)
	require.Equal(t, tcpstate.SubjectSite, f.Subject.Type)
	require.Equal(t, "db:5432", f.Subject.Target)
	require.Contains(t, f.Sites[0].Frames[0].File, "poolchurn_linux_test.go")
	require.Contains(t, f.Summary, "closed 100 healthy connections to db:5432 within a minute")
	require.Contains(t, f.Summary, "of 111 uses, 101 had to dial")
	require.Equal(t, "set MaxIdleConnsPerHost to 30", f.Fix)

	r.clk.Advance(30 * time.Second)
	r.one(tcpstate.KindPoolChurn)
	r.clk.Advance(2 * time.Minute)
	require.Empty(t, r.tr.Findings(), "it has ended")
}

func TestPoolsThatCloseAFewConnectionsAreNotAudited(t *testing.T) {
	for name, makes := range map[string]func(p *tcpstate.Pool, i int){
		"slowly":             func(p *tcpstate.Pool, i int) { closes(p, "db:5432", 15, 20, 20) },
		"beside many reuses": func(p *tcpstate.Pool, i int) { closes(p, "db:5432", 40, 100, 50) },
		"of many targets":    func(p *tcpstate.Pool, i int) { closes(p, string(rune('a'+i)), 99, 99, 99) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.dialed(tcpstate.Expect{Ignore: []tcpstate.Kind{"idle", "keepalive"}})
			p := r.tr.NewPool(tcpstate.Origin{Name: "payments"})
			for i := range 20 {
				makes(p, i)
				r.clk.Advance(10 * time.Second)
				r.silent()
			}
		})
	}
}

func TestAPoolCountsItsConnections(t *testing.T) {
	r := newRig(t)
	whole := r.tr.NewPool(tcpstate.Origin{})
	part, other := whole.Part(), whole.Part()
	lend := func(p *tcpstate.Pool, c *tcpstate.Conn) *tcpstate.Usage {
		u := r.tr.NewUsage(t.Context(), tcpstate.Use{})
		p.Lend(u)
		u.Attach(c.Watch())
		return u
	}
	count := func(p *tcpstate.Pool) [2]int {
		used, idle := p.Connections()
		return [2]int{used, idle}
	}
	a, _ := r.dialed(tcpstate.Expect{})
	b, _ := r.dialed(tcpstate.Expect{})
	r.dialed(tcpstate.Expect{}) // of nobody
	ua, ub := lend(part, a), lend(other, b)
	require.Equal(t, [2]int{2, 0}, count(whole))
	require.Equal(t, [2]int{1, 0}, count(part))
	ua.End()
	ua.End()
	require.Equal(t, [2]int{1, 1}, count(whole))
	require.Equal(t, [2]int{0, 1}, count(part))
	require.Equal(t, []int{0, 1}, []int{part.InUse(), other.InUse()})

	require.NoError(t, b.Close())
	require.Zero(t, other.InUse(), "whoever used it has it no more")
	ub.End()
	require.Zero(t, other.InUse())
	require.Equal(t, [2]int{0, 1}, count(whole))
	var none *tcpstate.Pool
	require.Nil(t, none.Part())
	none.Lend(ua)
	none.Surplus(tcpstate.Surplus{})
	require.Equal(t, [2]int{0, 0}, count(none))
	require.Zero(t, none.InUse())
}
