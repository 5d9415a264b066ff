package tcpstate_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// A finding is the proof of what a connection remembers: after the peer's FIN,
// the verdict depends on whether the application read the end of the stream,
// stopped before it, or never read.
func TestFindingTellsHowACopyEnded(t *testing.T) {
	const (
		seen    = tcpstate.KindCloseWaitEOFSeen
		stopped = tcpstate.KindCloseWaitNotReading
		never   = tcpstate.KindCloseWaitNeverRead
	)
	type use = func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker)
	into := func(t *testing.T, tr *tcpstate.Tracker) *tcpstate.Conn {
		c, peer := tcptest.Pair(t)
		go io.Copy(io.Discard, peer)
		return tr.Track(c, tcpstate.Origin{Role: tcpstate.Server, Name: "destination"})
	}
	for name, tc := range map[string]struct {
		use  use
		want tcpstate.Kind
	}{
		"Copy": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.Copy(into(t, tr), src)
			require.NoError(t, err)
		}, seen},
		"Copy to a plain connection": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.Copy(into(t, tr).NetConn(), src)
			require.NoError(t, err)
		}, seen},
		"Copy to memory": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.Copy(new(bytes.Buffer), src)
			require.NoError(t, err)
		}, seen},
		"Copy to a file": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			require.NoError(t, err)
			defer f.Close()
			_, err = io.Copy(f, src)
			require.NoError(t, err)
		}, seen},
		"ReadFrom": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := into(t, tr).ReadFrom(src)
			require.NoError(t, err)
		}, seen},
		"ReadAll": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.ReadAll(src)
			require.NoError(t, err)
		}, seen},
		"CopyN of more than comes": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.CopyN(into(t, tr), src, payloadSize+1)
			require.Equal(t, io.EOF, err)
		}, seen},
		"CopyN up to the limit": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.CopyN(into(t, tr), src, payloadSize)
			require.NoError(t, err)
		}, stopped},
		"CopyN to a plain connection": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.CopyN(into(t, tr).NetConn(), src, payloadSize)
			require.NoError(t, err)
		}, stopped},
		"CopyN to a file": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			require.NoError(t, err)
			defer f.Close()
			_, err = io.CopyN(f, src, payloadSize)
			require.NoError(t, err)
		}, stopped},
		"CopyN of nothing": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			_, err := io.CopyN(into(t, tr), src, 0)
			require.NoError(t, err)
		}, never},
		"Copy into a closed connection": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			dst := into(t, tr)
			require.NoError(t, dst.Close())
			_, err := io.Copy(dst, src)
			require.ErrorIs(t, err, net.ErrClosed)
		}, stopped},
		"Copy into a writer that panics": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			require.Panics(t, func() {
				io.Copy(writerFunc(func([]byte) (int, error) { panic("full") }), src)
			})
		}, stopped},
		"no read": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {}, never},
		"read through a RawConn": {func(t *testing.T, src *tcpstate.Conn, tr *tcpstate.Tracker) {
			raw, err := src.SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Read(func(fd uintptr) bool {
				n, err := syscall.Read(int(fd), make([]byte, 10))
				return err == nil && n == 10
			}))
		}, stopped},
	} {
		t.Run(name, func(t *testing.T) {
			tr, clock := clockedTracker(t)
			inner, peer := tcptest.Pair(t)
			src := tr.Track(inner, tcpstate.Origin{Role: tcpstate.Server, Name: "source"})
			defer src.Close()
			send(t, peer)
			require.NoError(t, peer.CloseWrite())
			tc.use(t, src, tr)

			clock.Advance(40 * time.Second)
			var found []tcpstate.Finding
			for _, f := range tr.Findings() {
				if f.Subject.Name == "source" {
					found = append(found, f)
				}
			}
			require.Len(t, found, 1)
			assert.Equal(t, tc.want, found[0].Kind)
			if tc.want == seen {
				assert.Contains(t, frames(found[0], "eof"), "TestFindingTellsHowACopyEnded", "%+v", found[0].Sites)
			}
		})
	}
}

// frames returns the functions of a site of f.
func frames(f tcpstate.Finding, role string) string {
	for _, s := range f.Sites {
		if s.Role == role {
			var b strings.Builder
			for _, frame := range s.Frames {
				b.WriteString(frame.Function + "\n")
			}
			return b.String()
		}
	}
	return "no such site"
}

// A copy that waits for its destination is not a connection that nobody reads.
func TestNoFindingWhileACopyRuns(t *testing.T) {
	tr, clock := clockedTracker(t)
	inner, peer := tcptest.Pair(t)
	src := tr.Track(inner, tcpstate.Origin{Role: tcpstate.Server, Name: "source"})
	defer src.Close()
	send(t, peer)
	require.NoError(t, peer.CloseWrite())

	writing, release, done := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(writerFunc(func(b []byte) (int, error) {
			select {
			case writing <- struct{}{}:
			default:
			}
			<-release
			return len(b), nil
		}), src)
	}()
	<-writing
	clock.Advance(2 * time.Minute)
	assert.Empty(t, tr.Findings())
	close(release)
	<-done
	clock.Advance(40 * time.Second)
	require.Len(t, tr.Findings(), 1)
	assert.Equal(t, tcpstate.KindCloseWaitEOFSeen, tr.Findings()[0].Kind)
}
