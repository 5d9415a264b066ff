package nethttp

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/examples/clients/internal/harness"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

func TestMain(m *testing.M) { harness.Main(m) }

const hello = "location / { return 200 hello; }"

func TestABodyThatNobodyClosesIsFound(t *testing.T) {
	srv := harness.Nginx(t, nil, hello)
	path := harness.NewPath(t, srv.Addr())
	rig := harness.New(t)
	client := New(rig.Dialer("web"), &http.Transport{})

	resp, err := client.Get("http://" + path.Addr()) // leak: body
	require.NoError(t, err)
	defer resp.Body.Close()
	path.FIN()
	rig.Finds(t, tcpstate.KindCloseWaitUnreadBody, "web", "request", "body")
}

func TestAClosedBodyIsSilentAndItsConnectionLeavesThePoolWithTheServer(t *testing.T) {
	srv := harness.Nginx(t, nil, hello)
	rig := harness.New(t)
	client := New(rig.Dialer("web"), &http.Transport{})
	defer client.CloseIdleConnections()
	get := func() {
		resp, err := client.Get("http://" + srv.Addr())
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}

	get()
	require.Len(t, rig.Conns("web"), 1)
	srv.Restart(t)
	harness.WaitUntil(t, "the connection to be closed", func() bool { return len(rig.Conns("web")) == 0 })
	get()
	rig.Silent(t)
	harness.Kept(t)
}
