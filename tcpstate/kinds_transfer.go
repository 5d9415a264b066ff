package tcpstate

// The kinds of open connections whose peer, or path, does not do its part.
const (
	KindPeerUnresponsive Kind = "peer.unresponsive"
	KindPeerDeadProbes   Kind = "peer.dead_probes"
	KindPeerNotReading   Kind = "peer.not_reading"
	KindPeerNoResponse   Kind = "peer.no_response"
	KindPeerSilent       Kind = "peer.silent"
)

// KindLocalNotReading is about open connections whose application does not
// take what arrives.
const KindLocalNotReading Kind = "local.not_reading"

// KindIdleUnverifiable is about idle connections of which nobody can know.
const KindIdleUnverifiable Kind = "idle.unverifiable"

const (
	checkPeer = "ss -tinop dst {remote}"
	checkDump = "tcpdump -ni any host {rhost} and port {rport} and port {lport}"
)

var peerKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindPeerUnresponsive, Severity: Warning, Phase: PhaseTransfer,
		Title:   "peer stopped answering while we send",
		Meaning: "What was sent is not acknowledged, although the kernel has sent it again at least three times. A slow program at the other end would not matter: its kernel acknowledges.",
		Causes: []string{
			"the peer's host is gone: power, crash, a virtual machine or container that was moved",
			"the path is gone: a link, a route, a firewall",
			"after_idle: a middlebox (NAT, load balancer) forgot the connection while it was idle",
			"large_segments: the path drops segments of full size, and the ICMP message that would say so",
		},
		Fix:     "set a user timeout (DetectWithin on the dialer), and deadlines on requests",
		Default: "10 s without an acknowledgement, after at least three retransmissions",
		Checks:  []string{checkPeer, checkDump},
	},
	say:         (*story).unresponsive,
	consequence: "Writes succeed until the send buffer is full; whoever waits for an answer waits until the kernel gives up.",
}, {
	KindInfo: KindInfo{
		Kind: KindPeerDeadProbes, Severity: Warning, Phase: PhaseTransfer,
		Title:   "idle connection, peer does not answer probes",
		Meaning: "At least two keepalive probes in a row got no answer from the kernel at the other end.",
		Causes: []string{
			"the peer's host is gone",
			"a middlebox forgot the connection while it was idle",
		},
		Fix:     "let the pool drop it; keepalive below the idle limit of the path keeps such connections alive",
		Default: "two lost probes; not over loopback",
		Checks:  []string{checkPeer, checkDump},
	},
	say:         (*story).deadProbes,
	consequence: "Whoever uses the connection next waits for nothing.",
}, {
	KindInfo: KindInfo{
		Kind: KindPeerNotReading, Severity: Warning, Phase: PhaseTransfer,
		Title:   "peer is alive but does not read",
		Meaning: "The peer's window is closed and stays so: its kernel answers the probes, its program takes nothing.",
		Causes: []string{
			"the peer's program is stuck, or waits for something else",
			"both ends write and neither reads",
			"the peer reads far more slowly than we write",
		},
		Fix:     "set a write deadline; look at what the program at the other end does",
		Default: "30 s without a byte acknowledged",
		Checks:  []string{checkPeer},
	},
	say:         (*story).peerNotReading,
	consequence: "Write blocks, with every lock that is held around it.",
}, {
	KindInfo: KindInfo{
		Kind: KindPeerNoResponse, Severity: Warning, Phase: PhaseTransfer,
		Title:   "request was received, answer does not come",
		Meaning: "The request was acknowledged by the kernel at the other end, so the path is there, and nothing comes back.",
		Causes: []string{
			"the server's program is busy, stuck, or waits for something itself",
			"a proxy in between took the request and lost it",
		},
		Fix:     "look at the server: the network has done its part",
		Default: "no first byte at 80 % of the deadline of the request's context, or silence for longer than the declared Expect.Silence; else off",
		Checks:  []string{checkPeer},
	},
	say:         (*story).noResponse,
	consequence: "The request fails at its deadline.",
}, {
	KindInfo: KindInfo{
		Kind: KindPeerSilent, Severity: Warning, Phase: PhaseTransfer,
		Title:   "heartbeat of the peer is missing",
		Meaning: "The peer was declared to be heard at least once in Expect.Heartbeat, and was not for one and a half times as long. What we send does not count.",
		Causes: []string{
			"the peer's program is stuck",
			"its host or the path is gone, and our pings lie in the send buffer",
			"pings are postponed by other traffic, or wait behind a blocked write",
		},
		Fix:     "close the connection and dial again; measure silence by what arrives, not by what is sent",
		Default: "1.5 times the declared Expect.Heartbeat; else off",
		Checks:  []string{checkPeer, checkDump},
	},
	say:         (*story).heartbeatMissing,
	consequence: "Whatever relies on the peer being there relies on nothing.",
}}

var localKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindLocalNotReading, Severity: Warning, Phase: PhaseTransfer,
		Title:   "bytes have arrived, nobody reads them",
		Meaning: "The receive queue holds bytes, and the application has neither taken one nor tried to.",
		Causes: []string{
			"the goroutine that reads is blocked, such as in a channel send",
			"a response body is kept open and not read",
			"both ends write and neither reads",
		},
		Fix:     "find the goroutine that owns the connection in a goroutine dump, and what it waits for",
		Default: "30 s without a byte taken",
		Checks:  []string{checkSocket},
	},
	say:         (*story).localNotReading,
	consequence: "When the receive buffer is full, the peer cannot send any more.",
}}

var idleKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindIdleUnverifiable, Severity: Inventory, Phase: PhaseTransfer,
		Title:   "idle for long, peer not verifiable",
		Meaning: "Nothing came from the peer for a long time and no keepalive asked for it: a connection that is alive looks the same as one whose peer has vanished.",
		Causes: []string{
			"keepalive is off, or slower than what middleboxes keep idle connections for",
		},
		Fix:     "keepalive below 4 minutes (DetectWithin on the dialer or listener), or Watch.Probe before use",
		Default: "10 min without a sign of the peer",
		Checks:  []string{checkPeer},
	},
	say: (*story).idleUnverifiable,
}}

// The kinds of settings that notice a vanished peer late, or wrongly.
const (
	KindKeepaliveOff           Kind = "keepalive.off"
	KindKeepaliveSlow          Kind = "keepalive.slow"
	KindKeepaliveUserTimeout   Kind = "keepalive.user_timeout_overrides"
	KindKeepaliveContradictory Kind = "keepalive.contradictory"
)

const (
	auditDefault   = "once for each line, when a connection has been idle for 30 s"
	auditFix       = "DetectWithin on the dialer or listener sets keepalive and user timeout so that they agree"
	checkKeepalive = "ss -tnop state established | grep pid={pid},"
)

var keepaliveKinds = []kindRow{{
	KindInfo: KindInfo{
		Kind: KindKeepaliveOff, Severity: Audit, Phase: PhaseTransfer, Subject: SubjectSite,
		Title:   "keepalive is off",
		Meaning: "Connections made here lie idle with keepalive off: a peer that vanishes is never noticed, and a middlebox may forget them.",
		Causes:  []string{"KeepAlive is negative in the net.Dialer or net.ListenConfig", "the connections were not made by package net"},
		Fix:     auditFix, Default: auditDefault, Checks: []string{checkKeepalive},
	},
	say: (*story).keepaliveOff,
}, {
	KindInfo: KindInfo{
		Kind: KindKeepaliveSlow, Severity: Audit, Phase: PhaseTransfer, Subject: SubjectSite,
		Title:   "keepalive is slower than middleboxes",
		Meaning: "The first keepalive probe comes after more than 4 minutes of silence: some load balancers and NATs have forgotten the connection by then.",
		Causes:  []string{"KeepAlive or KeepAliveConfig.Idle is set to many minutes"},
		Fix:     auditFix, Default: auditDefault, Checks: []string{checkKeepalive},
	},
	say: (*story).keepaliveSlow,
}, {
	KindInfo: KindInfo{
		Kind: KindKeepaliveUserTimeout, Severity: Audit, Phase: PhaseTransfer, Subject: SubjectSite,
		Title:   "one lost probe ends the connection",
		Meaning: "TCP_USER_TIMEOUT is so short that the kernel gives up after one unanswered keepalive probe; the number of probes does not count.",
		Causes:  []string{"the user timeout was set without regard to the keepalive times"},
		Fix:     auditFix, Default: auditDefault, Checks: []string{checkKeepalive},
	},
	say: (*story).keepaliveUserTimeout,
}, {
	KindInfo: KindInfo{
		Kind: KindKeepaliveContradictory, Severity: Audit, Phase: PhaseTransfer, Subject: SubjectSite,
		Title:   "user timeout ends before the first probe",
		Meaning: "TCP_USER_TIMEOUT is shorter than the keepalive idle time: of the two, one is not meant as it stands.",
		Causes:  []string{"the user timeout is meant for writes, keepalive is left at its default"},
		Fix:     auditFix, Default: auditDefault, Checks: []string{checkKeepalive},
	},
	say: (*story).keepaliveContradictory,
}}
