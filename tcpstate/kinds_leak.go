package tcpstate

// The kinds of descriptors that are held, or lost, for nothing.
const (
	KindLeakCollected  Kind = "leak.collected"
	KindLeakDeadSocket Kind = "leak.dead_socket"
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
}}
