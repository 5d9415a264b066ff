// Package pool keeps network connections for reuse, one set per address, and
// knows of each idle one whether its peer is still there.
//
// A peer that closes an idle connection is noticed by the tracker's events. The
// connection is closed at once and never handed out: Get looks at two words in
// memory, and once in a quarter of a millisecond asks the kernel whether an
// event is on its way. Connections that have been idle for long are asked for by
// a keepalive probe first, since a peer or a path that vanished tells nothing.
//
// What Get returns is a Conn, a small value that stands for one loan. After its
// Close it reaches nothing any more: a copy that somebody kept cannot read or
// write in the next borrower's connection. Close keeps the connection, unless it
// was seen to be in the middle of something.
//
// Borrowers are counted, limited and queued by github.com/jackc/puddle. The idle
// connections lie in a list of the package's own, because one of them can be
// taken from its middle. A connection that is not returned is reported with the
// line that borrowed it, as leak.not_returned; the error of Pool.Close lists
// those lines, too.
//
// WatchDB watches a pool that lives elsewhere: that of database/sql.
package pool
