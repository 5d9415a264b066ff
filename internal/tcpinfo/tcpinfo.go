// Package tcpinfo asks the kernel about a TCP socket by its descriptor.
//
// Every function must be called inside syscall.RawConn.Control, which keeps
// the descriptor from being closed and reused meanwhile. None of them reads a
// byte of the stream, consumes the socket's pending error, or allocates unless
// it fails. Everywhere but on Linux they return an error that matches
// errors.ErrUnsupported.
package tcpinfo

import "time"

// MaxSize is a buffer size for Get with room for fields that future kernels
// add: Linux 6.18 writes 280 bytes.
const MaxSize = 512

// Get writes the struct tcp_info of fd to buf and returns how many bytes the
// kernel filled, which depends on the kernel and is at most len(buf).
func Get(fd uintptr, buf []byte) (n int, err error) { return get(fd, buf) }

// State returns the kernel's number of the state of fd. It saves copying and
// decoding, not the collecting of the rest of tcp_info.
func State(fd uintptr) (uint8, error) { return state(fd) }

// Queues returns the bytes the application has not read and the bytes that the
// peer has not acknowledged, sent or not. The peer's FIN is not counted in
// recv, except on an MPTCPSocket. A listening socket has no queues and gives
// EINVAL.
func Queues(fd uintptr) (recv, send int, err error) { return queues(fd) }

// Unread returns the number of bytes that wait to be read, as Queues does.
func Unread(fd uintptr) (int, error) { return unread(fd) }

// MPTCP reports whether fd uses Multipath TCP and did not fall back to plain
// TCP. It is false before Linux 5.16, which cannot be asked.
func MPTCP(fd uintptr) bool { return mptcp(fd) }

// MPTCPSocket reports whether fd was made for Multipath TCP, whatever became of
// it: a socket that fell back stays one. As soon as poll(2) shows POLLRDHUP on
// it, Queues counts the peer's FIN as a byte (net/mptcp/protocol.c,
// mptcp_inq_hint), which for a socket that fell back may be long after its state
// has become CLOSE-WAIT.
func MPTCPSocket(fd uintptr) bool { return mptcpSocket(fd) }

// Patience is when the kernel gives up on a silent peer (tcp(7)).
type Patience struct {
	User           time.Duration // TCP_USER_TIMEOUT; 0: the system's own limits
	Idle, Interval time.Duration // of keepalive, whether it is on or not
	Count          int           // probes without an answer before the end; User overrides it
	KeepAlive      bool          // whether it is on
}

// PatienceOf returns the timers of fd. ok is false where they are not known.
func PatienceOf(fd uintptr) (p Patience, ok bool) { return patience(fd) }

// NotTCP reports whether err, which Get, State or Queues returned for fd, means
// that fd is no TCP socket, rather than that the question failed.
func NotTCP(fd uintptr, err error) bool { return notTCP(fd, err) }
