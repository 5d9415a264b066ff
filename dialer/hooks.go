package dialer

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/netip"
	"syscall"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// This file lets a dial tell how far it has come: by the ControlContext hook of
// net.Dialer, which hands out the socket of each address that is tried, and by
// httptrace, which knows of the resolution of names. Package httptrace is not
// net/http, and package net obeys it.

// control is our hook. A function of its own for each dial would be an
// allocation: the dial is found in the context.
func control(ctx context.Context, _, address string, c syscall.RawConn) error {
	tcpstate.DialingFromContext(ctx).Trying(ctx, address, c)
	return nil
}

// hook makes d call our hook after those that it has.
func hook(d *net.Dialer) {
	theirs, simple := d.ControlContext, d.Control
	switch {
	case theirs != nil:
		d.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
			if err := theirs(ctx, network, address, c); err != nil {
				return err
			}
			return control(ctx, network, address, c)
		}
	case simple != nil:
		// ControlContext takes precedence over Control.
		d.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
			if err := simple(network, address, c); err != nil {
				return err
			}
			return control(ctx, network, address, c)
		}
	default:
		d.ControlContext = control
	}
}

// traced returns ctx with a trace that tells dialing of names that are
// resolved and of addresses that are tried, on top of the trace that is there.
func traced(ctx context.Context, dialing *tcpstate.Dialing) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { dialing.Resolving() },
		DNSDone:      func(info httptrace.DNSDoneInfo) { dialing.Resolved(info.Addrs, info.Err) },
		ConnectStart: func(_, address string) { dialing.Trying(ctx, address, nil) },
		ConnectDone:  func(_, address string, err error) { dialing.Tried(address, err) },
	})
}

// destination is what a dial has to find out first.
type destination uint8

const (
	destinationOther   destination = iota // the local host, or nothing that can be dialed: net says so
	destinationName                       // to be resolved
	destinationAddress                    // one address
)

func destinationOf(address string) destination {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return destinationOther
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return destinationName
	case ip.WithZone("").IsUnspecified():
		return destinationOther // net tries both families
	}
	return destinationAddress
}
