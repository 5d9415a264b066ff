package harness

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnEndingTellsWhetherItWasAnnounced(t *testing.T) {
	certs := NewCerts(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", certs.Server)
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 1); err == nil; _, err = c.Read(b) {
				}
			}()
		}
	}()
	e := NewEnding(t, ln.Addr().String())
	config := certs.Client.Clone()
	config.MaxVersion = tls.VersionTLS12
	for _, announced := range []bool{true, false} {
		c, err := tls.Dial("tcp", e.Addr(), config)
		require.NoError(t, err)
		_, err = c.Write(make([]byte, 100_000))
		require.NoError(t, err)
		if announced {
			require.NoError(t, c.Close())
		} else {
			require.NoError(t, c.NetConn().Close())
		}
		require.Equal(t, announced, e.Announced(t))
	}
}
