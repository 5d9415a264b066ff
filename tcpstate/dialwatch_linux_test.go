package tcpstate_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// dialing starts a dial and returns what waits for its end, after the tracker
// knows of an attempt. cancel ends it.
func (r *rig) dialing(d *dialer.Dialer, address string) (cancel func(), wait func() error) {
	r.Helper()
	ctx, stop := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	var err error
	before := r.inProgress()
	wg.Go(func() {
		var c net.Conn
		if c, err = d.DialContext(ctx, "tcp", address); err == nil {
			c.Close()
		}
	})
	r.Cleanup(func() { stop(); wg.Wait() })
	tcptest.WaitUntil(r, "the dial to begin", func() bool { return r.inProgress() > before })
	return stop, func() error { wg.Wait(); return err }
}

// inProgress counts the addresses that are being tried.
func (r *rig) inProgress() (n int) {
	for d := range r.tr.Dials() {
		n += len(d.Attempts)
	}
	return n
}

// resent waits until every dial has sent its SYN again n times.
func (r *rig) resent(n int) {
	r.Helper()
	tcptest.WaitUntil(r, "the kernel to send SYNs again", func() bool {
		for d := range r.tr.Dials() {
			for _, a := range d.Attempts {
				if a.Retransmits < n {
					return false
				}
			}
		}
		return true
	})
}

func plain() *net.Dialer {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return &d
}

func TestADialThatGetsNoAnswerIsReportedWhileItLasts(t *testing.T) {
	r := newRig(t)
	addr := tcptest.DeadListener(t)
	d := &dialer.Dialer{NetDialer: plain(), Tracker: r.tr, Name: "db"}
	cancel, wait := r.dialing(d, addr)
	r.resent(2)
	r.clk.Advance(2500 * time.Millisecond)
	r.silent()
	r.clk.Advance(time.Second)
	f := r.one(tcpstate.KindDialNoAnswer)
	require.Equal(t, tcpstate.SubjectDial, f.Subject.Type)
	require.Equal(t, tcpstate.SynSent, f.State)
	require.Equal(t, addr, f.Subject.Remote)
	require.Equal(t, addr, f.Subject.Target)
	require.Equal(t, "db", f.Subject.Name)
	require.True(t, strings.HasPrefix(f.Subject.Local, "127.0.0.1:"), f.Subject.Local)
	require.GreaterOrEqual(t, f.Evidence.Retransmits, uint32(2))
	require.Contains(t, f.Summary, "has not answered for 3.5s")
	require.Equal(t, "dial", f.Sites[0].Role)
	require.Contains(t, f.Sites[0].Frames[0].Function, "rig).dialing")
	require.Equal(t, "opened", r.rec.await(t, 1)[0].what)

	cancel()
	require.ErrorIs(t, wait(), context.Canceled)
	r.clk.Settle()
	require.Empty(t, r.tr.Findings(), "it ends with the dial")
	require.Equal(t, "cleared", r.rec.await(t, 2)[1].what)
	require.Zero(t, r.inProgress())
}
