package tcpstate

import (
	"fmt"
	"slices"
)

// Kind names what is wrong with a connection, family first: "close_wait.eof_seen".
// The kinds this version can report, with their meaning, are listed by Kinds.
type Kind string

// Severity says how much a finding asks of a person. The zero value is not a
// severity.
type Severity uint8

// The severities, from least to most urgent.
const (
	// Count is for a metric only: single events that are normal in small numbers.
	Count Severity = iota + 1
	// Audit is about a configuration, once for each line of code.
	Audit
	// Inventory is worth seeing on a gauge or a page; never a span, never an alert.
	Inventory
	// Warning is backed by evidence: code that misbehaves or a dead path.
	Warning
	// Error means that the service refuses or loses work now.
	Error
)

// String returns the severity in lower case, as it stands on metrics.
func (s Severity) String() string {
	switch s {
	case Count:
		return "count"
	case Audit:
		return "audit"
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
	for v := Count; v <= Error; v++ {
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
	Severity Severity // unless the evidence asks for another one
	Phase    Phase
	Subject  SubjectType
	// Event: a fact of the past rather than a condition that lasts. The finding
	// stays open for ten minutes after the last one of its group.
	Event   bool
	Title   string   // the verdict in plain words
	Meaning string   // what was seen, and why it is wrong
	Causes  []string // likely causes, likeliest first
	Fix     string   // what to do about the likeliest
	// Checks are commands that show the same with other tools. Words in braces
	// stand for the subject's own: {local}, {remote}, {rhost}, {lport}, {pid},
	// and {host} of the target.
	Checks  []string
	Default string // threshold in the default configuration
}

// kindRow is a line of the one table of kinds.
type kindRow struct {
	KindInfo
	say         func(*story) // finds the words of Finding.Summary
	consequence string       // of one finding, if nobody acts
	noun        string       // what one finding counts as; empty: its subject
}

// kinds is the one table of kinds; docs/findings.md is made from it.
//
//go:generate go test -run ^TestTheDocumentationOfKindsIsUpToDate$ -update .
var kinds = slices.Concat(
	dialKinds,
	handshakeKinds,
	listenerKinds,
	acceptKinds,
	pathKinds,
	peerKinds,
	halfOpenKinds,
	localKinds,
	idleKinds,
	keepaliveKinds,
	closeWaitKinds,
	closingKinds,
	resetKinds,
	tunnelKinds,
	leakKinds,
	poolKinds,
	unusedKinds,
	processKinds,
)

// checkSocket shows the connection of a finding.
const checkSocket = "ss -tinp src {local} dst {remote}"

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
func (k Kind) info() *KindInfo { return &k.row().KindInfo }

// row returns the line of the table about k, an empty one for an unknown kind.
func (k Kind) row() *kindRow {
	for i := range kinds {
		if kinds[i].Kind == k {
			return &kinds[i]
		}
	}
	return new(kindRow)
}

func (k *KindInfo) clone() KindInfo {
	c := *k
	if c.Subject == "" && c.Kind != "" {
		c.Subject = SubjectConn
	}
	c.Causes, c.Checks = slices.Clone(k.Causes), slices.Clone(k.Checks)
	return c
}
