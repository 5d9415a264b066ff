package tcpstate

import (
	"encoding/json"
	"math"
	"time"
)

// Finding is one fault of a connection, or of another Subject, as it was when it
// was reported. Its JSON form is stable: fields are added, never renamed.
type Finding struct {
	ID       uint64   `json:"id"`
	Kind     Kind     `json:"kind"`
	Cause    string   `json:"cause,omitempty"` // more exactly: "reset", "timeout", "deadline"; may be empty
	Severity Severity `json:"severity"`
	Phase    Phase    `json:"phase"`
	State    State    `json:"state"`
	// Since is when the condition began: the peer's FIN, the death of the
	// socket. It stays when the kind changes.
	Since      time.Time `json:"since"`
	DetectedAt time.Time `json:"detected_at"`
	ReportedAt time.Time `json:"reported_at"` // when the ages in Evidence were true

	Subject Subject `json:"subject"`
	Sites   []Site  `json:"sites,omitempty"` // the line to open first
	Group   Group   `json:"group"`

	Title       string   `json:"title"`                 // the verdict in plain words
	Summary     string   `json:"summary"`               // what was seen, with numbers
	Consequence string   `json:"consequence,omitempty"` // what happens if nobody acts
	Evidence    Evidence `json:"evidence"`
	Fix         string   `json:"fix"`
	Check       []string `json:"check,omitempty"` // commands; not for spans and logs

	Was       Kind      `json:"was,omitempty"`    // in Changed: the kind it had
	Became    Kind      `json:"became,omitempty"` // in Cleared: the kind that its last member got
	ClearedAt time.Time `json:"cleared_at,omitzero"`

	Tokens Tokens `json:"-"`
}

// Tokens are what the observer that receives the finding took from the
// contexts concerned, by its Observer.Token or DialDone; nil where it took
// nothing.
type Tokens struct {
	Dial any
	Use  any // of the use in progress, or the last one
}

// SubjectType says what a finding is about.
type SubjectType string

// The types of subjects.
const (
	SubjectConn     SubjectType = "connection"
	SubjectDial     SubjectType = "dial"   // one that is in progress, or has failed
	SubjectTarget   SubjectType = "target" // all dials and connections to one address, as dialed
	SubjectListener SubjectType = "listener"
	SubjectPool     SubjectType = "pool"
	SubjectTunnel   SubjectType = "tunnel" // two connections, paired
	SubjectSite     SubjectType = "site"   // a line of code, with what it makes
	SubjectProcess  SubjectType = "process"
)

// Subject is what a finding is about. Of those that are not a connection, only
// the fields that make sense are set.
type Subject struct {
	Type    SubjectType `json:"type"`
	Conn    *Watch      `json:"-"` // nil unless the subject is a connection
	ID      uint64      `json:"id,omitempty"`
	Role    Role        `json:"role"`
	Name    string      `json:"name,omitempty"`
	Target  string      `json:"target,omitempty"` // as dialed or listened on
	Local   string      `json:"local,omitempty"`
	Remote  string      `json:"remote,omitempty"`
	Opened  time.Time   `json:"opened,omitzero"`
	MPTCP   bool        `json:"mptcp,omitempty"`
	Use     string      `json:"use,omitempty"` // of the use in progress, or the last one
	UseOpen bool        `json:"use_open,omitempty"`
	UseFor  Duration    `json:"use_for,omitempty"` // age of the use in progress
	HTTP    bool        `json:"http,omitempty"`    // the use is an HTTP request, to judge by its method
}

// Site is a place in the code that had to do with the connection.
type Site struct {
	// Role is dial, accept, request, use, last use, handler, eof or error.
	Role   string  `json:"role"`
	Frames []Frame `json:"frames"` // at most three, the owner's first
}

// Frame is one call.
type Frame struct {
	Function string `json:"function"` // as the runtime names it
	File     string `json:"file"`     // relative to its module
	Line     int    `json:"line"`
	short    string
}

// Group says how many findings share the kind and the line.
type Group struct {
	ID      uint64    `json:"id"`
	Open    int       `json:"open"`   // now
	Opened  uint64    `json:"opened"` // ever
	Cleared uint64    `json:"cleared"`
	Since   time.Time `json:"since"`
	// PerMinute is how fast Open grew over the last five to ten minutes, 0 in
	// the first minute, negative when it falls.
	PerMinute float64 `json:"per_minute,omitempty"`
	// NewlyOpened and NewlyCleared count since the last event about the group
	// that this observer received: summed up, the difference is Open. They are
	// 0 in what Tracker.Findings returns.
	NewlyOpened  uint64 `json:"newly_opened"`
	NewlyCleared uint64 `json:"newly_cleared"`
}

// Evidence is what the verdict rests on. An age that is not known is negative,
// and absent from JSON.
type Evidence struct {
	PeerFIN     Duration `json:"peer_fin"` // since the peer's FIN was noticed
	Died        Duration `json:"died"`     // since the kernel ended the connection
	AppRead     Duration `json:"app_read"` // since the application last read; at most a sweep too long
	DataIn      Duration `json:"data_in"`  // since bytes came
	DataOut     Duration `json:"data_out"` // since bytes were sent
	ACK         Duration `json:"ack"`      // since the peer acknowledged anything
	RecvQueue   int      `json:"recv_queue"`
	SendQueue   int      `json:"send_queue"`
	BytesIn     uint64   `json:"bytes_in"`
	BytesOut    uint64   `json:"bytes_out"`
	EOFRead     bool     `json:"eof_read"`
	EverRead    bool     `json:"ever_read"`
	ReadsSeen   bool     `json:"reads_seen"` // false without the wrapper: EOFRead, EverRead and AppRead say nothing
	Retransmits uint32   `json:"retransmits"`
	ContextDone *bool    `json:"context_done,omitempty"` // of the handler that runs
	Hijacked    bool     `json:"hijacked,omitempty"`

	// Of a connection, while it is sending and nothing comes back.
	Unacked    uint32 `json:"unacked,omitempty"`     // segments sent and not acknowledged
	NotSent    uint32 `json:"not_sent,omitempty"`    // bytes that wait for the peer's window
	Timeouts   uint8  `json:"timeouts,omitempty"`    // retransmission timeouts in a row
	Probes     uint8  `json:"probes,omitempty"`      // keepalive or window probes without an answer
	SendWindow uint32 `json:"send_window,omitempty"` // the peer's, in bytes
	NoWindow   bool   `json:"no_window,omitempty"`   // it is smaller than a segment

	// IdleLimit is the idle time after which the peer closes connections, as
	// estimated from those that it has closed; 0: not known.
	IdleLimit Duration `json:"idle_limit,omitempty"`

	// GivesUpAt is when the kernel ends the connection by itself; zero: not known.
	GivesUpAt time.Time `json:"gives_up_at,omitzero"`

	// Notes are facts of this kind of finding, in the order to show them.
	Notes []Note `json:"notes,omitempty"`
}

// Note is one fact, for reading.
type Note struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// MarshalJSON implements json.Marshaler: an age that is not known is absent.
func (ev Evidence) MarshalJSON() ([]byte, error) {
	known := func(d Duration) *Duration {
		if d < 0 {
			return nil
		}
		return &d
	}
	type plain Evidence
	return json.Marshal(struct { // its own fields hide those of the same name in plain
		PeerFIN *Duration `json:"peer_fin,omitempty"`
		Died    *Duration `json:"died,omitempty"`
		AppRead *Duration `json:"app_read,omitempty"`
		DataIn  *Duration `json:"data_in,omitempty"`
		DataOut *Duration `json:"data_out,omitempty"`
		ACK     *Duration `json:"ack,omitempty"`
		plain
	}{
		known(ev.PeerFIN), known(ev.Died), known(ev.AppRead),
		known(ev.DataIn), known(ev.DataOut), known(ev.ACK), plain(ev),
	})
}

// UnmarshalJSON implements json.Unmarshaler: an age that is absent is not known.
func (ev *Evidence) UnmarshalJSON(b []byte) error {
	type plain Evidence
	p := plain{
		PeerFIN: unknownAge, Died: unknownAge, AppRead: unknownAge,
		DataIn: unknownAge, DataOut: unknownAge, ACK: unknownAge,
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*ev = Evidence(p)
	return nil
}

// Duration is an age. JSON shows it in seconds.
type Duration time.Duration

const unknownAge = Duration(-1)

// MarshalJSON implements json.Marshaler. An age that is not known is null.
func (d Duration) MarshalJSON() ([]byte, error) {
	if d < 0 {
		return []byte("null"), nil
	}
	return json.Marshal(time.Duration(d).Seconds())
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*d = unknownAge
		return nil
	}
	var s float64
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*d = Duration(math.Round(s * float64(time.Second)))
	return nil
}

// String returns d rounded for reading: "30s", "2m10s", and "?" when it is not
// known.
func (d Duration) String() string { return age(time.Duration(d)) }
