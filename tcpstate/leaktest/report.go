package leaktest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// The kinds of what only the end of a test makes wrong.
const (
	kindLeftOpen tcpstate.Kind = "test.left_open"
	kindDialing  tcpstate.Kind = "test.dialing"
)

// maxBlocks bounds a report.
const maxBlocks = 20

// report is what a test has left behind.
type report struct {
	groups []*foundGroup
	conns  []tcpstate.Snapshot
	dials  []tcpstate.DialSnapshot
}

// without takes off the connections with these numbers.
func (r *report) without(ids map[uint64]bool) {
	r.conns = slices.DeleteFunc(r.conns, func(s tcpstate.Snapshot) bool { return ids[s.ID] })
}

// String returns the text: what there is, then a block for each finding and each
// line of code.
func (r *report) String() string {
	var what []string
	add := func(n int, noun, rest string) {
		if n > 0 {
			what = append(what, counted(n, noun)+rest)
		}
	}
	add(len(r.conns), "connection", " left open")
	add(len(r.dials), "dial", " in progress")
	add(len(r.groups), "finding", "")
	if len(what) == 0 {
		return ""
	}
	var blocks []string
	for _, g := range r.groups {
		blocks = append(blocks, g.shown.String()+g.end)
	}
	for _, l := range byLine(r.conns, connKey) {
		blocks = append(blocks, leftOpen(l))
	}
	for _, l := range byLine(r.dials, dialKey) {
		blocks = append(blocks, dialing(l))
	}
	var b strings.Builder
	b.WriteString("leaktest: " + strings.Join(what, ", ") + "\n")
	for i, block := range blocks {
		if i == maxBlocks {
			fmt.Fprintf(&b, "\nand %s like these\n", counted(len(blocks)-i, "block"))
			break
		}
		b.WriteString("\n" + block)
	}
	return b.String()
}

// byLine groups all by their key, the largest group first.
func byLine[T any](all []T, key func(*T) string) [][]T {
	index := make(map[string]int)
	var lines [][]T
	for i := range all {
		k := key(&all[i])
		n, ok := index[k]
		if !ok {
			n = len(lines)
			index[k], lines = n, append(lines, nil)
		}
		lines[n] = append(lines[n], all[i])
	}
	slices.SortStableFunc(lines, func(a, b []T) int { return cmp.Compare(len(b), len(a)) })
	return lines
}

func connKey(s *tcpstate.Snapshot) string {
	return fmt.Sprint(s.Role, s.Name, s.InUse > 0, places(s.Sites))
}

func dialKey(d *tcpstate.DialSnapshot) string {
	return fmt.Sprint(d.Name, places([]tcpstate.Site{d.Site}))
}

// places lists the line of each site.
func places(all []tcpstate.Site) (lines []string) {
	for _, s := range all {
		if len(s.Frames) > 0 {
			lines = append(lines, s.Role+" "+s.Frames[0].String())
		}
	}
	return lines
}

// leftOpen describes connections of one line by the first of them.
func leftOpen(all []tcpstate.Snapshot) string {
	s := &all[0]
	f := tcpstate.Finding{
		Kind: kindLeftOpen, Severity: tcpstate.Warning, State: s.State, Title: "connection left open",
		Subject: tcpstate.Subject{
			Type: tcpstate.SubjectConn, ID: s.ID, Role: s.Role, Name: s.Name, Target: s.Target,
			Local: s.Local.String(), Remote: s.Remote.String(), Use: s.Use,
		},
		Sites: ownerFirst(s.Sites), Evidence: evidence(s), Fix: fix(s),
	}
	said := []string{f.Subject.String(), "—", "opened"}
	if d := time.Since(s.Opened); d >= 0 { // the tracker may have a clock of its own
		said = append(said, tcpstate.Duration(d).String()+" ago,")
	}
	said = append(said, "not closed;", state(s)+".")
	f.Summary = strings.Join(said, " ")
	if len(all) > 1 {
		f.Consequence = counted(len(all), "connection") + " like this from the same line: " + census(all) + "."
	}
	return f.String()
}

// ownerFirst moves the place that uses the connection now before the one that
// made it.
func ownerFirst(all []tcpstate.Site) []tcpstate.Site {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b tcpstate.Site) int { return cmp.Compare(rank(a.Role), rank(b.Role)) })
	return all
}

func rank(role string) int {
	switch role {
	case "request", "use", "handler":
		return 0
	}
	return 1
}

// state says how far the connection has come.
func state(s *tcpstate.Snapshot) string {
	switch s.State {
	case tcpstate.Unknown:
		return "its state is not known here"
	case tcpstate.CloseWait:
		return s.State.String() + ", the peer has closed"
	case tcpstate.Closed:
		return "its socket is dead"
	}
	return s.State.String()
}

// census counts the connections by state, in the order of RFC 9293.
func census(all []tcpstate.Snapshot) string {
	states := make(map[tcpstate.State]int)
	for i := range all {
		states[all[i].State]++
	}
	var parts []string
	for _, st := range append(tcpstate.States(), tcpstate.Unknown) {
		if n := states[st]; n > 0 {
			parts = append(parts, thousands(n)+" "+st.String())
		}
	}
	return strings.Join(parts, ", ")
}

func evidence(s *tcpstate.Snapshot) tcpstate.Evidence {
	const unknown = tcpstate.Duration(-1)
	ev := tcpstate.Evidence{
		PeerFIN: unknown, Died: unknown, AppRead: unknown, DataIn: unknown, DataOut: unknown, ACK: unknown,
		RecvQueue: s.RecvQueue, SendQueue: s.SendQueue,
	}
	if s.Info.DataSegmentsIn > 0 {
		ev.DataIn = tcpstate.Duration(s.Info.LastDataReceived)
	}
	if s.Info.DataSegmentsOut > 0 {
		ev.DataOut = tcpstate.Duration(s.Info.LastDataSent)
	}
	return ev
}

// fix says what to do about a connection that was left open.
func fix(s *tcpstate.Snapshot) string {
	owner := s.Site.Role
	if all := ownerFirst(s.Sites); len(all) > 0 {
		owner = all[0].Role
	}
	switch {
	case owner == "request":
		return "defer resp.Body.Close() right after the error check"
	case owner == "use":
		return "end the use, and close the connection or its pool, before the test ends"
	case owner == "handler":
		return "let the handler return, and close the server, before the test ends"
	case idleHTTP(s):
		return "call CloseIdleConnections in a cleanup, or excuse it with leaktest.IdleHTTP()"
	case s.Role == tcpstate.Client && s.Uses > 0:
		return "close the pool or client that keeps it, before the test ends"
	case s.Role == tcpstate.Server && s.Uses > 0:
		return "close the server, with its idle connections, before the test ends"
	case s.Role == tcpstate.Server:
		return "close it when whoever serves it is done, and wait for that before the test ends; closing the listener does not"
	}
	return "close it where it was made, or in a cleanup: t.Cleanup(func() { conn.Close() })"
}

// dialing describes dials of one line by the first of them.
func dialing(all []tcpstate.DialSnapshot) string {
	d := &all[0]
	f := tcpstate.Finding{
		Kind: kindDialing, Severity: tcpstate.Warning, Title: "dial still in progress",
		Subject: tcpstate.Subject{Type: tcpstate.SubjectDial, Role: d.Role, Name: d.Name, Target: d.Target},
		Sites:   []tcpstate.Site{d.Site},
		Fix:     "cancel its context and wait until it has returned, before the test ends",
	}
	f.Summary = fmt.Sprintf("%s — begun %s ago, has not returned%s.", f.Subject, tcpstate.Duration(d.Age), attempt(d))
	if len(all) > 1 {
		f.Consequence = counted(len(all), "dial") + " like this from the same line."
	}
	return f.String()
}

// attempt says what the dial is waiting for, as far as it is known.
func attempt(d *tcpstate.DialSnapshot) string {
	if d.Resolving {
		return "; the name is being resolved"
	}
	for _, a := range d.Attempts {
		if !a.Ended && a.State != tcpstate.Unknown {
			return fmt.Sprintf("; %s to %s", a.State, a.Remote)
		}
	}
	return ""
}

// counted formats a number of things: "1 dial", "5,000 connections".
func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return thousands(n) + " " + noun
}

// thousands formats a number with separators.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
