package tcpstate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnAttemptIsReportedOnlyAfterSeveralSYNs(t *testing.T) {
	limits := DefaultThresholds()
	never := Thresholds{Dial: -1}.resolved()
	for name, tt := range map[string]struct {
		attemptFacts
		want Kind
	}{
		"long, sent three times":        {attemptFacts{now: 3e9, asked: true, open: true, resent: 2}, KindDialNoAnswer},
		"others get through":            {attemptFacts{now: 3e9, asked: true, open: true, resent: 2, reachable: true}, KindDialTupleStuck},
		"young":                         {attemptFacts{now: 29e8, asked: true, open: true, resent: 2}, ""},
		"one SYN lost by chance":        {attemptFacts{now: 60e9, asked: true, open: true, resent: 1}, ""},
		"a long path":                   {attemptFacts{now: 4e9, asked: true, open: true}, ""},
		"answered":                      {attemptFacts{now: 60e9, asked: true, resent: 3}, ""},
		"nobody can ask":                {attemptFacts{now: 4e9, open: true}, KindDialNoAnswer},
		"nobody can ask, too early":     {attemptFacts{now: 39e8, open: true}, ""},
		"nobody can ask, others can do": {attemptFacts{now: 4e9, open: true, reachable: true}, KindDialTupleStuck},
	} {
		t.Run(name, func(t *testing.T) {
			tt.limits = &limits
			require.Equal(t, tt.want, tt.verdict().kind)
			tt.limits = &never
			require.Empty(t, tt.verdict().kind)
		})
	}
}

func TestErrorsOfDialsAreSorted(t *testing.T) {
	op := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for name, tt := range map[string]struct {
		err  error
		want dialEnd
	}{
		"none":              {nil, dialOK},
		"refused":           {op(os.NewSyscallError("connect", syscall.ECONNREFUSED)), dialFailed},
		"the kernel's own":  {op(os.NewSyscallError("connect", syscall.ETIMEDOUT)), dialFailed},
		"no port":           {op(os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)), dialNoPort},
		"cancelled":         {op(context.Canceled), dialCancel},
		"deadline":          {op(context.DeadlineExceeded), dialTimeout},
		"deadline of I/O":   {op(os.ErrDeadlineExceeded), dialTimeout},
		"resolver":          {op(&net.DNSError{IsTimeout: true}), dialFailed},
		"something of TLS":  {errors.New("bad record"), dialFailed},
		"a timeout of sort": {fmt.Errorf("proxy: %w", &net.OpError{Err: &net.DNSError{}}), dialFailed},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, classifyDial(tt.err)) })
	}
}

func TestADialStormIsManyDialsGivenUp(t *testing.T) {
	for name, tt := range map[string]struct {
		dials, lost uint32
		open, goes  bool // reported; stays so once it is
	}{
		"storm":            {60, 40, true, true},
		"at the limit":     {50, 25, true, true},
		"a few":            {49, 49, false, true},
		"a burst that won": {5000, 0, false, false},
		"some lost":        {5000, 2000, false, true},
		"calming down":     {24, 24, false, false},
		"a quarter lost":   {100, 24, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := dialSecond{dials: tt.dials, lost: tt.lost}
			require.Equal(t, tt.open, s.stormy(false))
			require.Equal(t, tt.goes, s.stormy(true))
		})
	}
}

func TestTheWindowOfAStormMoves(t *testing.T) {
	var tg target
	at := func(s int) int64 { return int64(time.Duration(1000+s) * time.Second) }
	for s := range 5 {
		for range 10 {
			tg.count(dialTimeout, 100*time.Millisecond, at(s))
			tg.count(dialOK, time.Millisecond, at(s))
		}
	}
	sum := tg.recent(at(9))
	require.EqualValues(t, 100, sum.dials)
	require.EqualValues(t, 50, sum.lost)
	require.Equal(t, 5*time.Second, sum.took)
	require.EqualValues(t, 60, tg.recent(at(11)).dials)
	require.Zero(t, tg.recent(at(30)).dials)
	tg.count(dialCancel, 0, at(30))
	require.EqualValues(t, 1, tg.recent(at(30)).dials)
}

func TestPortsInTimeWaitAreForgottenAfterAMinute(t *testing.T) {
	var tg target
	at := func(s int) int64 { return int64(time.Duration(s) * time.Second) }
	tg.live = 3
	for range 5 {
		tg.churned(at(100))
	}
	require.Equal(t, 8, tg.taken(at(160)), "never too few")
	require.Equal(t, 3, tg.taken(at(240)))
}

func TestPortsAreJudgedByTheKernelsCount(t *testing.T) {
	remote := netip.MustParseAddrPort("192.0.2.7:443")
	loop := netip.MustParseAddrPort("127.0.0.1:443")
	ports := portFacts{lo: 1001, hi: 2000, reuse: 2}
	count := func(live, timeWait int, to netip.AddrPort) portCount {
		return portCount{portPair: portPair{remote: to}, at: 1, live: live, timeWait: timeWait}
	}
	for name, tt := range map[string]struct {
		portsFacts
		want     Kind
		severity Severity
	}{
		"churn":                         {portsFacts{count: count(10, 790, remote), taken: 900}, KindDialPorts, Warning},
		"leak":                          {portsFacts{count: count(800, 0, loop), taken: 800}, KindDialPorts, Warning},
		"below":                         {portsFacts{count: count(10, 789, remote), taken: 2000}, "", 0},
		"below, but open":               {portsFacts{count: count(10, 690, remote), open: true}, KindDialPorts, Warning},
		"over":                          {portsFacts{count: count(10, 689, remote), open: true}, "", 0},
		"not counted":                   {portsFacts{taken: 2000}, "", 0},
		"loopback takes them over":      {portsFacts{count: count(10, 990, loop), taken: 1000}, "", 0},
		"none left":                     {portsFacts{count: count(0, 999, remote), portless: true}, KindDialPorts, Error},
		"none left on loopback":         {portsFacts{count: count(0, 999, loop), portless: true}, KindDialPorts, Error},
		"no such local address":         {portsFacts{count: count(3, 0, remote), portless: true, taken: 3}, "", 0},
		"cannot be counted":             {portsFacts{unable: true, portless: true, taken: 700}, KindDialPorts, Error},
		"cannot be counted, no address": {portsFacts{unable: true, portless: true, taken: 7}, "", 0},
		"not yet counted":               {portsFacts{portless: true, taken: 700}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			tt.ports = ports
			v := tt.verdict()
			require.Equal(t, tt.want, v.kind)
			require.Equal(t, tt.severity, v.weight())
			tt.ports = portFacts{}
			if tt.portless {
				require.Empty(t, tt.verdict().kind, "the range is not known")
			}
		})
	}
}

func TestTooManyTargetsShareOne(t *testing.T) {
	var tab targetTable
	seen := make(map[*target]bool)
	for i := range 1000 {
		seen[tab.of(targetKey{"db", fmt.Sprint(i)}, int64(time.Second))] = true
	}
	require.Len(t, seen, maxTargets+1)
	require.Same(t, tab.at(sharedTarget), tab.of(targetKey{"db", "999"}, int64(time.Second)))
	tab.of(targetKey{"db", "7"}, 0).live = 1
	later := tab.of(targetKey{"db", "999"}, int64(2*time.Minute))
	require.NotSame(t, tab.at(sharedTarget), later, "the others are forgotten")
	require.Len(t, tab.byKey, 2)
	require.Equal(t, 1, tab.of(targetKey{"db", "7"}, int64(2*time.Minute)).live, "but not those in use")
	require.Nil(t, tab.at(noTarget))
	require.Same(t, later, tab.at(later.index))
}

func TestReachedAddressesAreBounded(t *testing.T) {
	var tg target
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 443)
	}
	for i := range 20 {
		tg.reach(addr(i), int64(i+1))
	}
	require.True(t, tg.reachedSince(addr(19), 19))
	require.False(t, tg.reachedSince(addr(19), 20))
	require.False(t, tg.reachedSince(addr(1), 0), "forgotten")
	tg.reach(addr(15), 30)
	require.True(t, tg.reachedSince(addr(15), 29))
}

func TestHandshakesAreJudgedByTheirBytes(t *testing.T) {
	limits := DefaultThresholds()
	f := facts{now: int64(20 * time.Second), shakeAt: int64(9 * time.Second), limits: &limits, sample: sample{ok: true}}
	require.Equal(t, KindHandshakeStalled, f.setupVerdict().kind)
	f.now--
	require.Empty(t, f.setupVerdict().kind, "a timeout of 10 s has a moment to act")
	f.now++
	f.progressAt = int64(16 * time.Second)
	v := f.setupVerdict()
	require.Empty(t, v.kind, "something was acknowledged")
	require.Equal(t, int64(21*time.Second), v.due)
	f.progressAt = int64(15 * time.Second)
	require.Equal(t, KindHandshakeStalled, f.setupVerdict().kind)
	never := Thresholds{Handshake: -1}.resolved()
	f.limits = &never
	require.Equal(t, verdict{}, f.setupVerdict())
}

func TestADialedConnectionIsUnusedOnlyWithoutAnySignOfUse(t *testing.T) {
	limits := DefaultThresholds()
	unused := facts{now: int64(40 * time.Second), ctxEnded: int64(10 * time.Second), limits: &limits, expect: new(Expect)}
	require.Equal(t, KindLeakUnusedDial, unused.setupVerdict().kind)
	for name, change := range map[string]func(*facts){
		"young":      func(f *facts) { f.now-- },
		"read":       func(f *facts) { f.everRead = true },
		"written":    func(f *facts) { f.everWrote = true },
		"in use":     func(f *facts) { f.using = true },
		"copied":     func(f *facts) { f.copying = true },
		"pooled":     func(f *facts) { f.pooled = true },
		"long-lived": func(f *facts) { f.expect = &Expect{LongLived: true} },
		"no end":     func(f *facts) { f.ctxEnded = 0 },
	} {
		f := unused
		change(&f)
		require.Empty(t, f.setupVerdict().kind, name)
	}
}
