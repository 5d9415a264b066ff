//go:build unix && !linux

package pool

// peerHup: there is no bit for the peer's FIN alone. It makes the socket
// readable, like the bytes that nobody expects either.
const peerHup = 0
