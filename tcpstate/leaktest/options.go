package leaktest

import (
	"slices"
	"strings"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Option excuses something. Options add up.
type Option func(*options)

type options struct {
	idleHTTP   bool
	noFindings bool
	names      []string
	kinds      []tcpstate.Kind
	functions  []string
}

// IdleHTTP excuses the connections that lie idle in the pool of an
// http.Transport, which keeps them for the next request until somebody calls
// CloseIdleConnections or its idle timeout has passed.
//
// Package httppool knows when a connection is idle: each request on it was
// answered, and the body read to the end or closed. Of a plain http.Transport,
// one that dials through package dialer by itself and not by a function of the
// program, the traffic has to tell: nothing waits in the socket, and the last
// byte came from the server, give or take the 20 ms in which an HTTP/2 client
// acknowledges what it received. So a request that follows an answer as quickly
// passes for idle, and so does a short answer whose body is not closed.
func IdleHTTP() Option { return func(o *options) { o.idleHTTP = true } }

// IgnoreFindings excuses all findings, for a test that provokes them and looks
// at them itself. What is left open is still reported.
func IgnoreFindings() Option { return func(o *options) { o.noFindings = true } }

// IgnoreKind excuses the findings of these kinds, or families such as
// "close_wait". A connection that has such a finding must be closed all the
// same.
func IgnoreKind(kinds ...tcpstate.Kind) Option {
	return func(o *options) { o.kinds = append(o.kinds, kinds...) }
}

// IgnoreName excuses what belongs to dialers, listeners and pools with one of
// these names.
func IgnoreName(names ...string) Option {
	return func(o *options) { o.names = append(o.names, names...) }
}

// IgnoreFunc excuses what was opened or used by a function whose name begins
// with one of these prefixes: "github.com/acme/driver" for a package and those
// below it, "github.com/acme/driver.(*Pool)." for the methods of a type. Reports
// show the last two elements of the path. What counts is what they show:
// functions that are neither of the standard library nor of this one, as far as
// there are any, three at most.
func IgnoreFunc(prefixes ...string) Option {
	return func(o *options) { o.functions = append(o.functions, prefixes...) }
}

func newOptions(opts []Option) (o options) {
	for _, set := range opts {
		set(&o)
	}
	return o
}

// excused reports whether what has this name and these places is to be ignored.
func (o *options) excused(name string, places []tcpstate.Site) bool {
	if slices.Contains(o.names, name) {
		return true
	}
	for _, s := range places {
		for _, f := range s.Frames {
			if slices.ContainsFunc(o.functions, func(p string) bool { return strings.HasPrefix(f.Function, p) }) {
				return true
			}
		}
	}
	return false
}

// excusedConn reports whether s may stay open.
func (o *options) excusedConn(s *tcpstate.Snapshot) bool {
	return o.excused(s.Name, s.Sites) || o.idleHTTP && idleHTTP(s)
}

// excusedFinding reports whether f may happen.
func (o *options) excusedFinding(f *tcpstate.Finding) bool {
	return o.excused(f.Subject.Name, f.Sites) || slices.ContainsFunc(o.kinds, func(k tcpstate.Kind) bool {
		return f.Kind == k || strings.HasPrefix(string(f.Kind), string(k)+".")
	})
}

// idleHTTP reports whether s lies idle in the pool of an http.Transport.
func idleHTTP(s *tcpstate.Snapshot) bool {
	if s.Role != tcpstate.Client || len(s.Site.Frames) == 0 {
		return false
	}
	if s.Uses > 0 {
		// A line that only used it comes first where nobody uses it now, and the
		// dial was the Transport's own: that line is in the standard library.
		return s.Site.Role == "last use"
	}
	if !strings.HasPrefix(s.Site.Frames[0].Function, "net/http.") {
		return false
	}
	in := &s.Info
	switch {
	case in.Len() == 0:
		return true // nothing tells more
	case s.State != tcpstate.Established, s.RecvQueue > 0, s.SendQueue > 0:
		return false
	case in.DataSegmentsIn == 0:
		return in.DataSegmentsOut == 0 // dialed for a request that did not wait, or not answered yet
	}
	// HTTP/2 answers what it receives, at once.
	return in.LastDataSent+answerTime >= in.LastDataReceived
}
