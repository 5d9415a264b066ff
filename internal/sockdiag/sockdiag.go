// Package sockdiag asks the kernel about TCP sockets by their addresses, also
// about those that no descriptor shows: closed ones that wait for their peer,
// half-open ones, and ones that nobody has accepted.
//
// It speaks NETLINK_SOCK_DIAG (sock_diag(7)), which needs no privileges, and
// reads a few counters in /proc/net. It sees one network namespace: that of the
// thread that called Open. What a kernel answers is never trusted to be well
// formed. Everywhere but on Linux all of it returns an error that matches
// errors.ErrUnsupported.
package sockdiag

import (
	"net/netip"
	"time"
)

// A Tuple names the socket to look up. Both addresses are of one family; an
// IPv4-mapped IPv6 address is its IPv4 address, whatever the family of the
// socket. Without a Remote (the zero AddrPort) the tuple is that of a listener.
type Tuple struct {
	Local, Remote netip.AddrPort

	// Device is the index of the network device that the socket is bound to
	// (SO_BINDTODEVICE), since the kernel finds such a socket only with it. 0
	// is none, or the one that the zone of an address names.
	Device uint32
}

// A Socket is what the kernel says of one TCP socket (struct inet_diag_msg in
// include/uapi/linux/inet_diag.h).
type Socket struct {
	Local, Remote netip.AddrPort // IPv4-mapped addresses as IPv4, without zone

	// State is the kernel's number, 1 to 12 (include/net/tcp_states.h). A
	// half-open connection of a listener is in SYN-RECV, 3. A closed socket in
	// FIN-WAIT-2 stays 5 when the kernel has shrunk it to a time-wait entry.
	State uint8

	Timer   Timer
	Retrans uint8         // unanswered retransmissions or probes of Timer; of SYN-ACKs in SYN-RECV
	Expires time.Duration // until Timer fires; 0 without a timer, or when it is overdue

	// RecvQueue and SendQueue are bytes not read, where a FIN counts as one,
	// and bytes not acknowledged. Of a listener they are the length and the
	// limit of the accept queue.
	RecvQueue, SendQueue uint32

	// Inode is 0 without a descriptor: closed, half-open, or not accepted yet.
	Inode  uint32
	UID    uint32
	Device uint32 // index of the network device it is bound to, or 0
	Cookie uint64 // SO_COOKIE: stays the same until the socket is gone, TIME-WAIT included

	// Shutdown is the directions that have ended, if HasShutdown: entries in
	// SYN-RECV and TIME-WAIT do not say.
	Shutdown    Shutdown
	HasShutdown bool

	// Fallback means that an MPTCP socket uses plain TCP, so that its TCP
	// socket is the connection. See Query.MPTCP.
	Fallback bool

	// Info is the struct tcp_info where it was asked for; nil in SYN-RECV and
	// TIME-WAIT. Its length depends on the kernel.
	Info []byte
}

// Timer is what a socket waits for (idiag_timer).
type Timer uint8

const (
	NoTimer       Timer = iota // nothing
	Retransmit                 // of data, a SYN, a SYN-ACK or a FIN
	Keepalive                  // or the end of a closed socket in FIN-WAIT-2
	TimeWaitTimer              // the entry ends
	ZeroWindow                 // a window probe
)

// Shutdown is a set of directions that have ended (INET_DIAG_SHUTDOWN).
type Shutdown uint8

const (
	ShutRead  Shutdown = 1 << iota // the peer's FIN came, or the application shut reading
	ShutWrite                      // our FIN was sent or waits to be, or the socket was closed
)

// Status is the answer to a lookup.
type Status uint8

const (
	// Unknown means that the kernel has not said: the answer was lost or could
	// not be read, the question was refused, or the tuple makes no sense. It
	// is never evidence that the socket is gone.
	Unknown Status = iota

	// Found means that Result.Socket is the socket of the tuple.
	Found

	// Gone means that the kernel has no such socket in its table. That is also
	// the case for one in CLOSE whose descriptor is still open.
	Gone
)

// A Result is the answer for one tuple.
type Result struct {
	Tuple  Tuple
	Status Status
	Socket Socket // if Found
}

// A Query says which sockets Dump returns. Its zero value is all of them.
type Query struct {
	// Family is that of the sockets. An IPv6 socket with IPv4 peers is of
	// family IPv6. Both cost one walk of the table.
	Family Family

	// States is a mask of states to return, bit 1<<n for number n, where 3
	// includes half-open connections. 0 is all. Sockets that are only bound are
	// in none of them.
	States uint32

	LocalPort, RemotePort uint16 // 0 is any

	// MPTCP returns the sockets of Multipath TCP connections in place of the
	// TCP sockets of their paths. They have the state that the application has
	// brought about; no lookup finds them. Those that fell back to TCP are
	// among them (Linux 6.18). Before Linux 5.9, which does not know the
	// question, it returns TCP sockets all the same, of which Fallback says
	// nothing.
	MPTCP bool

	// Info asks for Socket.Info, which is not there for MPTCP.
	Info bool

	// Max is the most sockets to take: 0 is 65536.
	Max int

	// Timeout ends the dump between two parts of the answer, of which the first
	// has to come: 0 is 100 ms. A part is up to 32 kB.
	Timeout time.Duration
}

// Family is a choice of address families.
type Family uint8

const (
	Both Family = iota // IPv4 and IPv6
	IPv4               // only
	IPv6               // only, with the IPv6 sockets of IPv4 peers
)

// Dumped is how a dump went.
type Dumped struct {
	Sockets int           // how many yield was given
	Cost    time.Duration // from the question to the last answer, yield included

	// Complete means that the kernel has walked its whole table and said so.
	// The table may have changed meanwhile: a socket may be missing or be there
	// twice. It is false after yield returned false, Max, Timeout, and when
	// the kernel says that the walk was disturbed or answers were lost.
	Complete bool
}

// Stats counts what a Conn has seen since Open.
type Stats struct {
	Asked, Found, Gone uint64 // questions for a tuple, and answers
	Moved              uint64 // answers about a socket that was leaving the table: asked once more
	Dumps, Dumped      uint64 // dumps, and sockets that they returned

	Refused   uint64 // questions that the kernel answered with an error other than ENOENT
	Lost      uint64 // questions that got no answer, or not the whole one
	Foreign   uint64 // datagrams that another process sent, dropped
	Oversized uint64 // datagrams larger than the buffer, dropped
	Malformed uint64 // messages that could not be read, dropped
	Stray     uint64 // messages that answer no open question, dropped
	Duplicate uint64 // second answers, dropped
	Overruns  uint64 // times that the kernel ran out of room for answers
}

// A Conn asks the kernel about sockets. It is not safe for concurrent use. The
// kernel answers while the question is being sent, so no call waits.
type Conn struct{ conn }

// Open returns a Conn that sees the network namespace of the calling thread. It
// fails where the kernel has no TCP diagnostics, with an error that matches
// errors.ErrUnsupported, and where a sandbox forbids them.
func Open() (*Conn, error) { return open() }

// Close closes the socket. Every later call fails with os.ErrClosed.
func (c *Conn) Close() error { return c.close() }

// Lookup appends a result for each tuple to dst, in order. It is exact and does
// not walk the table: some microseconds for a single tuple, less in company. It
// allocates nothing if dst has room.
//
// The results are valid whatever the error, which is the first reason why one
// of them is Unknown, if it is known.
//
// Of Multipath TCP it finds the TCP socket of the path with these addresses.
// That one knows little of the connection: it may stay in ESTABLISHED, with the
// Inode that it had, long after the application has closed (seen on Linux
// 6.18). Only a dump shows the rest, see Query.MPTCP.
func (c *Conn) Lookup(dst []Result, tuples []Tuple) ([]Result, error) {
	dst, _, err := c.lookup(dst, nil, tuples, false)
	return dst, err
}

// LookupInfo is Lookup with Socket.Info, whose bytes it appends to info.
func (c *Conn) LookupInfo(dst []Result, info []byte, tuples []Tuple) ([]Result, []byte, error) {
	return c.lookup(dst, info, tuples, true)
}

// Dump calls yield with each socket of the query until it returns false. The
// socket and its Info are valid during the call.
//
// The kernel walks the table of the whole host, of all network namespaces,
// whatever the query selects, and the calling thread is busy meanwhile.
// Dumped.Cost is what to limit the rate by. An error means that the kernel
// refused.
func (c *Conn) Dump(q Query, yield func(*Socket) bool) (Dumped, error) { return c.dump(q, yield) }

// Stats returns what the Conn has seen.
func (c *Conn) Stats() Stats { return c.stats() }

// Orphans returns how many TCP sockets of the whole host, of every network
// namespace, were closed and still wait for the peer (field orphan of
// /proc/net/sockstat). As long as it is 0 nobody's closed socket is in
// FIN-WAIT-1, CLOSING or LAST-ACK. Not counted are time-wait entries, nor the
// closed connections of Multipath TCP.
func Orphans() (int, error) { return orphans() }

// SynRetransmits returns how many SYNs and SYN-ACKs the network namespace of
// the process has sent again since it exists (TCPSynRetrans of
// /proc/net/netstat).
func SynRetransmits() (uint64, error) { return synRetransmits() }

// PortRange returns the first and the last port that the kernel chooses for
// outgoing connections (ip_local_port_range, ip(7)).
func PortRange() (lo, hi int, err error) { return portRange() }
