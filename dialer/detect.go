package dialer

import (
	"net"

	"github.com/tcpstate/tcpstate-go/internal/deadpeer"
)

// detect sets c up for DetectWithin.
func (d *Dialer) detect(c net.Conn) {
	nd := d.NetDialer
	deadpeer.Apply(c, d.DetectWithin, nd != nil && deadpeer.Configured(nd.KeepAlive, nd.KeepAliveConfig))
}
