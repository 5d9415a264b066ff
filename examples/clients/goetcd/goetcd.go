// Package goetcd shows go.etcd.io/etcd/client/v3 with tcpstate.
package goetcd

import (
	"net/http"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/examples/clients/gogrpc"
)

// Hide is for Config.HideFrames: the line to open is that of who made the
// client.
var Hide = append([]string{"github.com/tcpstate/tcpstate-go/examples/clients/goetcd.New"}, gogrpc.Hide...)

// New is clientv3.New with connections that d dials, as grpc does. Without
// DialKeepAliveTime in cfg a client does not notice that its server's host is
// gone.
func New(d *dialer.Dialer, cfg clientv3.Config) (*clientv3.Client, error) {
	cfg.DialOptions = append(gogrpc.Options(d, http.ProxyFromEnvironment), cfg.DialOptions...)
	return clientv3.New(cfg)
}
