package tcpstate_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
	"github.com/tcpstate/tcpstate-go/tcpstate/leaktest"
)

// proxied is two connections of a proxy, joined, and both peers.
type proxied struct {
	*rig
	client, backend *net.TCPConn
	down, up        *tcpstate.Conn
	tunnel          *tcpstate.Tunnel
}

func newProxied(t *testing.T, expect tcpstate.Expect, opts ...tcptest.Option) *proxied {
	p := &proxied{rig: newRig(t)}
	var down, up *net.TCPConn
	p.client, down = tcptest.Pair(t, opts...)
	up, p.backend = tcptest.Pair(t, opts...)
	p.down = p.tr.Track(down, tcpstate.Origin{Role: tcpstate.Server, Name: "edge"})
	p.up = p.tr.Track(up, tcpstate.Origin{Name: "backend", Target: "backend:9000", Expect: expect})
	p.tunnel = tcpstate.Pair(p.down, p.up)
	require.NotNil(t, p.tunnel)
	p.clk.Advance(2 * time.Second)
	return p
}

// asks moves a question from the client to the backend.
func (p *proxied) asks(text string) {
	p.Helper()
	p.say(p.client, text, p.down)
	p.say(p.up, text, p.backend)
}

// answers moves an answer back.
func (p *proxied) answers(text string) {
	p.Helper()
	p.say(p.backend, text, p.up)
	p.say(p.down, text, p.client)
}

// ends ends the direction from peer, and has the proxy read its end.
func (p *proxied) ends(peer *net.TCPConn, here *tcpstate.Conn) {
	p.Helper()
	require.NoError(p, peer.CloseWrite())
	tcptest.WaitUntil(p, "the peer's FIN", func() bool {
		s := tcptest.State(p, here)
		return s == tcptest.CloseWait || s == tcptest.Closed
	})
	_, err := here.Read(make([]byte, 1))
	require.Equal(p, io.EOF, err)
}

// tells passes the end of a direction on.
func (p *proxied) tells(there *tcpstate.Conn) {
	p.Helper()
	require.NoError(p, there.CloseWrite())
	tcptest.WaitState(p, there, tcptest.FinWait2)
}

func TestATunnelThatStaysHalfClosedIsReported(t *testing.T) {
	for name, tt := range map[string]struct {
		server, told bool
		cause, says  string
	}{
		"client done":             {cause: "client_done_not_passed_on", says: "which was not passed on to the server"},
		"client done, and passed": {told: true, cause: "client_done", says: "the server keeps its own direction open"},
		"server done":             {server: true, cause: "server_done_not_passed_on", says: "which was not passed on to the client"},
		"server done, and passed": {server: true, told: true, cause: "server_done", says: "the client keeps its own direction open"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, tcpstate.Expect{})
			p.asks("question")
			time.Sleep(10 * time.Millisecond) // so that the kernel's clock shows who spoke last
			p.answers("answer")
			peer, here, there := p.client, p.down, p.up
			if tt.server {
				peer, here, there = p.backend, p.up, p.down
			}
			p.ends(peer, here)
			if tt.told {
				p.tells(there)
			}
			p.clk.Advance(58 * time.Second)
			p.silent()
			p.clk.Advance(4 * time.Second)
			f := p.one(tcpstate.KindTunnelHalfClosedIdle)
			require.Equal(t, tt.cause, f.Cause)
			require.Contains(t, f.Summary, tt.says)
			require.Equal(t, tcpstate.SubjectTunnel, f.Subject.Type)
			require.Equal(t, "backend", f.Subject.Name)
			require.Equal(t, p.up.RemoteAddr().String(), f.Subject.Remote)
			require.Equal(t, "pair", f.Sites[0].Role)
			require.Contains(t, f.Sites[0].Frames[0].Function, "newProxied")
			text := f.String()
			require.Contains(t, text, `"edge"`)
			require.Contains(t, text, "8 bytes in, 6 bytes out")
			require.Contains(t, text, "6 bytes in, 8 bytes out")
			if client := p.client.LocalAddr().String(); client != p.up.LocalAddr().String() { // the same port by chance
				require.NotContains(t, text, client)
			}
			p.clk.Advance(tripled)
			p.one(tcpstate.KindTunnelHalfClosedIdle) // and nothing about the two connections

			if name == "client done, and passed" {
				p.answers("an answer after all")
				p.clk.Advance(3 * time.Second)
				require.Empty(t, p.tr.Findings(), "progress")
			}
			require.NoError(t, p.up.Close())
			p.clears(p.down)
			require.Zero(t, tcpstate.Tunnels(p.tr))
		})
	}
}

func TestHalfClosedTunnelsThatAreHealthyAreNotReported(t *testing.T) {
	t.Run("long download", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		p.asks("question")
		p.ends(p.client, p.down)
		p.tells(p.up)
		for range 6 {
			p.clk.Advance(40 * time.Second)
			p.answers("part of it")
		}
		require.NoError(t, p.backend.Close())
		_, err := p.up.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, p.down.Close())
		require.NoError(t, p.up.Close())
		p.clk.Advance(tripled)
		p.silent()
	})
	t.Run("long upload", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		p.ends(p.backend, p.up)
		p.tells(p.down)
		for range 6 {
			p.clk.Advance(40 * time.Second)
			p.asks("part of it")
		}
		p.silent()
	})
	t.Run("shorter than the limit", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		p.asks("question")
		p.ends(p.client, p.down)
		p.tells(p.up)
		p.clk.Advance(57 * time.Second)
		p.answers("answer")
		require.NoError(t, p.backend.Close())
		_, err := p.up.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, p.up.Close())
		require.NoError(t, p.down.Close())
		p.clk.Advance(tripled)
		p.silent()
	})
	t.Run("one-way stream", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		for range 6 {
			p.clk.Advance(40 * time.Second)
			p.answers("news")
		}
		p.clk.Advance(10 * time.Minute)
		p.silent()
	})
	for name, x := range map[string]tcpstate.Expect{
		"declared half close": {HalfClose: true},
		"ignored":             {Ignore: []tcpstate.Kind{"tunnel", "close_wait", "closing"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, x)
			p.down.Watch().Expect(x)
			p.asks("question")
			p.ends(p.client, p.down)
			p.tells(p.up)
			p.clk.Advance(3 * time.Minute)
			p.silent()
		})
	}
}

func TestAfterEndEachConnectionIsJudgedByItself(t *testing.T) {
	p := newProxied(t, tcpstate.Expect{})
	p.asks("question")
	p.ends(p.client, p.down)
	p.tells(p.up)
	p.clk.Advance(63 * time.Second)
	p.one(tcpstate.KindTunnelHalfClosedIdle)
	p.tunnel.End()
	p.tunnel.End()
	require.Zero(t, tcpstate.Tunnels(p.tr))
	p.clk.Advance(3 * time.Second)
	p.one(tcpstate.KindCloseWaitEOFSeen)
}

// floods sends from the backend what the proxy does not read.
func (p *proxied) floods(n int) {
	p.Helper()
	_, err := p.backend.Write(make([]byte, n))
	require.NoError(p, err)
	tcptest.WaitUntil(p, "the bytes", func() bool { return p.up.Watch().Snapshot().RecvQueue == n })
}

func TestAnAnswerThatIsCutOffIsReportedAtOnce(t *testing.T) {
	closings := map[string]func(p *proxied){
		"upstream first":   func(p *proxied) { p.up.Close(); p.down.Close() },
		"downstream first": func(p *proxied) { p.down.Close(); p.up.Close() },
		"downstream a while before": func(p *proxied) {
			p.down.Close()
			p.clk.Advance(3 * time.Second)
			p.up.Close()
		},
	}
	for name, closes := range closings {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, tcpstate.Expect{})
			p.asks("question")
			p.answers("begin")
			p.floods(5000)
			p.ends(p.client, p.down)
			closes(p)
			p.clk.Advance(2 * time.Second)
			f := p.one(tcpstate.KindTunnelTruncated)
			require.Equal(t, "unread", f.Cause)
			require.Equal(t, 5000, f.Evidence.RecvQueue)
			require.Contains(t, f.Summary, "closed the upstream connection while 5,000 bytes from the server were unread")
			require.Contains(t, f.Summary, "The client had ended its own direction before")
			require.Zero(t, tcpstate.Tunnels(p.tr))
			p.clk.Advance(11 * time.Minute)
			require.Empty(t, p.tr.Findings())
		})
	}
	t.Run("the whole answer", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		p.asks("question")
		p.floods(6)
		p.ends(p.client, p.down)
		p.up.Close()
		p.down.Close()
		p.clk.Advance(2 * time.Second)
		p.one(tcpstate.KindTunnelTruncated)
	})
	t.Run("young", func(t *testing.T) { // it has not been met by the loop
		client, down := tcptest.Pair(t)
		up, backend := tcptest.Pair(t)
		tr, clk := clockedTracker(t)
		d, u := tr.Track(down, tcpstate.Origin{Role: tcpstate.Server}), tr.Track(up, tcpstate.Origin{})
		require.NotNil(t, tr.Pair(d, u))
		_, err := client.Write([]byte("question"))
		require.NoError(t, err)
		require.NoError(t, client.CloseWrite())
		_, err = io.ReadAll(d)
		require.NoError(t, err)
		_, err = backend.Write(make([]byte, 3000))
		require.NoError(t, err)
		tcptest.WaitUntil(t, "the bytes", func() bool { return u.Watch().Snapshot().RecvQueue == 3000 })
		u.Close()
		d.Close()
		clk.Advance(2 * time.Second)
		require.Len(t, tr.Findings(), 1)
	})
	t.Run("still coming", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		p.asks("question")
		p.answers("begin")
		p.ends(p.client, p.down)
		p.clk.Advance(time.Second)
		start := time.Now()
		p.answers(strings.Repeat("more ", 1000))
		tcptest.WaitUntil(t, "the client to take it", func() bool { return p.down.Watch().Snapshot().SendQueue == 0 })
		p.up.Close()
		if d := time.Since(start); d > 400*time.Millisecond {
			t.Skipf("the machine was slow: at Close the last byte was %v old", d)
		}
		p.down.Close()
		p.clk.Advance(2 * time.Second)
		f := p.one(tcpstate.KindTunnelTruncated)
		require.Equal(t, "still_arriving", f.Cause)
		require.Contains(t, f.Summary, "while the server was still sending")
	})
	t.Run("an upload", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		_, err := p.client.Write(make([]byte, 4000))
		require.NoError(t, err)
		tcptest.WaitUntil(t, "the bytes", func() bool { return p.down.Watch().Snapshot().RecvQueue == 4000 })
		p.down.Close()
		p.up.Close()
		p.clk.Advance(2 * time.Second)
		f := p.one(tcpstate.KindTunnelTruncated)
		require.Contains(t, f.Summary, "closed the downstream connection while 4,000 bytes from the client were unread")
		require.Contains(t, f.Summary, "The other side was open")
	})
}

func TestATunnelThatEndsAsItShouldIsNotReported(t *testing.T) {
	for name, before := range map[string]func(p *proxied){
		"both ended": func(p *proxied) {
			p.floods(5000)
			p.ends(p.client, p.down)
			require.NoError(p, p.backend.Close())
			tcptest.WaitState(p, p.up, tcptest.CloseWait)
		},
		"client reset": func(p *proxied) {
			p.floods(5000)
			tcptest.Reset(p, p.client)
			tcptest.WaitState(p, p.down, tcptest.Closed)
		},
		"server reset": func(p *proxied) {
			p.floods(5000)
			tcptest.Reset(p, p.backend)
			tcptest.WaitState(p, p.up, tcptest.Closed)
		},
		"nothing outstanding": func(p *proxied) { p.ends(p.client, p.down) },
		"nobody had ended":    func(p *proxied) {},
		"the rest of TLS": func(p *proxied) {
			p.floods(24)
			p.ends(p.client, p.down)
		},
		"said so": func(p *proxied) {
			p.floods(5000)
			p.ends(p.client, p.down)
			p.tunnel.End()
		},
		"not interested": func(p *proxied) {
			p.floods(5000)
			require.NoError(p, p.up.CloseRead())
			p.ends(p.client, p.down)
		},
		"early answer to an upload": func(p *proxied) {
			_, err := p.client.Write(make([]byte, 4000))
			require.NoError(p, err)
			tcptest.WaitUntil(p, "the bytes", func() bool { return p.down.Watch().Snapshot().RecvQueue == 4000 })
			p.ends(p.backend, p.up)
		},
		"ignored": func(p *proxied) {
			p.up.Watch().Expect(tcpstate.Expect{Ignore: []tcpstate.Kind{tcpstate.KindTunnelTruncated}})
			p.floods(5000)
			p.ends(p.client, p.down)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, tcpstate.Expect{})
			p.asks("question")
			p.answers("answer")
			before(p)
			p.clk.Advance(time.Second)
			p.up.Close()
			p.down.Close()
			p.clk.Advance(tripled)
			p.silent()
			require.Zero(t, tcpstate.Tunnels(p.tr))
		})
	}
	t.Run("greeting nobody waits for", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{})
		p.floods(80)
		p.ends(p.client, p.down)
		p.up.Close()
		p.down.Close()
		p.clk.Advance(tripled)
		p.silent()
	})
}

func TestAnUpstreamThatNobodyWaitsForIsReported(t *testing.T) {
	for name, tt := range map[string]struct {
		cause  string
		leaves func(p *proxied)
	}{
		"FIN": {"client_closed", func(p *proxied) { p.ends(p.client, p.down) }},
		"RST": {"client_died", func(p *proxied) {
			tcptest.Reset(p, p.client)
			tcptest.WaitState(p, p.down, tcptest.Closed)
		}},
		"closed here": {"closed_here", func(p *proxied) { require.NoError(p, p.down.Close()) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, tcpstate.Expect{})
			p.asks("question")
			tt.leaves(p)
			p.clk.Advance(28 * time.Second)
			p.silent()
			p.clk.Advance(5 * time.Second)
			f := p.one(tcpstate.KindTunnelUpstreamOrphan)
			require.Equal(t, tt.cause, f.Cause)
			require.Contains(t, f.Summary, "The server has acknowledged it and sent nothing since")
			require.Equal(t, p.up.RemoteAddr().String(), f.Subject.Remote)
			p.clk.Advance(tripled)
			p.one(tcpstate.KindTunnelUpstreamOrphan)
			p.down.Close()
			p.clears(p.up)
			require.Zero(t, tcpstate.Tunnels(p.tr))
		})
	}
}

func TestUpstreamsThatAreFineAreNotReported(t *testing.T) {
	for name, leaves := range map[string]func(p *proxied){
		"answered": func(p *proxied) {
			time.Sleep(10 * time.Millisecond) // so that the kernel's clock shows who spoke last
			p.answers("answer")
			require.NoError(p, p.down.Close())
		},
		"serves somebody else by now": func(p *proxied) {
			require.NoError(p, p.down.Close())
			p.clk.Advance(5 * time.Second)
			p.say(p.up, "another question", p.backend)
		},
		"used by somebody else": func(p *proxied) {
			require.NoError(p, p.down.Close())
			p.clk.Advance(5 * time.Second)
			done := p.up.Watch().Use(context.Background(), tcpstate.Use{Name: "another"})
			p.Cleanup(done)
		},
		"closed, too": func(p *proxied) {
			require.NoError(p, p.down.Close())
			p.clk.Advance(25 * time.Second)
			require.NoError(p, p.up.Close())
		},
		"taken apart": func(p *proxied) {
			p.tunnel.End()
			require.NoError(p, p.down.Close())
		},
		"a job that is meant to go on": func(p *proxied) {
			p.up.Watch().Expect(tcpstate.Expect{Ignore: []tcpstate.Kind{tcpstate.KindTunnelUpstreamOrphan}})
			require.NoError(p, p.down.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxied(t, tcpstate.Expect{})
			p.asks("question")
			leaves(p)
			p.clk.Advance(2 * tripled)
			p.silent()
		})
	}
	t.Run("a question that the server has not taken", func(t *testing.T) {
		p := newProxied(t, tcpstate.Expect{}, tcptest.SmallBuffers())
		tcptest.FillWindow(t, p.up.TCPConn)
		require.NoError(t, p.down.Close())
		p.clk.Advance(tripled)
		for _, f := range p.tr.Findings() {
			require.NotEqual(t, tcpstate.KindTunnelUpstreamOrphan, f.Kind)
		}
	})
}

func TestWhatCannotBePairedIsNotPaired(t *testing.T) {
	tr, _ := clockedTracker(t)
	other, _ := clockedTracker(t)
	_, a := tcptest.Pair(t)
	_, b := tcptest.Pair(t)
	_, c := tcptest.Pair(t)
	_, plain := tcptest.Pair(t)
	down := tr.Track(a, tcpstate.Origin{Role: tcpstate.Server})
	up := tr.Track(b, tcpstate.Origin{})
	stranger := other.Track(c, tcpstate.Origin{})
	for _, tn := range []*tcpstate.Tunnel{
		tcpstate.Pair(nil, nil), tcpstate.Pair(down, nil), tcpstate.Pair(plain, up), tcpstate.Pair(down, down),
		tr.Pair(down, stranger), (*tcpstate.Watch)(nil).Pair(up.Watch()), down.Watch().Pair(nil),
	} {
		require.Nil(t, tn)
		tn.End()
	}
	server, client := net.Pipe()
	defer server.Close()
	defer client.Close()
	require.Nil(t, tr.Pair(server, up))

	require.NotNil(t, tr.Pair(tls.Server(down, nil), tls.Client(up, nil)), "below TLS")
	require.Equal(t, 1, tcpstate.Tunnels(tr))
	require.True(t, tr.Attach(plain, tcpstate.Origin{Role: tcpstate.Server}))
	require.Nil(t, tcpstate.Pair(plain, up), "attached to another tracker than the default one")
	require.NotNil(t, tr.Pair(plain, up), "attached")
	require.Equal(t, 1, tcpstate.Tunnels(tr), "an upstream has one downstream")
	require.NoError(t, up.Close())
	require.Nil(t, tr.Pair(down, up), "closed")
}

func TestATunnelKeepsNoConnectionAlive(t *testing.T) {
	r := newRig(t)
	ln := tcptest.Listen(t)
	func() {
		tcptest.Connect(t, ln)
		tcptest.Connect(t, ln)
		down, err := ln.AcceptTCP()
		require.NoError(t, err)
		up, err := ln.AcceptTCP()
		require.NoError(t, err)
		require.NotNil(t, tcpstate.Pair(
			r.tr.Track(down, tcpstate.Origin{Role: tcpstate.Server}), r.tr.Track(up, tcpstate.Origin{})))
	}()
	r.clk.Advance(2 * time.Second)
	tcptest.WaitUntil(t, "both to be collected", func() bool {
		runtime.GC()
		return len(r.tr.Findings()) == 2
	})
	for _, f := range r.tr.Findings() {
		require.Equal(t, tcpstate.KindLeakCollected, f.Kind)
	}
	r.clk.Advance(2 * time.Second)
	require.Zero(t, tcpstate.Tunnels(r.tr))
}

// One agent's connection may carry the tunnels of many.
func TestManyUpstreamsMayHaveOneDownstream(t *testing.T) {
	p := newProxied(t, tcpstate.Expect{})
	var ups []*tcpstate.Conn
	var tunnels []*tcpstate.Tunnel
	for range 5 {
		c, _ := tcptest.Pair(t)
		up := p.tr.Track(c, tcpstate.Origin{Name: "backend"})
		ups = append(ups, up)
		tunnels = append(tunnels, p.tr.Pair(p.down, up))
	}
	require.Equal(t, 6, tcpstate.Tunnels(p.tr))
	tunnels[1].End()
	tunnels[4].End()
	require.Equal(t, 4, tcpstate.Tunnels(p.tr))
	ups[0].Close()
	p.ends(p.client, p.down)
	p.clk.Advance(65 * time.Second)
	fs := p.tr.Findings()
	require.Len(t, fs, 3)
	for _, f := range fs {
		require.Equal(t, tcpstate.KindTunnelHalfClosedIdle, f.Kind)
	}
	p.down.Close()
	p.up.Close()
	for _, up := range ups {
		up.Close()
	}
	p.clk.Advance(2 * time.Second)
	require.Empty(t, p.tr.Findings())
	require.Zero(t, tcpstate.Tunnels(p.tr))
}

func TestTunnelsMayComeAndGoFromAnywhere(t *testing.T) {
	tr := leaktest.Tracker(t, leaktest.IgnoreFindings())
	defer tr.Observe(new(tcpstate.Observer))()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 30 {
				client, a := tcptest.Pair(t)
				b, backend := tcptest.Pair(t)
				down, up := tr.Track(a, tcpstate.Origin{Role: tcpstate.Server}), tr.Track(b, tcpstate.Origin{})
				tn := tr.Pair(down, up)
				var inner sync.WaitGroup
				inner.Go(func() { tn.End(); tr.Pair(down, up) })
				inner.Go(func() { client.Close(); down.Close() })
				inner.Go(func() { backend.Close(); up.Close() })
				inner.Go(func() { tr.Findings() })
				inner.Wait()
			}
		})
	}
	wg.Wait()
	tcptest.WaitUntil(t, "the tunnels to end", func() bool { return tcpstate.Tunnels(tr) == 0 })
}

func TestTunnelsEndWithoutALoop(t *testing.T) {
	tr := leaktest.Tracker(t, leaktest.IgnoreFindings())
	_, a := tcptest.Pair(t)
	_, b := tcptest.Pair(t)
	synctest.Test(t, func(t *testing.T) {
		down, up := tr.Track(a, tcpstate.Origin{Role: tcpstate.Server}), tr.Track(b, tcpstate.Origin{})
		require.NotNil(t, tr.Pair(down, up))
		require.NoError(t, down.Close())
		require.NoError(t, up.Close())
		require.Zero(t, tcpstate.Tunnels(tr))
	})
}

func TestNoTunnelOutlivesItsTracker(t *testing.T) {
	p := newProxied(t, tcpstate.Expect{})
	p.ends(p.client, p.down)
	p.clk.Advance(65 * time.Second)
	p.one(tcpstate.KindTunnelHalfClosedIdle)
	require.NoError(t, p.tr.Close())
	require.Zero(t, tcpstate.Tunnels(p.tr))
	require.Nil(t, p.tr.Pair(p.down, p.up))
	p.tunnel.End()
}

func TestATrackerThatIsSwitchedOffForgetsTunnels(t *testing.T) {
	p := newProxied(t, tcpstate.Expect{})
	p.floods(5000)
	p.ends(p.client, p.down)
	require.NoError(t, p.tr.Set(func(c *tcpstate.Config) { c.Off = true }))
	p.clk.Advance(2 * time.Second)
	require.Zero(t, tcpstate.Tunnels(p.tr))
	require.Empty(t, p.tr.Findings())
}
