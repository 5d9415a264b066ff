package httppool_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

const answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

// answers serves one request of c.
func answers(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := http.ReadRequest(bufio.NewReader(c))
	require.NoError(t, err)
	_, err = io.WriteString(c, answer)
	require.NoError(t, err)
}

// warm makes a first request to ln, and returns the server's end of the
// connection that then has been idle for d.
func (f *fixture) warm(t *testing.T, ln *net.TCPListener, d time.Duration) *net.TCPConn {
	t.Helper()
	done := make(chan *net.TCPConn)
	go func() {
		c, err := ln.AcceptTCP()
		if err == nil {
			answers(t, c)
		}
		done <- c
	}()
	resp, err := f.client.Get("http://" + ln.Addr().String())
	require.NoError(t, err)
	readAll(t, resp)
	c := <-done
	f.clock.Advance(d)
	tcptest.WaitUntil(t, "the kernel's clock", func() bool {
		return f.conn(t).Info.LastDataReceived >= 20*time.Millisecond
	})
	return c
}

// crosses makes a request over a connection that was idle for d while the server
// closes it: the request is on its way when the FIN comes.
func (f *fixture) crosses(t *testing.T, ln *net.TCPListener, d time.Duration, method string) (*http.Response, error) {
	t.Helper()
	c := f.warm(t, ln, d)
	tcptest.Deafen(t, c) // for the request does not arrive before the server has closed
	type result struct {
		resp *http.Response
		err  error
	}
	got := make(chan result)
	go func() {
		req, err := http.NewRequest(method, "http://"+ln.Addr().String(), strings.NewReader("amount"))
		if err != nil {
			t.Error(err)
		}
		resp, err := f.client.Do(req)
		got <- result{resp, err}
	}()
	tcptest.WaitUntil(t, "the request to be sent", func() bool { return f.conn(t).SendQueue > 0 })
	if method == http.MethodGet {
		go func() { // net/http tries again
			if c, err := ln.AcceptTCP(); err == nil {
				answers(t, c)
			}
		}()
	}
	c.Close()
	r := <-got
	return r.resp, r.err
}

func (f *fixture) counted(t *testing.T) tcpstate.Finding {
	t.Helper()
	f.clock.Advance(4 * time.Second)
	all := f.tracker.Counted()
	require.Len(t, all, 1)
	return all[0]
}

func noted(f tcpstate.Finding, name string) string {
	for _, n := range f.Evidence.Notes {
		if n.Name == name {
			return n.Value
		}
	}
	return ""
}

func TestARequestThatCrossesTheServersFINAndIsMadeAgainIsCounted(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	resp, err := f.crosses(t, tcptest.Listen(t, tcptest.MPTCP(false)), time.Minute, http.MethodGet)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp))
	got := f.counted(t)
	require.Equal(t, tcpstate.KindResetReuseAfterFIN, got.Kind)
	require.Equal(t, "crossed", got.Cause)
	require.Equal(t, "1m", noted(got, "idle at reuse"))
	require.Empty(t, noted(got, "requests failed"))
	require.EqualValues(t, 1, f.pool.Stats().Stale)
	require.Empty(t, f.tracker.Findings())
}

func TestRequestsThatFailByTheServersIdleTimeoutAreAWarning(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	ln := tcptest.Listen(t, tcptest.MPTCP(false))
	t.Cleanup(f.tracker.Observe(new(tcpstate.Observer))) // keeps the log quiet
	for i := range 5 {
		_, err := f.crosses(t, ln, 15*time.Second, http.MethodPost)
		require.Error(t, err)
		require.EqualValues(t, i+1, f.pool.Stats().Stale)
		f.waitGone(t)
	}
	got := f.counted(t)
	require.Equal(t, "5", noted(got, "requests failed"))
	require.Equal(t, "about 15s", noted(got, "server closes after"))
	found := f.tracker.Findings()
	require.Len(t, found, 1)
	require.Equal(t, tcpstate.KindResetReuseAfterFIN, found[0].Kind)
	require.Equal(t, tcpstate.Warning, found[0].Severity)
	require.Equal(t, "requests fail on connections that the server closes as idle", found[0].Title)
	require.Equal(t, "request", found[0].Sites[0].Role)
	require.Equal(t, "pool/httppool/reuse_linux_test.go", found[0].Sites[0].Frames[0].File)
}

// A server that ends the connection in place of an answer has got the request:
// that is no matter of idle times.
func TestAServerThatClosesInsteadOfAnsweringIsNotBlamedOnIdleTime(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	ln := tcptest.Listen(t, tcptest.MPTCP(false))
	c := f.warm(t, ln, time.Minute)
	go func() {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			t.Error(err)
		}
		io.Copy(io.Discard, req.Body)
		c.Close()
	}()
	_, err := f.client.Post("http://"+ln.Addr().String(), "", strings.NewReader("amount"))
	require.Error(t, err)
	require.EqualValues(t, 1, f.pool.Stats().Stale)
	f.waitGone(t)
	f.clock.Advance(4 * time.Second)
	require.Empty(t, f.tracker.Counted())
}

func TestAConnectionThatNetHTTPSeesClosedInTimeIsNotCounted(t *testing.T) {
	f := newFixture(t, &http.Transport{})
	ln := tcptest.Listen(t, tcptest.MPTCP(false))
	for range 3 {
		f.warm(t, ln, time.Minute).Close()
		f.waitGone(t)
	}
	f.clock.Advance(4 * time.Second)
	require.Empty(t, f.tracker.Counted())
	require.Zero(t, f.pool.Stats().Stale)
}

// TLS says goodbye after the server's FIN, and nobody acknowledges that: it is
// not a request that was lost.
func TestAServerOfTLSThatClosesInsteadOfAnsweringIsNotBlamedOnIdleTime(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
		hello(w, r)
	}, func(srv *httptest.Server) { srv.StartTLS() })
	f := newFixture(t, srv.Client().Transport.(*http.Transport))
	for range 3 {
		resp, err := f.client.Get(srv.URL)
		require.NoError(t, err)
		readAll(t, resp)
		tcptest.WaitUntil(t, "the kernel's clock", func() bool { return f.conn(t).Info.LastDataReceived >= 20*time.Millisecond })
		f.clock.Advance(15 * time.Second)
		_, err = f.client.Post(srv.URL, "", strings.NewReader("amount"))
		require.Error(t, err)
		f.waitGone(t)
	}
	f.clock.Advance(4 * time.Second)
	require.EqualValues(t, 3, f.pool.Stats().Stale)
	for _, c := range f.tracker.Counted() {
		require.NotEqual(t, tcpstate.KindResetReuseAfterFIN, c.Kind, c.String())
	}
	require.Empty(t, f.tracker.Findings())
}

func TestAConnectionOfTLSThatTheServerClosesIdleIsNotCounted(t *testing.T) {
	srv := serve(t, hello, func(srv *httptest.Server) { srv.StartTLS() })
	f := newFixture(t, srv.Client().Transport.(*http.Transport))
	for range 3 {
		resp, err := f.client.Get(srv.URL)
		require.NoError(t, err)
		readAll(t, resp)
		tcptest.WaitUntil(t, "the kernel's clock", func() bool { return f.conn(t).Info.LastDataReceived >= 20*time.Millisecond })
		f.clock.Advance(15 * time.Second)
		srv.CloseClientConnections()
		f.waitGone(t)
	}
	f.clock.Advance(4 * time.Second)
	for _, c := range f.tracker.Counted() {
		require.NotEqual(t, tcpstate.KindResetReuseAfterFIN, c.Kind)
	}
}
