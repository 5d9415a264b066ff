package tcpstate

import (
	"fmt"
	"strings"
)

// A State is the state of a TCP endpoint as the Linux kernel numbers it
// (include/net/tcp_states.h; TCP_INFO and sock_diag use the same numbers).
// The zero value, Unknown, means that nobody asked yet or that this platform
// cannot tell.
//
// A state alone says little about health: ask its [Phase] what to look at.
type State uint8

// The states, in the order of the kernel. RFC 9293, section 3.3.2, defines
// all of them but Unknown and NewSynRecv.
const (
	// Unknown is no state of TCP: it was not read, or cannot be.
	Unknown State = 0
	// Established means that both directions may carry data.
	Established State = 1
	// SynSent means that we dialed and the peer's SYN has not arrived.
	SynSent State = 2
	// SynRecv is SYN-RECEIVED: both SYNs are out and the peer has not
	// acknowledged ours. On a server these are the kernel's own request
	// sockets: no file descriptor shows this state before accept.
	SynRecv State = 3
	// FinWait1 means that we closed our direction and the peer has not
	// acknowledged that.
	FinWait1 State = 4
	// FinWait2 means that the peer acknowledged our close and has not
	// closed its own direction.
	FinWait2 State = 5
	// TimeWait means that both directions are closed, we closed first, and
	// the kernel keeps the port pair until stray segments have died.
	TimeWait State = 6
	// Closed is the kernel's CLOSE. A descriptor that is still open shows it
	// before connect, after both sides have finished, and after a reset or a
	// timeout; what was seen before decides which.
	Closed State = 7
	// CloseWait means that the peer closed its direction and we have not
	// closed ours.
	CloseWait State = 8
	// LastAck means that the peer closed first, then we did, and the peer
	// has not acknowledged our close.
	LastAck State = 9
	// Listen is a listening socket.
	Listen State = 10
	// Closing means that both sides closed at the same time and the peer has
	// not acknowledged ours.
	Closing State = 11
	// NewSynRecv is SYN-RECEIVED of a request socket, the number the kernel
	// uses inside since Linux 4.1. It reads as SYN-RECEIVED everywhere;
	// user space normally sees SynRecv instead.
	NewSynRecv State = 12
)

// stateNames is indexed by State: RFC 9293 spelling, then the value of the
// semantic convention.
var stateNames = [...]struct{ rfc, semconv string }{
	Unknown:     {"UNKNOWN", ""},
	Established: {"ESTABLISHED", "established"},
	SynSent:     {"SYN-SENT", "syn_sent"},
	SynRecv:     {"SYN-RECEIVED", "syn_received"},
	FinWait1:    {"FIN-WAIT-1", "fin_wait_1"},
	FinWait2:    {"FIN-WAIT-2", "fin_wait_2"},
	TimeWait:    {"TIME-WAIT", "time_wait"},
	Closed:      {"CLOSED", "closed"},
	CloseWait:   {"CLOSE-WAIT", "close_wait"},
	LastAck:     {"LAST-ACK", "last_ack"},
	Listen:      {"LISTEN", "listen"},
	Closing:     {"CLOSING", "closing"},
	NewSynRecv:  {"SYN-RECEIVED", "syn_received"},
}

// States returns the eleven states of RFC 9293 in the order of its section
// 3.3.2: setup, transfer, close. The caller owns the slice.
func States() []State {
	return []State{
		Listen, SynSent, SynRecv, Established, FinWait1, FinWait2,
		CloseWait, Closing, LastAck, TimeWait, Closed,
	}
}

// String returns the state in the spelling of RFC 9293, such as CLOSE-WAIT,
// and UNKNOWN for a number that is no state.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s].rfc
	}
	return stateNames[Unknown].rfc
}

// SemConv returns the value of the OpenTelemetry attribute
// network.connection.state, such as close_wait, and the empty string for
// Unknown: the convention has no value for it, so the attribute is left out.
func (s State) SemConv() string {
	if int(s) < len(stateNames) {
		return stateNames[s].semconv
	}
	return ""
}

// Phase returns the phase this state is evidence of.
//
// Closed gives PhaseAbnormal, which is what it means on a connection whose
// descriptor is still open and that was not shut down in both directions: the
// state alone cannot tell that case from a clean end, the edges before it can.
func (s State) Phase() Phase {
	switch s {
	case SynSent, SynRecv, NewSynRecv:
		return PhaseSetup
	case Established:
		return PhaseTransfer
	case CloseWait, LastAck:
		return PhasePassiveClose
	case FinWait1, FinWait2, Closing, TimeWait:
		return PhaseActiveClose
	case Closed:
		return PhaseAbnormal
	case Listen:
		return PhaseListen
	default:
		return PhaseUnknown
	}
}

// MarshalText returns the String form. It never fails.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts the String forms, in any case. SYN-RECEIVED gives
// SynRecv, never NewSynRecv.
func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if strings.EqualFold(name.rfc, string(text)) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("tcpstate: unknown state %q", text)
}

// A Phase is the part of a connection's life that a state is evidence of. It
// decides which question to ask of a connection that does not move on. The
// zero value is PhaseUnknown.
type Phase uint8

const (
	// PhaseUnknown is the phase of a connection whose state was not read.
	// Ask first whether this platform can tell at all.
	PhaseUnknown Phase = iota
	// PhaseSetup runs until both sides know each other's SYN. Ask whose
	// packet is missing: is our SYN lost, is the answer lost, or does the
	// other side have no room in its accept queue?
	PhaseSetup
	// PhaseTransfer is a usable channel, and no more than that. Ask what
	// the protocol above is waiting for: has TLS finished, was the request
	// answered, do acknowledgements move, who is not reading, is the path
	// still there?
	PhaseTransfer
	// PhasePassiveClose begins when the peer closes first. Ask whether the
	// application saw the end of the stream, whether it closed, and whether
	// the peer acknowledged that.
	PhasePassiveClose
	// PhaseActiveClose begins when we close first. Ask what the peer still
	// has to do, and whether what remains afterwards costs ports.
	PhaseActiveClose
	// PhaseAbnormal is an end without the exchange of FINs: a reset, a
	// timeout, a keepalive that gave up, a middlebox that forgot. Ask who
	// ended it, when, and in which state the connection was until then.
	PhaseAbnormal
	// PhaseListen is a listening socket, which carries no data. Ask whether
	// connections are accepted as fast as they come.
	PhaseListen
)

var phaseNames = [...]string{
	PhaseUnknown:      "unknown",
	PhaseSetup:        "setup",
	PhaseTransfer:     "transfer",
	PhasePassiveClose: "passive close",
	PhaseActiveClose:  "active close",
	PhaseAbnormal:     "abnormal",
	PhaseListen:       "listen",
}

// String returns the phase in lower case, such as "passive close", and
// "unknown" for a number that is no phase.
func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return phaseNames[PhaseUnknown]
}

// MarshalText returns the String form. It never fails.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText accepts the String forms.
func (p *Phase) UnmarshalText(text []byte) error {
	for i, name := range phaseNames {
		if name == string(text) {
			*p = Phase(i)
			return nil
		}
	}
	return fmt.Errorf("tcpstate: unknown phase %q", text)
}
