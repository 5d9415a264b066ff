package httpserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// post has more of a body than net/http reads ahead, and less than it announces.
var post = "POST /v1/reports/id-4711?token=s3cret HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" +
	strings.Repeat("unread ", 1000)

const (
	fetch   = "GET /v1/reports/id-4711?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n"
	upgrade = "GET /ws/id-4711?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n"
)

// requireNothingPrivate checks that what clients send does not show.
func requireNothingPrivate(t *testing.T, f tcpstate.Finding) {
	t.Helper()
	asJSON, err := json.Marshal(f)
	require.NoError(t, err)
	for _, secret := range []string{"id-4711", "token", "s3cret", "unread unread"} {
		require.NotContains(t, string(asJSON), secret)
		require.NotContains(t, f.String(), secret)
	}
}

func TestAHandlerThatCannotKnowThatItsClientLeftIsReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux()).start(t)
	client := f.send(t, post)
	ctx := <-api.entered
	client.Close()
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(33 * time.Second)

	got := f.finding(t)
	require.Equal(t, tcpstate.KindCloseWaitNotReading, got.Kind)
	require.Equal(t, "client left, handler has not noticed", got.Title)
	require.Equal(t, "POST /v1/reports/{id}", got.Subject.Use)
	require.Equal(t, "api", got.Subject.Name)
	requireSite(t, got.Sites[0], "handler", "(*reportsAPI).create", "func (a *reportsAPI) create(")
	require.NoError(t, ctx.Err())
	require.False(t, *got.Evidence.ContextDone)
	require.Contains(t, got.Summary, "Its context is NOT cancelled")
	require.Contains(t, got.Summary, "handler running for 3")
	require.Positive(t, got.Evidence.RecvQueue)
	requireNothingPrivate(t, got)

	close(api.release)
	f.waitGone(t)
	f.clock.Advance(2 * time.Second)
	require.Empty(t, f.tracker.Findings())
}

func TestAHandlerThatGoesOnAfterItWasToldIsReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux()).start(t)
	client := f.send(t, fetch)
	ctx := <-api.entered
	client.Close()
	<-ctx.Done()
	f.clock.Advance(33 * time.Second)

	got := f.finding(t)
	require.Equal(t, tcpstate.KindCloseWaitEOFSeen, got.Kind)
	require.Equal(t, "client left, handler goes on", got.Title)
	require.Equal(t, "GET /v1/reports/{id}", got.Subject.Use)
	requireSite(t, got.Sites[0], "handler", "(*reportsAPI).create", "func (a *reportsAPI) create(")
	require.True(t, *got.Evidence.ContextDone)
	require.Contains(t, got.Summary, "the handler was told")
	requireNothingPrivate(t, got)
	for _, s := range got.Sites {
		require.NotContains(t, s.Frames[0].Function, "net/http.")
	}

	close(api.release)
	f.waitGone(t)
}

func TestAHandlerThatReturnsInTimeIsNotReported(t *testing.T) {
	for name, request := range map[string]string{"told": fetch, "not told": post} {
		t.Run(name, func(t *testing.T) {
			api := newAPI(t)
			f := newFixture(t, api.mux()).start(t)
			reports := f.reports(t)
			client := f.send(t, request)
			<-api.entered
			f.clock.Advance(5 * time.Minute) // long, but the client waits
			client.Close()
			f.waitState(t, tcpstate.CloseWait)
			f.clock.Advance(25 * time.Second)
			close(api.release)
			f.waitGone(t)
			f.clock.Advance(time.Minute)
			require.Empty(t, reports())
		})
	}
}

func TestAHandlerThatStillAnswersIsNotReported(t *testing.T) {
	api := newAPI(t)
	step := make(chan bool)
	f := newFixture(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		api.entered <- r.Context()
		for <-step {
			io.WriteString(w, "more\n")
			http.NewResponseController(w).Flush()
			api.entered <- r.Context()
		}
	})).start(t)
	defer close(step)
	client := f.send(t, post) // unread, so that the handler is not told
	<-api.entered
	require.NoError(t, client.CloseWrite())
	f.waitState(t, tcpstate.CloseWait)
	for range 6 {
		f.clock.Advance(20 * time.Second)
		require.Empty(t, f.tracker.Findings())
		step <- true
		<-api.entered
	}
}

func TestAHijackedConnectionThatNobodyReadsIsReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux()).start(t)
	client := f.send(t, upgrade)
	<-(<-api.entered).Done() // the handler has returned
	held := <-api.held
	require.Equal(t, 1, f.conn(t).InUse)
	client.Close()
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(33 * time.Second)

	got := f.finding(t)
	require.Equal(t, tcpstate.KindCloseWaitNotReading, got.Kind)
	require.True(t, got.Evidence.Hijacked)
	require.Nil(t, got.Evidence.ContextDone)
	require.Equal(t, "client left, nobody has noticed", got.Title)
	require.Contains(t, got.Summary, "hijacked")
	require.NotContains(t, got.Summary, "handler running")
	require.Equal(t, "GET /ws/", got.Subject.Use)
	requireSite(t, got.Sites[0], "handler", "(*reportsAPI).hijack", "func (a *reportsAPI) hijack(")
	requireNothingPrivate(t, got)

	require.NoError(t, held.Close())
	f.waitGone(t)
}

func TestAHijackedConnectionThatIsNotClosedAtItsEndIsReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux()).start(t)
	client := f.send(t, upgrade)
	<-(<-api.entered).Done() // the handler has returned
	held := <-api.held
	client.Close()
	_, err := held.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	f.waitState(t, tcpstate.CloseWait)
	f.clock.Advance(33 * time.Second)

	got := f.finding(t)
	require.Equal(t, tcpstate.KindCloseWaitEOFSeen, got.Kind)
	require.True(t, got.Evidence.Hijacked)
	require.NotContains(t, got.Summary, "handler")
	requireSite(t, got.Sites[0], "handler", "(*reportsAPI).hijack", "func (a *reportsAPI) hijack(")
	require.Equal(t, "eof", got.Sites[1].Role)
	require.NoError(t, held.Close())
	f.waitGone(t)
}

func TestAHijackedConnectionThatIsReadIsNotReported(t *testing.T) {
	api := newAPI(t)
	f := newFixture(t, api.mux()).start(t)
	reports := f.reports(t)
	client := f.send(t, upgrade)
	<-(<-api.entered).Done() // the handler has returned
	held := <-api.held
	done := make(chan error)
	go func() {
		_, err := held.Read(make([]byte, 1))
		held.Close()
		done <- err
	}()
	f.clock.Advance(10 * time.Minute)
	client.Close()
	require.ErrorIs(t, <-done, io.EOF)
	f.waitGone(t)
	f.clock.Advance(time.Minute)
	require.Empty(t, reports())
}

func TestAnIdleKeepAliveConnectionIsNotReported(t *testing.T) {
	f := newFixture(t, newAPI(t).mux()).start(t)
	reports := f.reports(t)
	client := f.send(t, "")
	code, body := get(t, client, "/hello/you")
	require.Equal(t, 200, code)
	require.Equal(t, "hello", body)
	f.waitIdle(t)
	f.clock.Advance(10 * time.Minute)
	client.Close()
	f.waitGone(t)
	f.clock.Advance(time.Minute)
	require.Empty(t, reports())
}
