package httppool_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
)

// A request for which net/http dials does not wait for others.
func TestARequestThatIsDialedForDoesNotWaitForOthers(t *testing.T) {
	plain, secure := serve(t, hello), serve(t, hello, withTLS)
	config := secure.Client().Transport.(*http.Transport).TLSClientConfig
	for name, tt := range map[string]struct {
		url  string
		base func(before func()) *http.Transport
	}{
		"DialContext": {plain.URL, func(before func()) *http.Transport {
			return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				before()
				return new(net.Dialer).DialContext(ctx, network, address)
			}}
		}},
		"DialTLSContext": {secure.URL, func(before func()) *http.Transport {
			return &http.Transport{DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				before()
				return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
			}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dialing, goOn := make(chan struct{}), make(chan struct{})
			base := tt.base(func() {
				dialing <- struct{}{}
				<-goOn
			})
			base.MaxConnsPerHost = 1
			f := newFixture(t, base)
			done := make(chan error, 2)
			get := func() {
				resp, err := f.client.Get(tt.url)
				if err == nil {
					resp.Body.Close()
				}
				done <- err
			}
			go get()
			<-dialing
			require.Zero(t, f.pool.Stats().Waiting)
			go get()
			tcptest.WaitUntil(t, "the second request to wait", func() bool { return f.pool.Stats().Waiting == 1 })
			goOn <- struct{}{}
			require.NoError(t, <-done)
			<-dialing // the body of the first answer was not read, so its connection is closed
			require.Zero(t, f.pool.Stats().Waiting)
			goOn <- struct{}{}
			require.NoError(t, <-done)
		})
	}
}
