// Package tcpstate watches the TCP connections of a program and says what is
// wrong with them while they are open: the peer closed and nobody closes here,
// a connection was dropped without Close, a dead socket still holds its
// descriptor. It joins the state in the kernel, the line of code that owns the
// connection, and the trace it belongs to.
//
// Programs rarely call it directly. They dial through package dialer, listen
// through package listener, wrap an http.Transport with package httppool, and
// send reports to OpenTelemetry with package tcpotel. Without an observer
// attached, findings go to slog.
//
// # Evidence
//
// A finding rests on what was seen: edges (the peer's FIN, RST) by an epoll
// instance of the tracker's own, samples of TCP_INFO, and what the wrapper
// remembers of Read, Close and their lines of code. No byte of the stream is
// read, no socket option is changed, and the descriptor is touched only while
// the runtime guarantees that it is the connection's. Progress (bytes
// acknowledged, application reads) starts every clock again.
//
// # Lifetime
//
// A tracker holds no connection alive. One that is dropped without Close is
// collected as it would be without the tracker, and reported.
package tcpstate
