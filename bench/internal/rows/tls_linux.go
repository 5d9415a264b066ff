package rows

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/row"
	"github.com/tcpstate/tcpstate-go/bench/internal/ways"
	"github.com/tcpstate/tcpstate-go/dialer"
)

// tlsHandshake dials, makes a full handshake and closes. The server is plain.
//
// Ours costs more here than in dial+close, though the handshake is watched at a
// cost that no profile shows: each dial comes after most of a millisecond of
// other work. With the caches overwritten before each dial, dial+close had cost
// half as much again. Even a wrapper that does next to nothing costs here what it
// does not cost there.
func tlsHandshake(ctx context.Context, e *row.Env) (row.Result, error) {
	server, client, err := tlsConfigs()
	if err != nil {
		return row.Result{}, err
	}
	res, err := lives(ctx, e, spec{row: "tls handshake", batch: 20, allocs: 20}, func(_ context.Context, w *ways.Way, l *net.TCPListener) func() error {
		go serveHandshakes(l, server)
		address := l.Addr().String()
		dial := func() (*tls.Conn, error) {
			raw, err := w.Dial(w.Ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			c := tls.Client(raw, client)
			return c, c.HandshakeContext(w.Ctx)
		}
		if w.Ours != nil {
			d := dialer.Dialer{Tracker: w.Ours.Tracker, Name: ways.Name}
			dial = func() (*tls.Conn, error) { return d.DialTLS(w.Ctx, "tcp", address, client) }
		}
		return func() error {
			c, err := dial()
			if err != nil {
				return err
			}
			// The server resets when it reads the end: the close_notify has to be
			// there before.
			return c.Close()
		}
	})
	res.Notef("Only the client is tracked. After a handshake the caches are cold, so that a dial costs more than in dial+close.")
	return res, err
}

// serveHandshakes serves one connection after the other until l is closed.
func serveHandshakes(l *net.TCPListener, config *tls.Config) {
	b := make([]byte, 1)
	for {
		raw, err := l.AcceptTCP()
		if err != nil {
			return
		}
		c := tls.Server(raw, config)
		_, _ = c.Read(b) // until the client has left
		ways.Reset(raw)
	}
}

// tlsConfigs makes a certificate for 127.0.0.1, and who trusts it. Sessions are
// not resumed.
func tlsConfigs() (server, client *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		SessionTicketsDisabled: true,
	}
	return server, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}, nil
}
