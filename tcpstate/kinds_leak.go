package tcpstate

// The kinds of descriptors that are held, or lost, for nothing.
const (
	KindLeakCollected   Kind = "leak.collected"
	KindLeakDeadSocket  Kind = "leak.dead_socket"
	KindLeakPoolPerCall Kind = "leak.pool_per_call"
	KindLeakNotReturned Kind = "leak.not_returned"
)

var leakKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindLeakCollected, Severity: Warning, Event: true, Phase: PhaseAbnormal,
		Title:   "connection dropped without Close",
		Meaning: "The last reference to the connection is gone and nobody had closed it; the descriptor stays open until a later garbage collection.",
		Causes: []string{
			"an early return between dial or accept and Close",
			"a connection that lost a race is dropped",
		},
		Fix:     "close it where it was made, or hand it to something that does",
		Default: "at garbage collection",
		Checks:  []string{"ls -l /proc/{pid}/fd | grep -c socket:"},
	},
	say:         (*story).collected,
	consequence: "Each one holds a descriptor until the garbage collector finds it, which may be long.",
}, {
	KindInfo: KindInfo{
		Kind: KindLeakDeadSocket, Severity: Warning, Phase: PhaseAbnormal,
		Title:   "dead socket still held open",
		Meaning: "The kernel has ended the connection (state CLOSE), but the program still holds its descriptor. Such a socket is absent from ss and netstat.",
		Causes: []string{
			"a leaked CLOSE-WAIT connection that was reset by a keepalive probe",
			"a reset or timeout that nobody read",
		},
		Fix:     "close the connection when an operation fails; keep a Read outstanding to learn of it",
		Default: "30 s after the end of the connection or the last progress; at once when it was reported before",
		Checks:  []string{"lsof -nP -p {pid} | grep 'protocol: TCP'"},
	},
	say:         (*story).deadSocket,
	consequence: "The descriptor stays taken until the program closes it.",
}, {
	KindInfo: KindInfo{
		Kind: KindLeakPoolPerCall, Severity: Warning, Phase: PhaseTransfer, Subject: SubjectSite,
		Title:   "a new pool for every call",
		Meaning: "One line makes pools of connections again and again, and none of them has used a connection twice: each leaves its idle connection behind.",
		Causes: []string{
			"an http.Client or Transport is made where the request is made",
			"a client of a service is made for each job",
		},
		Fix:     "make the client once, where the program starts, and share it: it is safe for concurrent use",
		Default: "10 pools within a minute, no connection used twice",
		Checks:  []string{"ss -tnp state established | grep -c pid={pid},"},
	},
	say:         (*story).poolPerCall,
	consequence: "Every call pays for a new connection, and holds a descriptor until the idle timeout, or for ever.",
}, {
	KindInfo: KindInfo{
		Kind: KindLeakNotReturned, Severity: Warning, Phase: PhaseTransfer,
		Title:   "connection taken from the pool, not given back",
		Meaning: "The connection is lent out, no byte has moved on it, and somebody waits for a connection of this pool. With Thresholds.Held set it is reported although nobody waits.",
		Causes: []string{
			"rows, a statement or a transaction is not closed on some path",
			"a response body is neither read to its end nor closed, and MaxConnsPerHost is reached",
			"the borrower is blocked on something else",
		},
		Fix:     "give it back on every path: defer rows.Close(), tx.Rollback() or conn.Close()",
		Default: "30 s without a byte, while somebody waits; without that, off",
		Checks:  []string{checkSocket},
	},
	say:         (*story).notReturned,
	consequence: "When all connections are lent out like this, everybody waits for ever.",
}}
