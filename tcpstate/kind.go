package tcpstate

import (
	"fmt"
	"slices"
)

// Kind names what is wrong with a connection, family first: "close_wait.eof_seen".
// The kinds this version can report, with their meaning, are listed by Kinds.
type Kind string

// The kinds of findings.
const (
	KindCloseWaitUnreadBody Kind = "close_wait.unread_body"
	KindCloseWaitNotReading Kind = "close_wait.not_reading"
	KindCloseWaitEOFSeen    Kind = "close_wait.eof_seen"
	KindCloseWaitErrorPath  Kind = "close_wait.error_path"
	KindCloseWaitNeverRead  Kind = "close_wait.never_read"
	KindCloseWaitIdleInPool Kind = "close_wait.idle_in_pool"
	KindLeakCollected       Kind = "leak.collected"
	KindLeakDeadSocket      Kind = "leak.dead_socket"
)

// Severity says how much a finding asks of a person. The zero value is not a
// severity.
type Severity uint8

// The severities, from least to most urgent.
const (
	// Inventory is worth seeing on a gauge or a page; never a span, never an alert.
	Inventory Severity = iota + 1
	// Warning is backed by evidence: code that misbehaves or a dead path.
	Warning
	// Error means that the service refuses or loses work now.
	Error
)

// String returns the severity in lower case, as it stands on metrics.
func (s Severity) String() string {
	switch s {
	case Inventory:
		return "inventory"
	case Warning:
		return "warning"
	case Error:
		return "error"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts the String forms.
func (s *Severity) UnmarshalText(text []byte) error {
	for v := Inventory; v <= Error; v++ {
		if v.String() == string(text) {
			*s = v
			return nil
		}
	}
	return fmt.Errorf("tcpstate: unknown severity %q", text)
}

// KindInfo describes a kind.
type KindInfo struct {
	Kind     Kind
	Severity Severity
	Phase    Phase
	Title    string   // the verdict in plain words
	Meaning  string   // what was seen, and why it is wrong
	Causes   []string // likely causes, likeliest first
	Fix      string   // what to do about the likeliest
	Default  string   // threshold in the default configuration
}

// kinds is the one table of kinds; docs/findings.md is made from it.
//
//go:generate go test -run ^TestTheDocumentationOfKindsIsUpToDate$ -update .
var kinds = []KindInfo{{
	Kind: KindCloseWaitUnreadBody, Severity: Warning, Phase: PhasePassiveClose,
	Title:   "response body never closed",
	Meaning: "The peer closed, the request that uses the connection has not ended, and what the peer sent waits unread.",
	Causes: []string{
		"an error or status check returns before resp.Body.Close",
		"the response is dropped although its body is open",
		"the goroutine that reads the body is blocked elsewhere",
	},
	Fix:     "defer resp.Body.Close() right after the error check; an early return before it is the usual cause",
	Default: "30 s after the peer's FIN or the last progress",
}, {
	Kind: KindCloseWaitNotReading, Severity: Warning, Phase: PhasePassiveClose,
	Title:   "peer closed, nobody has noticed",
	Meaning: "The peer's FIN waits unread: no Read was made since it came, and no write made progress.",
	Causes: []string{
		"the goroutine that owns the connection is blocked on something else",
		"an HTTP handler waits while the request body is unread, so that net/http cannot see the close",
		"a hijacked or upgraded connection is only written to",
	},
	Fix:     "keep a Read outstanding, or end the wait when the peer leaves",
	Default: "30 s after the peer's FIN or the last progress",
}, {
	Kind: KindCloseWaitEOFSeen, Severity: Warning, Phase: PhasePassiveClose,
	Title:   "end of stream was read, connection never closed",
	Meaning: "Read returned io.EOF at a known line; since then nothing was written and nobody closed.",
	Causes: []string{
		"the read loop returns on io.EOF without Close",
		"Close is left to another goroutine that waits for something else",
	},
	Fix:     "defer conn.Close() where the connection is accepted or dialed",
	Default: "30 s after EOF, the peer's FIN or the last progress",
}, {
	Kind: KindCloseWaitErrorPath, Severity: Warning, Phase: PhasePassiveClose,
	Title:   "given up after an error, never closed",
	Meaning: "The last Read failed, nobody touched the connection since, and the peer has closed.",
	Causes: []string{
		"an error path returns without Close",
		"the loser of a race against a timeout is dropped",
	},
	Fix:     "close the connection on every error path",
	Default: "30 s after the peer's FIN or the last progress",
}, {
	Kind: KindCloseWaitNeverRead, Severity: Warning, Phase: PhasePassiveClose,
	Title:   "accepted, never touched, peer gone",
	Meaning: "The connection was accepted, never read or written, and the peer has closed.",
	Causes: []string{
		"the connection was shed (limit, filter) without Close",
		"it is parked in a queue whose workers are stuck",
	},
	Fix:     "close what is not served; bound the queue behind Accept",
	Default: "30 s after the peer's FIN",
}, {
	Kind: KindCloseWaitIdleInPool, Severity: Inventory, Phase: PhasePassiveClose,
	Title:   "idle connection, closed by the peer",
	Meaning: "The peer closed a connection that is idle with all its traffic complete: a pool without a reader holds it until its next checkout.",
	Causes: []string{
		"the server's idle timeout is shorter than the pool's",
		"the server was restarted",
	},
	Fix:     "set the pool's idle limit below the server's idle timeout",
	Default: "at once",
}, {
	Kind: KindLeakCollected, Severity: Warning, Phase: PhaseAbnormal,
	Title:   "connection dropped without Close",
	Meaning: "The last reference to the connection is gone and nobody had closed it; the descriptor stays open until a later garbage collection.",
	Causes: []string{
		"an early return between dial or accept and Close",
		"a connection that lost a race is dropped",
	},
	Fix:     "close it where it was made, or hand it to something that does",
	Default: "at garbage collection",
}, {
	Kind: KindLeakDeadSocket, Severity: Warning, Phase: PhaseAbnormal,
	Title:   "dead socket still held open",
	Meaning: "The kernel has ended the connection (state CLOSE), but the program still holds its descriptor. Such a socket is absent from ss and netstat.",
	Causes: []string{
		"a leaked CLOSE-WAIT connection that was reset by a keepalive probe",
		"a reset or timeout that nobody read",
	},
	Fix:     "close the connection when an operation fails; keep a Read outstanding to learn of it",
	Default: "30 s after the end of the connection or the last progress; at once when it was reported before",
}}

// Kinds returns a description of every kind that this version can report. The
// caller owns the slice.
func Kinds() []KindInfo {
	all := make([]KindInfo, 0, len(kinds))
	for i := range kinds {
		all = append(all, kinds[i].clone())
	}
	return all
}

// Info returns the description of k, and the zero KindInfo for an unknown kind.
func (k Kind) Info() KindInfo { return k.info().clone() }

// Severity returns the severity of k, 0 for an unknown kind.
func (k Kind) Severity() Severity { return k.info().Severity }

// info returns the description of k, not to be changed.
func (k Kind) info() *KindInfo {
	for i := range kinds {
		if kinds[i].Kind == k {
			return &kinds[i]
		}
	}
	return new(KindInfo)
}

func (k *KindInfo) clone() KindInfo {
	c := *k
	c.Causes = slices.Clone(k.Causes)
	return c
}
