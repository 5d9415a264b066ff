package tcpstate

// The kinds of connections that the peer has closed and this program has not.
const (
	KindCloseWaitUnreadBody Kind = "close_wait.unread_body"
	KindCloseWaitNotReading Kind = "close_wait.not_reading"
	KindCloseWaitEOFSeen    Kind = "close_wait.eof_seen"
	KindCloseWaitErrorPath  Kind = "close_wait.error_path"
	KindCloseWaitNeverRead  Kind = "close_wait.never_read"
	KindCloseWaitIdleInPool Kind = "close_wait.idle_in_pool"
)

const closeWaitLasts = "CLOSE-WAIT has no timeout: it lasts until this program closes the connection."

var closeWaitKinds = []kindRow{{
	KindInfo: KindInfo{
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
		Checks:  []string{checkSocket},
	},
	say:         (*story).unreadBody,
	consequence: closeWaitLasts,
}, {
	KindInfo: KindInfo{
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
		Checks:  []string{checkSocket},
	},
	say:         (*story).notReading,
	consequence: closeWaitLasts,
}, {
	KindInfo: KindInfo{
		Kind: KindCloseWaitEOFSeen, Severity: Warning, Phase: PhasePassiveClose,
		Title:   "end of stream was read, connection never closed",
		Meaning: "Read returned io.EOF at a known line; since then nothing was written and nobody closed.",
		Causes: []string{
			"the read loop returns on io.EOF without Close",
			"Close is left to another goroutine that waits for something else",
		},
		Fix:     "defer conn.Close() where the connection is accepted or dialed",
		Default: "30 s after EOF, the peer's FIN or the last progress",
		Checks:  []string{checkSocket},
	},
	say:         (*story).eofSeen,
	consequence: closeWaitLasts,
}, {
	KindInfo: KindInfo{
		Kind: KindCloseWaitErrorPath, Severity: Warning, Phase: PhasePassiveClose,
		Title:   "given up after an error, never closed",
		Meaning: "The last Read failed, nobody touched the connection since, and the peer has closed.",
		Causes: []string{
			"an error path returns without Close",
			"the loser of a race against a timeout is dropped",
		},
		Fix:     "close the connection on every error path",
		Default: "30 s after the peer's FIN or the last progress",
		Checks:  []string{checkSocket},
	},
	say:         (*story).errorPath,
	consequence: closeWaitLasts,
}, {
	KindInfo: KindInfo{
		Kind: KindCloseWaitNeverRead, Severity: Warning, Phase: PhasePassiveClose,
		Title:   "accepted, never touched, peer gone",
		Meaning: "The connection was accepted, never read or written, and the peer has closed.",
		Causes: []string{
			"the connection was shed (limit, filter) without Close",
			"it is parked in a queue whose workers are stuck",
		},
		Fix:     "close what is not served; bound the queue behind Accept",
		Default: "30 s after the peer's FIN",
		Checks:  []string{checkSocket},
	},
	say:         (*story).neverRead,
	consequence: closeWaitLasts,
}, {
	KindInfo: KindInfo{
		Kind: KindCloseWaitIdleInPool, Severity: Inventory, Phase: PhasePassiveClose,
		Title:   "idle connection, closed by the peer",
		Meaning: "The peer closed a connection that is idle with all its traffic complete: a pool without a reader holds it until its next checkout.",
		Causes: []string{
			"the server's idle timeout is shorter than the pool's",
			"the server was restarted",
		},
		Fix:     "set the pool's idle limit below the server's idle timeout",
		Default: "at once",
		Checks:  []string{checkSocket},
	},
	say:         (*story).idleInPool,
	consequence: "",
}}
