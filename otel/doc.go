// Package tcpotel reports what a tcpstate.Tracker sees to OpenTelemetry:
// metrics of all connections, spans of dials, findings and suspicious
// connections, and log records of findings through log/slog.
//
//	stop, err := tcpotel.Start()
//	if err != nil {
//		return err
//	}
//	defer stop(ctx) // before the providers are shut down
//
// It uses the API of OpenTelemetry only; without an SDK it does nothing but
// log. It never records the address or the port of a peer on a metric.
//
// # Metrics
//
// Names of connections are those that dialers and listeners were given. They
// are bounded: after 50 names, 100 functions and 100 targets the value is
// _OTHER, and no instrument has more than 2,000 sets of attributes, which is
// where the SDK begins to drop.
//
//	tcpstate.connection.count                {connection}  connections now, by role, name and network.connection.state; a state without any is 0
//	tcpstate.connection.io                   By            bytes moved, by role, name and network.io.direction
//	tcpstate.connection.retransmits          {segment}     segments sent again, by role and name
//	tcpstate.connection.duration             s             from dial or accept to the end, by role, name and tcpstate.close.reason; its count is that of the connections that ended
//	tcpstate.connection.close_wait.duration  s             from the peer's FIN to our Close, by role and name
//	tcpstate.connection.rtt                  s             the kernel's smoothed round-trip time at the end of a connection, by role and name
//	tcpstate.connect.duration                s             time of a dial, by name; error.type if it failed
//	tcpstate.tls.handshake.duration          s             time of a TLS handshake, by role and name; error.type if it failed
//	tcpstate.connect.retransmits             {segment}     SYNs sent again, by name
//	tcpstate.finding.count                   {finding}     findings open now, by kind, severity, name and code.function.name
//	tcpstate.finding.opened                  {finding}     findings that were opened, and events that are only counted, likewise
//	tcpstate.finding.cleared                 {finding}     findings that ended, likewise; opened minus cleared are those that never did
//	tcpstate.listener.accept_queue.usage     {connection}  connections that wait for Accept now, by name of the listener
//	tcpstate.listener.accept_queue.limit     {connection}  how many may wait, likewise
//	tcpstate.pool.connection.count           {connection}  connections of a pool now, by tcpstate.pool.name and tcpstate.pool.connection.state (idle, used)
//	tcpstate.pool.connection.max             {connection}  how many it may have; absent without a limit. Likewise .idle.max, .idle.min
//	tcpstate.pool.connection.pending_requests {request}    requests that wait for a connection now
//	tcpstate.pool.connection.timeouts        {timeout}     requests that gave up waiting
//	tcpstate.pool.connection.waits           {request}     requests that had to wait, and .wait_time (s) all together
//	tcpstate.pool.connection.uses            {use}         connections that were given back, and .use_time (s) all together
//	tcpstate.pool.connection.creates         {connection}  connections that were made, and .create_time (s) all together
//	tcpstate.pool.connection.discards        {connection}  connections that were not used again, by tcpstate.pool.discard.reason
//	tcpstate.report.suppressed               {report}      what was not reported one by one, by tcpstate.suppression.reason: rate_limit, muted, queue_full, group_limit, or span_limit for connections, see WithConnectionSpans
//	tcpstate.sweep.count                     {sweep}       rounds over all connections
//	tcpstate.sweep.duration                  s             time that all rounds together took
//
// What is counted asynchronously (connection.count, .io, .retransmits,
// finding.count, report.suppressed and sweep) has counted since the tracker
// began, the rest since Start, as has span_limit. A finding that joins a group
// counts in finding.count at once, in finding.opened with the next report of the
// group or at stop.
//
// Pools are those that tell of themselves (tcpstate.Pool.Report, pool.WatchDB),
// named as connections are; those of one name are added up. They are asked when
// metrics are collected. What a pool does not count is absent, not 0. Pools know
// sums and no single values, so that times are counters and no histograms: the
// mean wait is the rate of wait_time over that of waits. WithDBClientNames uses
// the names of the semantic conventions where they fit.
//
// Single events that are normal in small numbers, such as resets, have severity
// count and are in finding.opened alone. They are added when metrics are
// collected, so the time between two collections has to be less than ten
// minutes.
//
// The duration of CLOSE-WAIT is known where the FIN was noticed before Close:
// not of a connection closed within its first second.
//
// # Spans
//
// All spans are finished when they are made; nothing is kept in the SDK while
// a connection is open.
//
//	socket connect {target}   a dial, child of the caller's span where that one is recorded
//	tcpstate wait_for_connection {pool}   a wait for a connection of a pool that tells of single ones (tcpstate.Pool.Waiting), likewise; linked to the dial of the connection
//	tcpstate finding {kind}   from the beginning of the condition to its detection: a trace of its own, linked to the dial and to the last use
//	tcpstate connection       a connection that has ended, see WithConnectionSpans; its children are the phases connect, open and close_wait
//
// Links carry tcpstate.link.role: dial, or last_use for the request, query or
// borrow that used the connection last. A dial link names the trace that the
// connection comes from, which need not be the one at fault.
//
// A client's address is personal data: of connections that were accepted, only
// the network (/24 or /48) leaves the process.
//
// # Log records
//
// A finding is logged when it opens, changes its kind, is worth a reminder and
// ends, with the event.name tcpstate.finding.opened, .changed, .reminded or
// .cleared. The record's context carries the trace of the last use if that was
// sampled, else the finding's, so that a bridge such as otelslog correlates
// them. Findings of severity inventory and audit, and what is only counted, are
// on the metrics only, without span and record.
//
// tcpstate.finding.subject says what a finding is about: a connection, or a
// dial, target, listener, pool, tunnel, site (a line of code) or the process,
// of which there is no connection id and no state.
package tcpotel
