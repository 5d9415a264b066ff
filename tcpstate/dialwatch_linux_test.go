package tcpstate_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// dialing starts a dial and returns what waits for its end, after the tracker
// knows of an attempt. cancel ends it.
func (r *rig) dialing(d *dialer.Dialer, address string) (cancel func(), wait func() error) {
	r.Helper()
	ctx, stop := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	var err error
	before := r.inProgress()
	wg.Go(func() {
		var c net.Conn
		if c, err = d.DialContext(ctx, "tcp", address); err == nil {
			c.Close()
		}
	})
	r.Cleanup(func() { stop(); wg.Wait() })
	tcptest.WaitUntil(r, "the dial to begin", func() bool { return r.inProgress() > before })
	return stop, func() error { wg.Wait(); return err }
}

// inProgress counts the addresses that are being tried.
func (r *rig) inProgress() (n int) {
	for d := range r.tr.Dials() {
		n += len(d.Attempts)
	}
	return n
}

// resent waits until every dial has sent its SYN again n times.
func (r *rig) resent(n int) {
	r.Helper()
	tcptest.WaitUntil(r, "the kernel to send SYNs again", func() bool {
		for d := range r.tr.Dials() {
			for _, a := range d.Attempts {
				if a.Retransmits < n {
					return false
				}
			}
		}
		return true
	})
}

// requireTimeout asks for a timeout: net has two errors for it, with one text.
func requireTimeout(t *testing.T, err error) {
	t.Helper()
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout(), err)
}

func plain() *net.Dialer {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return &d
}

func TestADialThatGetsNoAnswerIsReportedWhileItLasts(t *testing.T) {
	r := newRig(t)
	addr := tcptest.DeadListener(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "db"}
	cancel, wait := r.dialing(d, addr)
	r.resent(2)
	r.clk.Advance(2500 * time.Millisecond)
	r.silent()
	r.clk.Advance(time.Second)
	f := r.one(tcpstate.KindDialNoAnswer)
	require.Equal(t, tcpstate.SubjectDial, f.Subject.Type)
	require.Equal(t, tcpstate.SynSent, f.State)
	require.Equal(t, addr, f.Subject.Remote)
	require.Equal(t, addr, f.Subject.Target)
	require.Equal(t, "db", f.Subject.Name)
	require.True(t, strings.HasPrefix(f.Subject.Local, "127.0.0.1:"), f.Subject.Local)
	require.GreaterOrEqual(t, f.Evidence.Retransmits, uint32(2))
	require.Contains(t, f.Summary, "has not answered for 3.5s")
	require.Equal(t, "dial", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "rig).dialing")
	require.Equal(t, "opened", r.rec.await(t, 1)[0].what)

	cancel()
	require.ErrorIs(t, wait(), context.Canceled)
	r.clk.Settle()
	require.Empty(t, r.tr.Findings(), "it ends with the dial")
	require.Equal(t, "cleared", r.rec.await(t, 2)[1].what)
	require.Zero(t, r.inProgress())
}

func TestADialThatIsNotYetInTroubleIsNotReported(t *testing.T) {
	r := newRig(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr}
	r.dialing(d, tcptest.DeadListener(t))
	r.clk.Advance(6 * time.Second)
	r.silent() // the kernel, which has a clock of its own, has hardly sent the SYN again

	refusing := tcptest.Listen(t)
	require.NoError(t, refusing.Close())
	_, err := d.Dial("tcp", refusing.Addr().String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	r.clk.Advance(20 * time.Second)
	r.silent()
}

func TestADialThatIsExpectedToBeSilentIsNotReported(t *testing.T) {
	r := newRig(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Expect: tcpstate.Expect{Ignore: []tcpstate.Kind{"dial"}}}
	r.dialing(d, tcptest.DeadListener(t))
	r.resent(2)
	r.clk.Advance(20 * time.Second)
	r.silent()
}

func TestADialWhoseNeighboursGetThroughIsToldFromADeadTarget(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	deaf := plain()
	deaf.Control = tcptest.DeafControl
	stuck := &dialer.Dialer{NetDialer: deaf, Tracker: r.tr, Name: "db"}
	cancel, wait := r.dialing(stuck, ln.Addr().String())
	r.resent(2)
	r.clk.Advance(4 * time.Second)
	id := r.one(tcpstate.KindDialNoAnswer).ID

	c, err := (&dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "db"}).Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	r.clk.Advance(2 * time.Second)
	f := r.one(tcpstate.KindDialTupleStuck)
	require.Equal(t, id, f.ID, "the same fault, seen more sharply")
	require.Contains(t, f.Summary, "cannot be known from this end")
	cancel()
	require.Error(t, wait())
	r.clk.Settle()
	require.Empty(t, r.tr.Findings())
}

func TestADialOfAnotherFunctionIsJudgedByTimeAlone(t *testing.T) {
	r := newRig(t)
	d := &dialer.Dialer{Tracker: r.tr, Name: "db"}
	dial := d.Wrap(plain().DialContext)
	ctx, cancel := context.WithCancel(t.Context())
	addr := tcptest.DeadListener(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := dial(ctx, "tcp", addr)
		assert.ErrorIs(t, err, context.Canceled)
	})
	defer wg.Wait()
	defer cancel()
	tcptest.WaitUntil(t, "the dial to begin", func() bool { return r.inProgress() == 1 })
	r.clk.Advance(3900 * time.Millisecond)
	r.silent()
	r.clk.Advance(1100 * time.Millisecond) // dials are looked at every second
	f := r.one(tcpstate.KindDialNoAnswer)
	require.Contains(t, f.Summary, "how often the SYN was sent is not known")
	require.Equal(t, addr, f.Subject.Remote)
	cancel()
	wg.Wait()
	r.clk.Settle()
	require.Empty(t, r.tr.Findings())
}

func TestDialsInProgressAreListed(t *testing.T) {
	r := newRig(t)
	addr := tcptest.DeadListener(t)
	nd := plain()
	nd.Timeout = time.Hour
	r.dialing(&dialer.Dialer{NetDialer: nd, Tracker: r.tr, Name: "db"}, addr)
	r.clk.Advance(90 * time.Second)
	tcptest.WaitUntil(t, "the SYN", func() bool {
		for s := range r.tr.Dials() {
			return s.Attempts[0].State == tcpstate.SynSent && s.Attempts[0].Local.IsValid()
		}
		return false
	})
	for s := range r.tr.Dials() {
		require.Equal(t, "db", s.Name)
		require.Equal(t, addr, s.Target)
		require.Equal(t, "tcp", s.Network)
		require.Equal(t, 90*time.Second, s.Age)
		require.False(t, s.Resolving)
		require.Zero(t, s.Resolution)
		require.Len(t, s.Attempts, 1)
		require.Equal(t, addr, s.Attempts[0].Remote.String())
		require.False(t, s.Attempts[0].Ended)
		require.Contains(t, s.Site.Frames[0].Function, "rig).dialing")
		break
	}
}

// named returns a dialer that resolves names to these addresses.
func (r *rig) named(ns *nameserver) *dialer.Dialer {
	nd := plain()
	nd.Resolver = ns.resolver()
	return &dialer.Dialer{NetDialer: nd, Tracker: r.tr, Name: "db"}
}

// bothFamilies listens on one port of 127.0.0.1 and ::1.
func bothFamilies(t *testing.T) (v4, v6 *net.TCPListener, port string) {
	for range 20 {
		v6 = tcptest.Listen(t, tcptest.IPv6())
		_, port, _ = net.SplitHostPort(v6.Addr().String())
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		if ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:"+port); err == nil {
			t.Cleanup(func() { ln.Close() })
			return ln.(*net.TCPListener), v6, port
		}
	}
	t.Fatal("no port is free in both families")
	return nil, nil, ""
}

func TestADialThatNeverTriesTheOtherFamilyIsReported(t *testing.T) {
	v4, v6, port := bothFamilies(t)
	r := newRig(t)
	d := r.named(newNameserver(t, "127.0.0.1", "::1"))
	tcptest.Deafen(t, v6)
	tcptest.Deafen(t, v4) // whichever comes first
	d.NetDialer.Timeout = 100 * time.Millisecond
	_, err := d.Dial("tcp", "db.test.:"+port)
	require.Error(t, err)
	r.clk.Advance(2 * time.Second)
	f := r.one(tcpstate.KindDialFallbackStarved)
	require.Equal(t, tcpstate.SubjectTarget, f.Subject.Type)
	require.Equal(t, "db.test.:"+port, f.Subject.Target)
	require.Regexp(t, `tried 1 IPv[46], never tried 1 IPv[46]`, f.Summary)
}

func TestADialThatFallsBackInTimeIsNotReported(t *testing.T) {
	v4, v6, port := bothFamilies(t)
	r := newRig(t)
	d := r.named(newNameserver(t, "127.0.0.1", "::1"))
	tcptest.Deafen(t, v6)
	d.NetDialer.FallbackDelay = time.Millisecond
	c, err := d.Dial("tcp", "db.test.:"+port)
	require.NoError(t, err)
	require.Equal(t, v4.Addr().String(), c.RemoteAddr().String())
	c.Close()

	// One family, or both tried: the timeout is not to blame.
	tcptest.Deafen(t, v4)
	d.NetDialer.Timeout = 100 * time.Millisecond
	_, err = d.Dial("tcp", "db.test.:"+port)
	require.Error(t, err)
	_, err = d.DialContext(t.Context(), "tcp4", "db.test.:"+port)
	require.Error(t, err)
	d.NetDialer.Resolver = newNameserver(t, "127.0.0.1").resolver()
	_, err = d.Dial("tcp", "db.test.:"+port)
	require.Error(t, err)
	r.clk.Advance(5 * time.Second)
	r.silent()
}

func TestAResolverThatIsSilentIsReportedMeanwhile(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ns := newNameserver(t, "127.0.0.1")
	d := r.named(ns)
	dial := func() (wait func() error) {
		var wg sync.WaitGroup
		var err error
		wg.Go(func() {
			var c net.Conn
			if c, err = d.DialContext(t.Context(), "tcp", "db.test.:"+port); err == nil {
				c.Close()
			}
		})
		return func() error { wg.Wait(); return err }
	}
	require.NoError(t, dial()())
	r.clk.Advance(3 * time.Second)
	r.silent()

	ns.hold()
	wait := dial()
	tcptest.WaitUntil(t, "the question", func() bool { return ns.waiting() == 2 })
	r.clk.Advance(1900 * time.Millisecond)
	r.silent()
	for s := range r.tr.Dials() {
		require.True(t, s.Resolving)
		require.Equal(t, 1900*time.Millisecond, s.Resolution)
		require.Empty(t, s.Attempts)
	}
	r.clk.Advance(time.Second)
	f := r.one(tcpstate.KindDialDNSSlow)
	require.Equal(t, "silent", f.Cause)
	ns.release()
	require.NoError(t, wait())
	r.clk.Advance(3 * time.Second)
	require.Len(t, r.tr.Findings(), 1, "told once")
}

func TestAResolutionThatWasSlowIsReportedAfterwards(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ns := newNameserver(t, "127.0.0.1")
	ns.hold()
	resume := tcpstate.Stall(r.tr) // so that nobody looks meanwhile
	d := r.named(ns)
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := d.DialContext(t.Context(), "tcp", "db.test.:"+port)
		if assert.NoError(t, err) {
			c.Close()
		}
	})
	tcptest.WaitUntil(t, "the question", func() bool { return ns.waiting() == 2 })
	advance := make(chan struct{})
	go func() { defer close(advance); r.clk.Advance(2100 * time.Millisecond) }()
	tcptest.WaitUntil(t, "time to pass", func() bool {
		for s := range r.tr.Dials() {
			return s.Resolution >= time.Second
		}
		return false
	})
	resume()
	<-advance
	ns.release()
	wg.Wait()
	r.clk.Advance(2 * time.Second)
	r.one(tcpstate.KindDialDNSSlow)
}

func TestADialStormIsReportedAndBurstsAreNot(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "cache"}
	for range 100 {
		c, err := d.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		peer, err := ln.Accept()
		require.NoError(t, err)
		tcptest.Reset(t, peer.(*net.TCPConn))
		c.Close()
	}
	r.clk.Advance(2 * time.Second)
	r.silent()

	d.NetDialer.Timeout = 20 * time.Millisecond
	dead := tcptest.DeadListener(t)
	storm := func() {
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				_, err := d.Dial("tcp", dead)
				assert.Error(t, err)
			})
		}
		wg.Wait()
	}
	storm()
	r.clk.Advance(2 * time.Second)
	f := r.one(tcpstate.KindDialStorm)
	require.Equal(t, dead, f.Subject.Target)
	require.Contains(t, f.Summary, "dialed 60 times in 10s; this program gave up 60 (100 %)")
	r.clk.Advance(12 * time.Second)
	require.Empty(t, r.tr.Findings(), "it is over")
}

func TestWithoutHooksDialsGoOnUnwatched(t *testing.T) {
	tr, clk := lacking(t, tcpstate.Seam{NoHooks: errors.New("refused"), NoTrace: errors.New("gone")})
	r := &rig{T: t, tr: tr, clk: clk, rec: new(recorder)}
	f := facility(t, tr, "dial watch")
	require.False(t, f.OK)
	require.Equal(t, []tcpstate.Kind{tcpstate.KindDialNoAnswer, tcpstate.KindDialTupleStuck}, f.Kinds)
	f = facility(t, tr, "httptrace")
	require.False(t, f.OK)
	require.Equal(t, []tcpstate.Kind{tcpstate.KindDialDNSSlow, tcpstate.KindDialFallbackStarved}, f.Kinds)
	for _, f := range tr.Facilities()[:2] {
		require.True(t, f.OK, f.Name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := (&dialer.Dialer{NetDialer: plain(), Tracker: tr}).DialContext(ctx, "tcp", tcptest.DeadListener(t))
	requireTimeout(t, err)
	clk.Advance(10 * time.Second)
	require.Empty(t, r.tr.Findings())
	ln := tcptest.Listen(t)
	c, err := (&dialer.Dialer{NetDialer: plain(), Tracker: tr}).Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestTheLoopRunsOnlyForDialsThatLast(t *testing.T) {
	tr := newTracker(t)
	stop := tr.Observe(&tcpstate.Observer{Opened: func(tcpstate.Finding) {}})
	defer stop()
	require.NoError(t, tr.Set(func(c *tcpstate.Config) { c.Thresholds.Dial = 10 * time.Millisecond }))
	refusing := tcptest.Listen(t)
	require.NoError(t, refusing.Close())
	d := &dialer.Dialer{NetDialer: plain(), Tracker: tr}
	_, err := d.Dial("tcp", refusing.Addr().String())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.False(t, tcpstate.Running(tr))

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	addr := tcptest.DeadListener(t)
	wg.Go(func() {
		_, err := d.DialContext(ctx, "tcp", addr)
		assert.ErrorIs(t, err, context.Canceled)
	})
	defer wg.Wait()
	defer cancel()
	tcptest.WaitUntil(t, "the finding", func() bool { return len(tr.Findings()) == 1 })
	require.Equal(t, tcpstate.KindDialNoAnswer, tr.Findings()[0].Kind)
	require.True(t, tcpstate.Running(tr))
	cancel()
	tcptest.WaitUntil(t, "the finding to end", func() bool { return len(tr.Findings()) == 0 })
	tcptest.WaitUntil(t, "the loop to end", func() bool { return !tcpstate.Running(tr) })
}

func TestDialsInABubbleOfSynctestAreNotWatched(t *testing.T) {
	tr := newTracker(t)
	dead := tcptest.DeadListener(t)
	nd := plain()
	synctest.Test(t, func(t *testing.T) {
		dial := (&dialer.Dialer{NetDialer: nd, Tracker: tr}).Wrap(func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := dial(ctx, "tcp", dead)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	require.False(t, tcpstate.Running(tr))
	// What was made in the bubble is of no use outside, and does no harm.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := (&dialer.Dialer{NetDialer: nd, Tracker: tr}).DialContext(ctx, "tcp", dead)
	requireTimeout(t, err)
}

func TestManyDialsAtOnceAreAllJudged(t *testing.T) {
	r := newRig(t)
	tcpstate.SetSeam(r.tr, tcpstate.Seam{Info: func(_ uintptr, b []byte) (int, error) {
		clear(b)
		b[0], b[2] = uint8(tcpstate.SynSent), 3
		return len(b), nil
	}})
	const dials = 1500 // more than one run looks at
	ln := tcptest.Listen(t)
	raw, err := ln.SyscallConn()
	require.NoError(t, err)
	var all []*tcpstate.Dialing
	for range dials {
		d := r.tr.BeginDial(t.Context(), "tcp", tcpstate.Origin{Name: "db", Target: "db:5432"})
		d.Trying(t.Context(), "192.0.2.1:5432", raw)
		all = append(all, d)
	}
	r.clk.Advance(3 * time.Second)
	tcptest.WaitUntil(t, "all to be found", func() bool {
		r.clk.Advance(time.Second)
		return len(r.tr.Findings()) == dials
	})
	for _, d := range all {
		d.Done(nil, context.Canceled, true)
	}
	tcptest.WaitUntil(t, "all to end", func() bool {
		r.clk.Advance(time.Second)
		fs := r.tr.Findings()
		return len(fs) == 0 || len(fs) == 1 && fs[0].Kind == tcpstate.KindDialStorm
	})
	require.Zero(t, r.tr.Stats().DialsMissed)
}
