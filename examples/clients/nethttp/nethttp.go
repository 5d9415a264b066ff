// Package nethttp shows net/http clients with tcpstate.
package nethttp

import (
	"net/http"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
)

// New returns a client with the settings of base, which stays as it is. Its
// requests are known to findings by their line.
func New(d *dialer.Dialer, base *http.Transport) *http.Client {
	return &http.Client{Transport: &httppool.Transport{Base: base, Dialer: *d}}
}
