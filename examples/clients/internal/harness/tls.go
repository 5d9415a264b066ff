package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Certs is a certificate authority of one test and the certificate that it
// has issued for localhost, 127.0.0.1 and ::1.
type Certs struct {
	CA, Cert, Key []byte // PEM
	CAFile        string // a file with CA
	Server        *tls.Config
	Client        *tls.Config // trusts CA only; without ServerName
}

// NewCerts makes certificates.
func NewCerts(t testing.TB) *Certs {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)

	c := &Certs{
		CA:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
	c.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(c.CAFile, c.CA, 0o644))
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(c.CA))
	c.Server = &tls.Config{Certificates: []tls.Certificate{pair}}
	c.Client = &tls.Config{RootCAs: roots}
	return c
}

// Both runs f over plain TCP, with nil, and over TLS, beside each other.
func Both(t *testing.T, f func(t *testing.T, certs *Certs)) {
	t.Helper()
	for name, certs := range map[string]*Certs{"plain": nil, "TLS": NewCerts(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, certs)
		})
	}
}

// TLS12 returns c for clients that speak TLS up to version 1.2, in which those
// who pass by can tell alerts from data, see Path.Announced.
func (c *Certs) TLS12() *Certs {
	old := *c
	old.Client = c.Client.Clone()
	old.Client.MaxVersion = tls.VersionTLS12
	return &old
}
