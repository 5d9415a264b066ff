package nethttp

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

const hello = "location / { return 200 hello; }"

// server is nginx or a program in Go.
type server interface {
	Addr() string
	Restart(testing.TB)
}

// setup is a server with a client's way to it.
type setup struct {
	t     *testing.T
	proto string // what the server and base agree on
	srv   server
	path  *harness.Path
	rig   *harness.Rig
	url   string
	base  *http.Transport
}

// each runs f with every server and encryption, over the protocols named, or
// over both.
func each(t *testing.T, f func(t *testing.T, s *setup), protos ...string) {
	certs := harness.NewCerts(t)
	for name, way := range map[string]struct {
		tls, h2 bool
	}{"plain": {}, "TLS": {tls: true}, "HTTP2 over TLS": {tls: true, h2: true}, "HTTP2 without TLS": {h2: true}} {
		for _, kind := range []string{"nginx", "Go"} {
			if kind == "nginx" && way.h2 && !way.tls {
				continue // old ones do not speak both on one port
			}
			proto := "HTTP/1.1"
			if way.h2 {
				proto = "HTTP/2.0"
			}
			if len(protos) > 0 && !slices.Contains(protos, proto) {
				continue
			}
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				var protocols http.Protocols
				protocols.SetHTTP1(!way.h2)
				protocols.SetHTTP2(way.h2 && way.tls)
				protocols.SetUnencryptedHTTP2(way.h2 && !way.tls)
				s := &setup{t: t, rig: harness.New(t), proto: proto, base: &http.Transport{Protocols: &protocols}}
				var c *harness.Certs
				scheme := "http"
				if way.tls {
					c, scheme, s.base.TLSClientConfig = certs, "https", certs.Client.Clone()
				}
				if kind == "nginx" {
					s.srv = harness.Nginx(t, c, hello)
				} else {
					s.srv = goServer(t, c, &protocols)
				}
				s.path = harness.NewPath(t, s.srv.Addr())
				s.url = scheme + "://" + s.path.Addr()
				f(t, s)
			})
		}
	}
}

// goServer says hello.
func goServer(t *testing.T, certs *harness.Certs, protocols *http.Protocols) server {
	return harness.NewProgram(t, func(ln net.Listener) func() {
		srv := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "hello") // or the client has left
		})}
		serve := func() error { return srv.Serve(ln) }
		if certs != nil {
			srv.TLSConfig = certs.Server.Clone()
			serve = func() error { return srv.ServeTLS(ln, "", "") }
		}
		return harness.Serving(serve, func() { srv.Close() })
	})
}

// client returns a client that leaves no connection behind.
func (s *setup) client() *http.Client {
	client := New(s.rig.Dialer("web"), s.base)
	s.t.Cleanup(client.CloseIdleConnections)
	return client
}

// get reads an answer as one should.
func (s *setup) get(client *http.Client) {
	s.t.Helper()
	require.NoError(s.t, s.ask(client))
}

// ask is get where there may be no answer.
func (s *setup) ask(client *http.Client) error {
	s.t.Helper()
	resp, err := client.Get(s.url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	require.Equal(s.t, s.proto, resp.Proto)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	require.Equal(s.t, "hello", string(b))
	return nil
}

// A transport reads its idle connections: one that the server ends is closed
// and leaves the pool.
func TestAProgramWithoutALeakIsSilentAcrossARestart(t *testing.T) {
	each(t, func(t *testing.T, s *setup) {
		client := s.client()
		for range 3 {
			s.get(client)
		}
		s.rig.Rest(t, time.Minute)
		require.Len(t, s.rig.Conns("web"), 1)
		s.srv.Restart(t)
		s.rig.WaitGone(t, "web")
		s.get(client)
		s.rig.Rest(t, time.Minute)
		s.path.Reset()
		s.rig.WaitGone(t, "web")
		s.get(client)
		s.rig.Silent(t)
		client.CloseIdleConnections()
		s.rig.WaitGone(t, "web")
		s.rig.Silent(t)
		require.Greater(t, s.path.Made(), 2) // a transport that was kept waiting for 50 ms does not use one again
		harness.Kept(t)
	})
}

// Over HTTP/2 the transport reads on: such a body costs memory, not a connection.
func TestABodyThatNobodyClosesIsFound(t *testing.T) {
	each(t, func(t *testing.T, s *setup) {
		resp, err := s.client().Get(s.url) // leak: body
		require.NoError(t, err)
		defer resp.Body.Close()
		s.path.FIN()
		s.rig.Finds(t, tcpstate.KindCloseWaitUnreadBody, "web", "request", "body")
	}, "HTTP/1.1")
}

func TestAClientForEachCallIsFound(t *testing.T) {
	each(t, func(t *testing.T, s *setup) {
		for range 20 {
			client := s.client()
			resp, err := client.Get(s.url) // leak: client
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		s.rig.Finds(t, tcpstate.KindLeakPoolPerCall, "web", "pool", "client")
	})
}

// The ping that a transport sends over HTTP/2 when it has heard nothing.
func TestHTTP2FindsASilentServerByItsOwnPing(t *testing.T) {
	each(t, func(t *testing.T, s *setup) {
		s.base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 20 * time.Millisecond, PingTimeout: 50 * time.Millisecond}
		client := s.client()
		answered := func() bool { return s.ask(client) == nil } // a slow machine is silent, too
		harness.WaitUntil(t, "an answer", answered)
		s.path.Stall()
		s.rig.WaitGone(t, "web")
		s.path.Flow()
		harness.WaitUntil(t, "another answer", answered)
		s.rig.Silent(t)
	}, "HTTP/2.0")
}

func TestTheSocketHasTheOptionsOfTheTransportsOwnDialer(t *testing.T) {
	each(t, func(t *testing.T, s *setup) {
		own, want := harness.NetDialer()
		s.base.DialContext = own.DialContext
		s.get(s.client())
		require.Len(t, s.rig.Conns("web"), 1)
		require.Equal(t, want, s.path.Links()[0].Options(t))
		s.rig.Silent(t)
	})
}

func TestTheTransportsOwnTimeoutsHold(t *testing.T) {
	each(t, func(t *testing.T, s *setup) {
		s.base.ResponseHeaderTimeout = 50 * time.Millisecond
		s.base.TLSHandshakeTimeout = 50 * time.Millisecond
		s.path.Stall()
		_, err := s.client().Get(s.url)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		s.path.Flow()
		s.rig.Silent(t)
	})
}

func TestTheEndOfATLSConnectionIsAnnounced(t *testing.T) {
	each(t, func(t *testing.T, s *setup) {
		if s.base.TLSClientConfig == nil {
			return
		}
		s.base.TLSClientConfig.MaxVersion = tls.VersionTLS12
		client := s.client()
		s.get(client)
		client.CloseIdleConnections()
		s.path.Announced(t)
		s.rig.Silent(t)
	})
}

// After the answer "101 Switching Protocols" a client may end its direction
// and still gets the answer.
func TestAnUpgradedConnectionCanBeClosedOneWay(t *testing.T) {
	srv := harness.NewProgram(t, func(ln net.Listener) func() {
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"); err != nil {
				return
			}
			said, err := io.ReadAll(buf)
			if err == nil {
				_, _ = c.Write(said) // the client will miss it
			}
		})}
		return harness.Serving(func() error { return srv.Serve(ln) }, func() { srv.Close() })
	})
	rig := harness.New(t)
	client := New(rig.Dialer("web"), &http.Transport{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+srv.Addr(), nil)
	require.NoError(t, err)
	req.Header.Set("Upgrade", "echo")
	req.Header.Set("Connection", "Upgrade")
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	stream := resp.Body.(io.ReadWriteCloser)
	_, err = io.WriteString(stream, "why?")
	require.NoError(t, err)
	require.NoError(t, stream.(interface{ CloseWrite() error }).CloseWrite())
	answer, err := io.ReadAll(stream)
	require.NoError(t, err)
	require.Equal(t, "why?", string(answer))
	require.NoError(t, stream.Close())
	rig.WaitGone(t, "web")
	rig.Silent(t)
}
