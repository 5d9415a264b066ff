package tcpstate

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata and docs anew")

// golden compares got with a file of testdata, or writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "make it with -update")
	require.Equal(t, string(want), string(got))
}

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// example makes up a finding of kind k that is 30 s old.
func example(k Kind, role Role, change ...func(*Finding)) Finding {
	f := Finding{
		ID: 7, Kind: k, Severity: k.Severity(), Phase: k.Info().Phase, State: CloseWait,
		Since: noon.Add(-30 * time.Second), DetectedAt: noon, ReportedAt: noon,
		Title: k.Info().Title, Fix: k.Info().Fix,
		Group: Group{ID: 7, Open: 1, Opened: 1, Since: noon},
		Evidence: Evidence{
			PeerFIN: age30, Died: unknownAge, AppRead: Duration(31 * time.Second), DataIn: age30, DataOut: Duration(33 * time.Second), ACK: age30,
			BytesIn: 20480, BytesOut: 512, EverRead: true, ReadsSeen: true,
		},
	}
	charge := Frame{Function: "github.com/acme/shop/billing.(*Client).Charge", File: "billing/client.go", Line: 88, short: "shop/billing.(*Client).Charge"}
	pay := Frame{Function: "github.com/acme/shop/checkout.(*Handler).Pay", File: "checkout/pay.go", Line: 141, short: "shop/checkout.(*Handler).Pay"}
	serve := Frame{Function: "github.com/acme/shop/api.Serve", File: "api/serve.go", Line: 33, short: "shop/api.Serve"}
	if role == Client {
		f.Subject = Subject{
			Type: SubjectConn, ID: 4127, Name: "payments", Target: "payments.internal:443",
			Local: "10.0.9.4:53122", Remote: "10.0.3.7:443", Opened: noon.Add(-10 * time.Minute),
		}
		f.Sites = []Site{{Role: "dial", Frames: []Frame{charge, pay}}}
	} else {
		f.Subject = Subject{
			Type: SubjectConn, ID: 12, Role: Server, Name: "api", Target: ":8080",
			Local: "10.0.9.4:8080", Remote: "192.0.2.77:40112", Opened: noon.Add(-3 * time.Minute),
		}
		f.Sites = []Site{{Role: "accept", Frames: []Frame{serve}}}
	}
	for _, c := range change {
		c(&f)
	}
	explain(&f, process{pid: 4242, fdLimit: 1024, fdUsed: 264})
	return f
}

const age30 = Duration(30 * time.Second)

func unreadBytes(n int) func(*Finding) { return func(f *Finding) { f.Evidence.RecvQueue = n } }

func use(name string, http bool) func(*Finding) {
	return func(f *Finding) {
		f.Subject.Use, f.Subject.UseOpen, f.Subject.UseFor, f.Subject.HTTP = name, true, Duration(130*time.Second), http
		f.Sites[0].Role = "request"
		if !http {
			f.Sites[0].Role = "use"
		}
	}
}

func handler(name string, told *bool) func(*Finding) {
	return func(f *Finding) {
		use(name, true)(f)
		f.Evidence.ContextDone = told
		create := Frame{Function: "github.com/acme/shop/reports.(*Server).Create", File: "reports/http.go", Line: 57, short: "shop/reports.(*Server).Create"}
		f.Sites = append([]Site{{Role: "handler", Frames: []Frame{create}}}, Site{Role: "accept", Frames: f.Sites[0].Frames})
	}
}

func many(n int, perMinute float64) func(*Finding) {
	return func(f *Finding) { f.Group.Open, f.Group.Opened, f.Group.PerMinute = n, uint64(n), perMinute }
}

func eof(role string) func(*Finding) {
	return func(f *Finding) {
		f.Evidence.EOFRead = role == "eof"
		loop := Frame{Function: "github.com/acme/shop/wire.(*Session).loop", File: "wire/session.go", Line: 204, short: "shop/wire.(*Session).loop"}
		f.Sites = append([]Site{{Role: role, Frames: []Frame{loop}}}, f.Sites...)
	}
}

func dead(cause string) func(*Finding) {
	return func(f *Finding) {
		f.Cause, f.State = cause, Closed
		f.Evidence.PeerFIN, f.Evidence.Died, f.Evidence.DataIn, f.Evidence.ACK = unknownAge, age30, Duration(4*time.Minute), Duration(42*time.Second)
	}
}

type traced string

func (t traced) TraceString() string { return string(t) }

// examples has at least one finding of each kind.
var examples = slices.Concat(
	dialExamples,
	listenerExamples,
	transferExamples,
	poolExamples,
	closeWaitExamples,
	closingExamples,
	tunnelExamples,
)

type exampleRow struct {
	name string
	Finding
}

var closeWaitExamples = []exampleRow{
	{"unread_body", example(KindCloseWaitUnreadBody, Client, use("GET payments.internal:443", true), unreadBytes(16060), many(41, 4), func(f *Finding) {
		f.Tokens.Use = traced("4bf92f3577b34da6a3ce929d0e0e4736")
	})},
	{"unread_body_fin_only", example(KindCloseWaitUnreadBody, Client, use("GET payments.internal:443", true))},
	{"unread_body_one_byte", example(KindCloseWaitUnreadBody, Client, use("HEAD payments.internal:443", true), unreadBytes(1))},
	{"unread_body_not_http", example(KindCloseWaitUnreadBody, Client, use("LISTEN invoices", false), unreadBytes(77))},
	{"not_reading_handler", example(KindCloseWaitNotReading, Server, handler("POST /v1/reports", new(bool)), unreadBytes(812), many(12, 0))},
	{"not_reading_handler_told", example(KindCloseWaitNotReading, Server, handler("POST /v1/reports", new(true)))},
	{"not_reading_handler_no_context", example(KindCloseWaitNotReading, Server, handler("POST /v1/reports", nil))},
	{"not_reading_hijacked", example(KindCloseWaitNotReading, Server, handler("GET /ws", nil), func(f *Finding) { f.Evidence.Hijacked = true })},
	{"not_reading_server", example(KindCloseWaitNotReading, Server, unreadBytes(5), many(2, -1.5))},
	{"not_reading_client", example(KindCloseWaitNotReading, Client, func(f *Finding) { f.Subject.Name = "" })},
	{"not_reading_attached", example(KindCloseWaitNotReading, Server, func(f *Finding) {
		f.Evidence.ReadsSeen, f.Evidence.EverRead, f.Evidence.AppRead = false, false, unknownAge
		f.Subject.Name = ""
	})},
	{"eof_seen", example(KindCloseWaitEOFSeen, Server, eof("eof"), many(300, 123.4))},
	{"eof_seen_handler", example(KindCloseWaitEOFSeen, Server, handler("GET /v1/reports/{id}", new(true)), func(f *Finding) { f.Evidence.EOFRead = true })},
	{"error_path", example(KindCloseWaitErrorPath, Client, eof("error"), func(f *Finding) {
		f.Cause, f.Evidence.AppRead = "deadline", Duration(2*time.Hour+5*time.Minute)
	})},
	{"error_path_copy", example(KindCloseWaitErrorPath, Client, eof("error"), func(f *Finding) { f.Cause = "copy" })},
	{"never_read", example(KindCloseWaitNeverRead, Server, unreadBytes(18), func(f *Finding) {
		f.Evidence.EverRead, f.Evidence.AppRead, f.Evidence.DataOut, f.Evidence.BytesOut = false, unknownAge, unknownAge, 0
	})},
	{"never_read_silent", example(KindCloseWaitNeverRead, Server, func(f *Finding) {
		f.Evidence.EverRead, f.Evidence.AppRead, f.Evidence.DataIn, f.Evidence.DataOut = false, unknownAge, unknownAge, unknownAge
	})},
	{"idle_in_pool", example(KindCloseWaitIdleInPool, Client)},
	{"idle_in_pool_many", example(KindCloseWaitIdleInPool, Client, many(16, 0.4))},
	{"idle_in_pool_then_dead", example(KindCloseWaitIdleInPool, Client, dead("reset"), func(f *Finding) { f.Evidence.PeerFIN = Duration(time.Minute) })},
	{"idle_in_pool_dead", example(KindCloseWaitIdleInPool, Client, dead("timeout"))},
	{"collected", example(KindLeakCollected, Client, func(f *Finding) {
		f.State, f.Evidence.PeerFIN = Established, unknownAge
	})},
	{"collected_many", example(KindLeakCollected, Server, unreadBytes(300), many(64, 8))},
	{"dead_socket_reset", example(KindLeakDeadSocket, Server, dead("reset"))},
	{"dead_socket_was_close_wait", example(KindLeakDeadSocket, Server, dead("reset"), func(f *Finding) {
		f.Evidence.PeerFIN, f.Was = Duration(95*time.Second), KindCloseWaitNotReading
	})},
	{"dead_socket_timeout", example(KindLeakDeadSocket, Client, dead("timeout"), use("SELECT orders", false))},
	{"dead_socket_clean_end", example(KindLeakDeadSocket, Server, dead("clean_end"), eof("eof"), func(f *Finding) { f.Evidence.PeerFIN = age30 })},
	{"dead_socket_unknown", example(KindLeakDeadSocket, Server, dead("unknown"), func(f *Finding) { f.Evidence.ReadsSeen = false })},
	{"ipv6", example(KindCloseWaitNotReading, Server, func(f *Finding) {
		f.Subject.Local, f.Subject.Remote = "[2001:db8::1]:8080", "[2001:db8:1:2::77]:40112"
	})},
	{"no_code_known", example(KindCloseWaitNotReading, Client, func(f *Finding) { f.Sites = nil })},
	{"cleared", example(KindCloseWaitUnreadBody, Client, many(0, 0), func(f *Finding) {
		f.ClearedAt, f.Group.Opened = noon.Add(252*time.Second), 41
	})},
	{"became", example(KindCloseWaitNotReading, Server, many(0, 0), func(f *Finding) {
		f.ClearedAt, f.Group.Opened, f.Became = noon.Add(61*time.Second), 1, KindLeakDeadSocket
	})},
}

// fromThisEnd is what the findings say whose cause the other end or something
// between knows. All others are certain.
const fromThisEnd = "cannot be known from this end"

var oneSided = map[Kind]bool{KindDialTupleStuck: true, KindIdleUnverifiable: true, KindResetUnexplained: true}

func TestReports(t *testing.T) {
	seen := make(map[Kind]bool)
	for _, ex := range examples {
		t.Run(ex.name, func(t *testing.T) {
			got := ex.String()
			golden(t, filepath.Join("testdata", "report", ex.name+".golden"), []byte(got))
			for l := range strings.Lines(got) {
				l = strings.TrimSuffix(l, "\n")
				require.Equal(t, strings.TrimRight(l, " "), l)
				if !ex.ClearedAt.IsZero() || strings.HasPrefix(l, "    ") && !strings.HasPrefix(l, "         ") || strings.HasPrefix(l, "  check") {
					continue // code, commands and one-line reports are not broken
				}
				require.LessOrEqual(t, utf8.RuneCountInString(l), textWidth)
			}
			require.NotContains(t, got, "%!")
			require.NotContains(t, got, "-1ns")
			require.NotContains(t, got, " 1 bytes")
			require.NotContains(t, got, "  ago")
			if ex.ClearedAt.IsZero() {
				first, _, _ := strings.Cut(got, "\n")
				require.True(t, strings.HasSuffix(first, " "+string(ex.Kind)), "kind at the end of the first line")
				require.Contains(t, got, "  fix    ")
				require.Equal(t, oneSided[ex.Kind], strings.Contains(strings.Join(strings.Fields(got), " "), fromThisEnd), "it says what one end cannot know, and only then")
			}
		})
		seen[ex.Kind] = true
	}
	for _, k := range Kinds() {
		require.True(t, seen[k.Kind], k.Kind)
		if !oneSided[k.Kind] {
			require.NotContains(t, k.Meaning, fromThisEnd, k.Kind)
		}
	}
}

func TestReportsShowAtMostThreeLinesOfCode(t *testing.T) {
	f := example(KindCloseWaitEOFSeen, Server, eof("eof"))
	fr := f.Sites[0].Frames[0]
	f.Sites = []Site{
		{Role: "eof", Frames: []Frame{fr, {Function: "b.B", File: "b.go", Line: 2}, {Function: "c.C", File: "c.go", Line: 3}}},
		{Role: "accept", Frames: []Frame{{Function: "d.D", File: "d.go", Line: 4}, {Function: "e.E", File: "e.go", Line: 5}}},
	}
	got := f.String()
	require.Contains(t, got, "b.B")
	require.Contains(t, got, "d.D")
	for _, absent := range []string{"c.C", "e.E"} {
		require.NotContains(t, got, absent)
	}
	f.Sites = f.Sites[:1]
	require.Contains(t, f.String(), "c.C")
}

func TestAWriterThatFailsIsReported(t *testing.T) {
	f := example(KindLeakCollected, Client)
	_, err := f.WriteTo(failing{})
	require.ErrorIs(t, err, errWriter)
	var tr Tracker
	defer tr.Close()
	require.ErrorIs(t, tr.Report(failing{}), errWriter)
}

var errWriter = errors.New("disk full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errWriter }

func TestDurationsAreShownInTwoUnits(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"?": -1, "0s": 0, "250ms": 250 * time.Millisecond, "1s": time.Second, "1.5s": 1500 * time.Millisecond,
		"9.9s": 9940 * time.Millisecond, "10s": 9960 * time.Millisecond, "59s": 59499 * time.Millisecond,
		"1m": 59500 * time.Millisecond, "2m10s": 130 * time.Second, "59m59s": time.Hour - 501*time.Millisecond,
		"1h": time.Hour - 499*time.Millisecond, "3h10m": 190 * time.Minute, "23h59m": 24*time.Hour - 31*time.Second,
		"1d": 24*time.Hour - 29*time.Second, "2d3h": 51 * time.Hour, "30d": 30 * 24 * time.Hour,
	} {
		require.Equal(t, want, age(d), "%v", time.Duration(d))
	}
}

func TestNumbersAreShownForReading(t *testing.T) {
	for want, n := range map[string]int{"0 bytes": 0, "1 byte": 1, "999 bytes": 999, "1,000 bytes": 1000, "16,060 bytes": 16060, "1,234,567 bytes": 1234567} {
		require.Equal(t, want, counted(n, "byte"))
	}
	for want, r := range map[string]float64{"0.1": 0.05, "4": 4, "4.2": 4.2, "10": 9.96, "123": 123.4, "5,000": 5000} {
		require.Equal(t, want, perMinute(r))
	}
}

func TestConsequencesAreComputed(t *testing.T) {
	for _, tt := range []struct {
		f    func(*Finding)
		p    process
		want string
	}{
		{many(2, 0), process{}, "2 connections like this from the same line."},
		{many(41, 4), process{}, "41 connections like this from the same line, 4 more each minute."},
		{many(41, 4), process{fdLimit: 1024, fdUsed: 264}, "41 connections like this from the same line, 4 more each minute: the limit of 1,024 open files is reached in about 3h10m."},
		{many(41, 0.06), process{fdLimit: 1 << 20, fdUsed: 264}, "41 connections like this from the same line, 0.1 more each minute."},
		{many(41, 4), process{fdLimit: 100, fdUsed: 264}, "41 connections like this from the same line, 4 more each minute."},
		{many(41, -4), process{fdLimit: 1024, fdUsed: 264}, "41 connections like this from the same line, 4 fewer each minute."},
	} {
		f := example(KindCloseWaitNotReading, Server, tt.f)
		require.Equal(t, tt.want, consequence(&f, tt.p))
	}
}

func TestGrowthIsThatOfTheRecentPast(t *testing.T) {
	const minute = int64(time.Minute)
	var w growth
	n := 0
	add := func(now int64, by int) { w.step(now, n); n += by }
	add(100*minute, 1)
	require.Zero(t, w.perMinute(100*minute, n), "the first is no growth")
	add(100*minute+1, 4)
	require.Zero(t, w.perMinute(100*minute+2, n), "nothing can be said so soon")
	require.InDelta(t, 2, w.perMinute(102*minute, n), 0.01)
	for i := range int64(120) {
		add((102+i)*minute, 3)
	}
	require.InDelta(t, 3, w.perMinute(222*minute, n), 0.4)
	require.InDelta(t, 1.5, w.perMinute(228*minute, n), 0.8, "it fades")
	require.Zero(t, w.perMinute(235*minute, n), "and ends")
	add(500*minute, 10)
	require.InDelta(t, 2, w.perMinute(500*minute, n), 0.01, "as many a while ago as before this")
	for range 20 {
		add(501*minute, -1)
	}
	require.Negative(t, w.perMinute(502*minute, n))
}

func TestPeerAddressesOfClientsAreShortened(t *testing.T) {
	for _, tt := range []struct {
		role         Role
		remote, want string
	}{
		{Client, "10.0.3.7:443", "10.0.3.7"},
		{Client, "[2001:db8::7]:443", "2001:db8::7"},
		{Server, "192.0.2.77:40112", "192.0.2.0/24"},
		{Server, "[::ffff:192.0.2.77]:40112", "192.0.2.0/24"},
		{Server, "[2001:db8:1:2::77]:40112", "2001:db8:1::/48"},
		{Server, "[fe80::1%eth0]:40112", "fe80::/48"},
		{Server, "", ""},
	} {
		require.Equal(t, tt.want, PeerForTelemetry(Subject{Role: tt.role, Remote: tt.remote}), tt.remote)
	}
}

func TestTextIsWrapped(t *testing.T) {
	var b bytes.Buffer
	wrap(&b, "  fix    ", "         ", "")
	require.Empty(t, b.String())
	wrap(&b, "> ", "  ", strings.Repeat("word ", 30)+strings.Repeat("x", 200)+" end")
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	require.Len(t, lines, 4)
	require.True(t, strings.HasPrefix(lines[0], "> word"))
	require.LessOrEqual(t, len(lines[0]), textWidth)
	require.Equal(t, "  end", lines[3])
}
