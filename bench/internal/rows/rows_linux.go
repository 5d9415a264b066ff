// Package rows holds the rows of the benchmark about single operations.
package rows

import "github.com/tcpstate/tcpstate-go/bench/internal/row"

// All are the rows, in the order of the table.
var All = []row.Row{
	{Name: "read nothing", What: "a Read that makes no system call", Run: readNothing},
	{Name: "read", What: "a Read of one byte that waits in a loopback connection", Run: readLoopback},
	{Name: "ping-pong", What: "one byte there and back over loopback", Run: pingPong},
	{Name: "proxy", What: "io.Copy between two connections, in a process of its own", Run: proxyCopy},
	{Name: "http file", What: "http.ServeContent of a file, in a process of its own", Run: httpFile},
	{Name: "dial+close", What: "a dial over loopback, and Close; what the other end does is in all columns", Run: dialClose},
	{Name: "accept+close", What: "an accepted connection, and Close; the client's dial is in all columns", Run: acceptClose},
	{Name: "tls handshake", What: "dial, full TLS handshake over loopback, Close; both ends in one process", Run: tlsHandshake},
	{Name: "http", What: "a warm request over loopback, attributed to its line, to the simplest of servers", Run: warmHTTP},
	{Name: "http alone", What: "the same on one processor, over a connection that answers from memory: net/http and ours", Run: httpAlone},
	{Name: "http server", What: "a warm request over loopback to a server that attributes it to its connection", Run: servedHTTP},
	{Name: "heap", What: "live heap by connection, and what is left of it after Close", Run: heapPerConn},
	{Name: "finding to span", What: "from the tracker's word of a finding to the exporter's", Run: findingToSpan},
	{Name: "accepts reported", What: "1,000 accepts a second, each with a request's span in the same batch queue", Run: acceptsReported},
	{Name: "observer overflow", What: "accept+close while the observer cannot keep up: counted, and free of charge", Run: overflow},
}
