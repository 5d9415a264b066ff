package jaegertest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Trace is a trace as the query API gives it.
type Trace struct {
	// TraceID is the ID as OpenTelemetry prints it, but of 16 digits only if the
	// upper half is zero.
	TraceID   string
	Spans     []Span // sorted by start
	Processes map[string]Process
	Warnings  []string
}

// Span is a span of a trace.
type Span struct {
	TraceID       string
	SpanID        string
	OperationName string // the span's name
	References    []Reference
	StartTime     time.Time     // in whole microseconds
	Duration      time.Duration // in whole microseconds, negative for an end before the start
	Tags          Tags
	Logs          []Log
	ProcessID     string
	Process       Process // the one that ProcessID names in the trace
	Warnings      []string
}

// The types of a Reference.
const (
	ChildOf     = "CHILD_OF"
	FollowsFrom = "FOLLOWS_FROM"
)

// Reference is how a span refers to its parent or to a span that it links.
type Reference struct {
	RefType string // ChildOf or FollowsFrom
	TraceID string
	SpanID  string
}

// Process is the resource that a span came from.
type Process struct {
	ServiceName string
	Tags        Tags
}

// Log is an event of a span. Its name is the field "event".
type Log struct {
	Timestamp time.Time // in whole microseconds
	Fields    Tags
}

// Tag is an attribute. Value is a string, bool, int64, float64 or []byte, as Type
// says ("string", "bool", "int64", "float64", "binary").
type Tag struct {
	Key   string
	Type  string
	Value any
}

// Tags are the attributes of a span, a process or an event.
type Tags []Tag

// Value returns the value of the first tag of that key, nil if there is none.
func (t Tags) Value(key string) any {
	i := slices.IndexFunc(t, func(tag Tag) bool { return tag.Key == key })
	if i < 0 {
		return nil
	}
	return t[i].Value
}

// Span returns the first span of that name, and whether there is one.
func (t Trace) Span(name string) (Span, bool) {
	i := slices.IndexFunc(t.Spans, func(s Span) bool { return s.OperationName == name })
	if i < 0 {
		return Span{}, false
	}
	return t.Spans[i], true
}

func (t Trace) start() time.Time {
	if len(t.Spans) == 0 {
		return time.Time{}
	}
	return t.Spans[0].StartTime
}

// Service returns the name of the service that the span came from.
func (s Span) Service() string { return s.Process.ServiceName }

// Kind returns the span's kind: "internal", "server", "client", "producer",
// "consumer" or, if unspecified, "".
func (s Span) Kind() string {
	kind, _ := s.Tags.Value("span.kind").(string)
	return kind
}

// Status returns the span's status: the code "ERROR", "OK" or, if unset, "", and
// the description.
func (s Span) Status() (code, description string) {
	code, _ = s.Tags.Value("otel.status_code").(string)
	description, _ = s.Tags.Value("otel.status_description").(string)
	return code, description
}

// Parent returns the reference to the span's parent, and whether it has one. For a
// span that also links its parent there is none: Jaeger merges the two into a
// link.
func (s Span) Parent() (Reference, bool) {
	i := slices.IndexFunc(s.References, func(r Reference) bool {
		return r.RefType == ChildOf && r.TraceID == s.TraceID
	})
	if i < 0 {
		return Reference{}, false
	}
	return s.References[i], true
}

// Links returns the span's links, in no given order.
func (s Span) Links() []Reference {
	var links []Reference
	for _, r := range s.References {
		if r.RefType == FollowsFrom {
			links = append(links, r)
		}
	}
	return links
}

// HasLink reports whether the span links that span.
func (s Span) HasLink(traceID, spanID string) bool {
	return slices.Contains(s.References, Reference{RefType: FollowsFrom, TraceID: traceID, SpanID: spanID})
}

// UnmarshalJSON reads a trace of the query API: it sorts the spans and gives each
// its process.
func (t *Trace) UnmarshalJSON(data []byte) error {
	type plain Trace // without this method
	if err := json.Unmarshal(data, (*plain)(t)); err != nil {
		return err
	}
	for i := range t.Spans {
		process, ok := t.Processes[t.Spans[i].ProcessID]
		if !ok {
			return fmt.Errorf("span %s: no process %q", t.Spans[i].SpanID, t.Spans[i].ProcessID)
		}
		t.Spans[i].Process = process
	}
	slices.SortStableFunc(t.Spans, func(a, b Span) int { return a.StartTime.Compare(b.StartTime) })
	return nil
}

// UnmarshalJSON reads a span of the query API.
func (s *Span) UnmarshalJSON(data []byte) error {
	type plain Span
	aux := struct {
		*plain
		StartTime int64 // these two shadow the fields of plain
		Duration  uint64
	}{plain: (*plain)(s)}
	if err := json.Unmarshal(data, &aux); err != nil {
		return err
	}
	s.StartTime = time.UnixMicro(aux.StartTime)
	s.Duration = time.Duration(int64(aux.Duration)) * time.Microsecond // a negative one comes wrapped
	return nil
}

// UnmarshalJSON reads a log of the query API.
func (l *Log) UnmarshalJSON(data []byte) error {
	var aux struct {
		Timestamp int64
		Fields    Tags
	}
	if err := json.Unmarshal(data, &aux); err != nil {
		return err
	}
	*l = Log{Timestamp: time.UnixMicro(aux.Timestamp), Fields: aux.Fields}
	return nil
}

// UnmarshalJSON reads a tag of the query API.
func (t *Tag) UnmarshalJSON(data []byte) error {
	var aux struct {
		Key   string
		Type  string
		Value json.RawMessage
	}
	if err := json.Unmarshal(data, &aux); err != nil {
		return err
	}
	value, err := tagValue(aux.Type, aux.Value)
	if err != nil {
		return fmt.Errorf("tag %s of type %q: %w", aux.Key, aux.Type, err)
	}
	*t = Tag{Key: aux.Key, Type: aux.Type, Value: value}
	return nil
}

func tagValue(typ string, raw json.RawMessage) (any, error) {
	switch typ {
	case "string":
		return decode[string](raw)
	case "bool":
		return decode[bool](raw)
	case "float64":
		return decode[float64](raw)
	case "int64":
		// A string beyond ±(2^53-1), which JavaScript's numbers cannot hold.
		if len(raw) > 0 && raw[0] == '"' {
			digits, err := decode[string](raw)
			if err != nil {
				return nil, err
			}
			return strconv.ParseInt(digits, 10, 64)
		}
		return decode[int64](raw)
	case "binary":
		text, err := decode[string](raw)
		if err != nil {
			return nil, err
		}
		return base64.StdEncoding.DecodeString(text)
	default:
		return nil, fmt.Errorf("unknown type")
	}
}

func decode[T any](raw json.RawMessage) (T, error) {
	var v T
	err := json.Unmarshal(raw, &v)
	return v, err
}
