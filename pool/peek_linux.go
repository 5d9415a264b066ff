package pool

import "golang.org/x/sys/unix"

// peerHup is what poll(2) says after the peer's FIN.
const peerHup = unix.POLLRDHUP
