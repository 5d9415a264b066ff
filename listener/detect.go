package listener

import (
	"net"

	"github.com/tcpstate/tcpstate-go/internal/deadpeer"
)

// detect sets c up for DetectWithin. Accepted sockets would inherit
// TCP_USER_TIMEOUT for nothing, but Go's listeners are Multipath TCP, which
// refuses it.
func (l *Listener) detect(c net.Conn) {
	lc := l.config.NetConfig
	deadpeer.Apply(c, l.config.DetectWithin, lc != nil && deadpeer.Configured(lc.KeepAlive, lc.KeepAliveConfig))
}
