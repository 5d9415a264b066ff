// Package gossh shows golang.org/x/crypto/ssh with tcpstate.
package gossh

import (
	"context"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Hide is for Config.HideFrames: the line to open is that of who dialed.
const Hide = "github.com/tcpstate/tcpstate-go/examples/clients/gossh.Dial"

// Dial is ssh.Dial with a connection that d dials, and whose handshake is
// watched: the Timeout of config is for TCP only, and a server that never
// answers would go unnoticed. The end of ctx ends the handshake, but not the
// client.
func Dial(ctx context.Context, d *dialer.Dialer, addr string, config *ssh.ClientConfig) (*ssh.Client, error) {
	dialCtx := ctx
	if config.Timeout > 0 {
		var cancel context.CancelFunc
		dialCtx, cancel = context.WithTimeout(ctx, config.Timeout)
		defer cancel()
	}
	conn, err := d.DialContext(dialCtx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tracker := d.Tracker
	if tracker == nil {
		tracker = tcpstate.Default()
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // closed already
	done := tracker.Of(conn).Handshaking("ssh")
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, config)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	done(err)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}
