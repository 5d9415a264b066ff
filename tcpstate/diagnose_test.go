package tcpstate

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	grace  = 30 * time.Second
	finAt  = int64(100 * time.Second)
	second = int64(time.Second)
)

// leakedFacts are those of a connection whose peer closed at finAt, as seen so
// much later. What the program did is added by the cases.
func leakedFacts(role Role, after time.Duration) facts {
	return facts{
		now: finAt + int64(after), role: role, hist: history{fin: true, finFirst: true}, finAt: finAt,
		sample:   sample{ok: true, state: CloseWait, bytesSent: 500, bytesReceived: 301, dataSent: time.Minute, dataRecv: 2 * time.Minute},
		everRead: true, everWrote: true, limits: &Thresholds{CloseWait: grace, DeadSocket: grace}, expect: new(Expect),
	}
}

func deadFacts(role Role, end endCause, after time.Duration) facts {
	f := leakedFacts(role, 0)
	f.hist = history{dead: true, end: end}
	f.finAt, f.deadAt, f.now = 0, finAt, finAt+int64(after)
	return f
}

// complete makes the exchange look finished: the answer came after the request.
func complete(f *facts) { f.sample.dataSent, f.sample.dataRecv = time.Minute, 59*time.Second }

var diagnoseCases = []struct {
	name string
	of   func(after time.Duration) facts
	want Kind // past the threshold
	due  time.Duration
}{
	{"a response body that nobody closes", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		f.using, f.sample.recvQueue = true, 16060
		return f
	}, KindCloseWaitUnreadBody, grace},
	{"a response body that nobody closes, with nothing but the FIN left", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		f.using = true
		return f
	}, KindCloseWaitUnreadBody, grace},
	{"a response that was read to EOF but is still in use", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		f.using, f.readErr, f.lastRead = true, readEOF, readEOF
		return f
	}, KindCloseWaitEOFSeen, grace},
	{"a handler that does not look", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.using, f.sample.recvQueue = true, 812
		return f
	}, KindCloseWaitNotReading, grace},
	{"a server connection that nobody reads", func(d time.Duration) facts { return leakedFacts(Server, d) }, KindCloseWaitNotReading, grace},
	{"a client that waits for nothing", func(d time.Duration) facts { return leakedFacts(Client, d) }, KindCloseWaitNotReading, grace},
	{"a client whose answer consists of the FIN alone", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		f.sample.bytesReceived, f.sample.dataSent, f.sample.dataRecv = 1, time.Minute, time.Minute
		return f
	}, KindCloseWaitNotReading, grace},
	{"a connection that was attached and never read, as far as is known", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.blind, f.everRead, f.everWrote = true, false, false
		return f
	}, KindCloseWaitNotReading, grace},
	{"a read loop that returned on EOF", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.readErr, f.lastRead = readEOF, readEOF
		return f
	}, KindCloseWaitEOFSeen, grace},
	{"a client that read EOF, although its exchange is complete", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		complete(&f)
		f.readErr, f.lastRead = readEOF, readEOF
		return f
	}, KindCloseWaitEOFSeen, grace},
	{"a handler that was told of EOF and reads on", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.readErr, f.using = readEOF, true
		return f
	}, KindCloseWaitEOFSeen, grace},
	{"a deadline, then nothing", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.readErr, f.lastRead = readDeadline, readDeadline
		return f
	}, KindCloseWaitErrorPath, grace},
	{"an error, then nothing", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		complete(&f)
		f.readErr, f.lastRead = readOther, readOther
		return f
	}, KindCloseWaitErrorPath, grace},
	{"io.Copy failed, then nothing", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		complete(&f)
		f.readErr, f.lastRead = readCopy, readCopy
		return f
	}, KindCloseWaitErrorPath, grace},
	{"a deadline, and a Read after it", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.readErr = readDeadline
		return f
	}, KindCloseWaitNotReading, grace},
	{"a hijacked connection: the abort of net/http's own Read is no error path", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.readErr, f.lastRead, f.using = readDeadline, readDeadline, true
		return f
	}, KindCloseWaitNotReading, grace},
	{"accepted and never touched", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.everRead, f.everWrote = false, false
		return f
	}, KindCloseWaitNeverRead, grace},
	{"never read, but the server spoke first", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.everRead = false
		return f
	}, KindCloseWaitNotReading, grace},
	{"dialed and never touched", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		f.everRead, f.everWrote, f.sample.bytesSent, f.sample.bytesReceived = false, false, 0, 1
		return f
	}, KindCloseWaitNotReading, grace},
	{"idle in a pool, as declared", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		f.pooled, f.readErr = true, readEOF
		return f
	}, KindCloseWaitIdleInPool, time.Second},
	{"idle with a complete exchange, undeclared", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		complete(&f)
		return f
	}, KindCloseWaitIdleInPool, time.Second},
	{"idle, and checked with a deadline", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		complete(&f)
		f.readErr, f.lastRead = readDeadline, readDeadline
		return f
	}, KindCloseWaitIdleInPool, time.Second},
	{"taken out of its pool", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		complete(&f)
		f.pooled, f.using = true, true
		return f
	}, KindCloseWaitUnreadBody, grace},
	{"a server's connection is in no pool of ours", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		complete(&f)
		f.pooled = true
		return f
	}, KindCloseWaitNotReading, grace},
	{"reset while idle, on the server", func(d time.Duration) facts { return deadFacts(Server, endReset, d) }, KindLeakDeadSocket, grace},
	{"timed out while a use is in progress", func(d time.Duration) facts {
		f := deadFacts(Client, endTimeout, d)
		f.using = true
		return f
	}, KindLeakDeadSocket, grace},
	{"closed by both ends", func(d time.Duration) facts { return deadFacts(Server, endClean, d) }, KindLeakDeadSocket, grace},
	{"dead in its pool", func(d time.Duration) facts {
		f := deadFacts(Client, endReset, d)
		f.pooled = true
		return f
	}, KindCloseWaitIdleInPool, time.Second},
	{"dead while idle with a complete exchange", func(d time.Duration) facts {
		f := deadFacts(Client, endTimeout, d)
		complete(&f)
		return f
	}, KindCloseWaitIdleInPool, time.Second},
	{"the half-close that was declared does not excuse a dead socket", func(d time.Duration) facts {
		f := deadFacts(Server, endReset, d)
		f.halfClose = true
		return f
	}, KindLeakDeadSocket, grace},

	// Twins that stay silent however long it takes.
	{"nothing happened", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.hist, f.finAt = history{}, 0
		return f
	}, "", 0},
	{"we closed first, and the peer keeps open", func(d time.Duration) facts {
		f := leakedFacts(Client, d)
		f.hist, f.finAt = history{closeWrite: true}, 0
		return f
	}, "", 0},
	{"half-close, as declared", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.halfClose = true
		return f
	}, "", 0},
	{"off", func(d time.Duration) facts {
		f := leakedFacts(Server, d)
		f.limits = &Thresholds{CloseWait: off, DeadSocket: grace}
		return f
	}, "", 0},
	{"dead, but off", func(d time.Duration) facts {
		f := deadFacts(Server, endReset, d)
		f.limits = &Thresholds{CloseWait: grace, DeadSocket: off}
		return f
	}, "", 0},
}

func TestDiagnose(t *testing.T) {
	for _, tt := range diagnoseCases {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want == "" {
				for _, after := range []time.Duration{0, tt.due, 3 * grace, 24 * time.Hour} {
					f := tt.of(after)
					require.Equal(t, verdict{}, diagnose(&f))
				}
				return
			}
			for _, after := range []time.Duration{0, tt.due / 2, tt.due - 1} {
				f := tt.of(after)
				require.Equal(t, verdict{due: finAt + int64(tt.due)}, diagnose(&f), "after %v", after)
			}
			for _, after := range []time.Duration{tt.due, 3 * tt.due, 24 * time.Hour} {
				f := tt.of(after)
				got := diagnose(&f)
				require.Equal(t, tt.want, got.kind, "after %v", after)
				require.Equal(t, finAt, got.since)
				require.Zero(t, got.due)
				want := f.hist.end.String()
				if got.kind == KindCloseWaitErrorPath {
					want = f.lastRead.String()
				}
				require.Equal(t, want, got.cause)
			}
		})
	}
}

func TestProgressPostponesTheVerdict(t *testing.T) {
	for _, tt := range diagnoseCases {
		if tt.want == "" || tt.want == KindCloseWaitIdleInPool {
			continue // there is nothing to progress in a pool
		}
		t.Run(tt.name, func(t *testing.T) {
			for moved := time.Duration(0); moved < 5*time.Minute; moved += 25 * time.Second {
				f := tt.of(moved + grace - 1)
				f.progressAt = finAt + int64(moved)
				require.Equal(t, verdict{due: f.now + 1}, diagnose(&f))
				f.now++
				require.Equal(t, tt.want, diagnose(&f).kind)
				require.Equal(t, finAt, diagnose(&f).since, "the condition is as old as it is")
			}
		})
	}
}

func TestACopyInProgressIsLookedAtAgainAndNeverReported(t *testing.T) {
	for _, f := range []facts{leakedFacts(Server, time.Hour), leakedFacts(Client, time.Hour), deadFacts(Server, endReset, time.Hour)} {
		f.copying = true
		require.Equal(t, verdict{due: f.now + second}, diagnose(&f))
	}
}

func TestAnAlarmSharpensToADeadSocketAtOnce(t *testing.T) {
	f := deadFacts(Server, endReset, time.Second)
	f.hist.fin, f.finAt, f.open = true, finAt-5*second, KindCloseWaitNotReading
	got := diagnose(&f)
	require.Equal(t, verdict{kind: KindLeakDeadSocket, cause: "reset", since: finAt - 5*second}, got)

	f.open = KindCloseWaitIdleInPool // inventory: who takes it out now has done nothing wrong yet
	f.using = true
	require.Equal(t, verdict{due: f.deadAt + int64(grace)}, diagnose(&f))

	f.open, f.limits = KindCloseWaitNotReading, &Thresholds{CloseWait: grace, DeadSocket: off}
	require.Equal(t, KindCloseWaitNotReading, diagnose(&f).kind, "it does not get better by being called less")
}

func TestWhatIsOpenStaysOpenUntilTheEndIsUnderstood(t *testing.T) {
	f := deadFacts(Server, endNone, time.Second)
	f.hist.pending = true
	require.Equal(t, verdict{due: f.now + second, since: finAt}, diagnose(&f))
	f.open = KindCloseWaitEOFSeen
	require.Equal(t, verdict{kind: KindCloseWaitEOFSeen, due: f.now + second, since: finAt}, diagnose(&f))
}

// passive returns limits with which open connections are not judged.
func passive(closeWait, deadSocket time.Duration) *Thresholds {
	var t Thresholds
	for _, th := range t.all() {
		*th.d = off
	}
	t.CloseWait, t.DeadSocket = closeWait, deadSocket
	return &t
}

// anyFacts makes up facts that agree with each other.
func anyFacts(r *rand.Rand) facts {
	flip := func() bool { return r.IntN(2) == 0 }
	pick := func(d ...time.Duration) time.Duration { return d[r.IntN(len(d))] }
	f := facts{
		now: finAt + r.Int64N(int64(2*time.Minute)), role: Role(r.IntN(2)), blind: flip(),
		everRead: flip(), everWrote: flip(), copying: r.IntN(4) == 0, using: flip(), pooled: flip(), halfClose: r.IntN(4) == 0,
		readErr: readResult(r.IntN(int(readTimedOut) + 1)),
		sample: sample{ok: true, bytesSent: uint64(r.IntN(3)), bytesReceived: uint64(r.IntN(3)), recvQueue: int32(r.IntN(2)),
			dataSent: pick(0, time.Second), dataRecv: pick(0, time.Second)},
		limits: passive(pick(grace, time.Second, off), pick(grace, time.Second, off)), expect: new(Expect),
	}
	if flip() {
		f.lastRead = f.readErr
	}
	f.hist.fin = flip()
	if f.hist.fin {
		f.finAt = finAt - r.Int64N(int64(time.Minute))
	}
	f.hist.dead = flip()
	if f.hist.dead {
		f.deadAt = finAt - r.Int64N(int64(time.Minute))
		f.hist.end = endCause(r.IntN(int(endUnknown) + 1))
		f.hist.pending = f.hist.end == endNone
	}
	if flip() {
		f.progressAt = finAt - r.Int64N(int64(time.Minute))
	}
	return f
}

func TestVerdictsKeepTheirPromises(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		f := anyFacts(r)
		v := diagnose(&f)
		if v.due != 0 {
			require.Greater(t, v.due, f.now, "%+v", f)
		}
		require.False(t, v.kind != "" && v.since > f.now, "%+v", f)
		require.False(t, v.kind != "" && v.since == 0, "%+v", f)
		if v.kind != "" {
			require.True(t, f.hist.fin || f.hist.dead, "%+v", f)
			require.NotEmpty(t, v.kind.Info().Title)
		}

		// What is not reported by the time it is due is never reported: the
		// loop looks again then, and only then.
		if v.kind == "" && v.due == 0 {
			later := f
			later.now += int64(24 * time.Hour)
			require.Equal(t, verdict{}, diagnose(&later), "%+v", f)
		}

		// Time alone does not turn inventory into an alarm.
		if v.kind != "" && v.kind.Severity() == Inventory {
			later := f
			later.now += int64(24 * time.Hour)
			later.open = v.kind
			require.Equal(t, v.kind, diagnose(&later).kind, "%+v", f)
		}

		// Fresh progress postpones every warning that is not out yet.
		moved := f
		moved.progressAt = f.now
		if got := diagnose(&moved); got.kind != "" {
			require.Equal(t, Inventory, got.kind.Severity(), "%+v", f)
		}
	}
}
