package jaegertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Query narrows down which traces of a service are asked for. The zero Query asks
// for all.
type Query struct {
	// Operation is a span name that the trace must have, "" any.
	Operation string

	// Tags must all be on one span of the trace, on its process or in one of its
	// logs, compared as strings ("42", "true").
	Tags map[string]string

	// Limit is how many traces are returned at most, the newest, 0 meaning 1000.
	Limit int
}

func (q Query) values(service string) url.Values {
	limit := q.Limit
	if limit == 0 {
		limit = 1000
	}
	v := url.Values{"service": {service}, "limit": {strconv.Itoa(limit)}}
	if q.Operation != "" {
		v.Set("operation", q.Operation)
	}
	if len(q.Tags) > 0 {
		tags, _ := json.Marshal(q.Tags) // a map of strings has no error
		v.Set("tags", string(tags))
	}
	return v
}

// Traces returns the traces that have a span of the service which matches the
// query, as Jaeger knows them now: none, and no failure, if it has none yet. A
// trace comes with all its spans, those of other services too. Traces and their
// spans are sorted by start.
func (s *Server) Traces(t testing.TB, service string, q Query) []Trace {
	t.Helper()
	traces, err := s.traces(t.Context(), service, q)
	if err != nil {
		t.Fatalf("jaegertest: traces of %s: %v", service, err)
	}
	return traces
}

// WaitTraces asks as Traces does until enough says that what came is all it waits
// for, and returns that. A nil enough waits for one trace. The test fails if that
// takes more than 30 seconds, or at once if Jaeger gives no proper answer.
func (s *Server) WaitTraces(t testing.TB, service string, q Query, enough func([]Trace) bool) []Trace {
	t.Helper()
	if enough == nil {
		enough = func(traces []Trace) bool { return len(traces) > 0 }
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var traces []Trace
	err := poll(ctx, func() (err error) {
		if traces, err = s.traces(t.Context(), service, q); err != nil {
			return err
		}
		if !enough(traces) {
			return errIncomplete
		}
		return nil
	}, func(err error) bool { return errors.Is(err, errIncomplete) })
	if err != nil {
		t.Fatalf("jaegertest: traces of %s: %v; last: %s", service, err, outline(traces))
	}
	return traces
}

// Trace returns the trace of that ID, and whether Jaeger knows it.
func (s *Server) Trace(t testing.TB, id string) (Trace, bool) {
	t.Helper()
	var traces []Trace
	err := s.get(t.Context(), "/api/traces/"+id, nil, &traces)
	if errors.Is(err, errNotFound) || err == nil && len(traces) == 0 {
		return Trace{}, false
	}
	if err != nil {
		t.Fatalf("jaegertest: trace %s: %v", id, err)
	}
	return traces[0], true
}

// Services returns the names of the services that Jaeger has spans of, sorted.
func (s *Server) Services(t testing.TB) []string {
	t.Helper()
	var names []string
	if err := s.get(t.Context(), "/api/services", nil, &names); err != nil {
		t.Fatalf("jaegertest: services: %v", err)
	}
	slices.Sort(names)
	return names
}

func (s *Server) traces(ctx context.Context, service string, q Query) ([]Trace, error) {
	var traces []Trace
	if err := s.get(ctx, "/api/traces", q.values(service), &traces); err != nil {
		return nil, err
	}
	slices.SortFunc(traces, func(a, b Trace) int { return a.start().Compare(b.start()) })
	return traces, nil
}

var (
	errNotFound   = errors.New("not found")
	errIncomplete = errors.New("not all there")
)

// get reads the data of an answer of the query API into a value.
func (s *Server) get(ctx context.Context, path string, query url.Values, data any) error {
	u := url.URL{Scheme: "http", Host: s.query, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w: %s", u.RequestURI(), errNotFound, clip(body))
	default:
		return fmt.Errorf("%s: %s: %s", u.RequestURI(), resp.Status, clip(body))
	}
	answer := struct {
		Data   any               `json:"data"`
		Errors []json.RawMessage `json:"errors"`
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %w: %s", u.RequestURI(), err, clip(body))
	}
	if len(answer.Errors) > 0 {
		return fmt.Errorf("%s: %s", u.RequestURI(), answer.Errors)
	}
	return nil
}

// outline lists traces by their spans' names.
func outline(traces []Trace) string {
	if len(traces) == 0 {
		return "none"
	}
	var b strings.Builder
	for _, trace := range traces {
		fmt.Fprintf(&b, "\n%s:", trace.TraceID)
		for _, span := range trace.Spans {
			fmt.Fprintf(&b, " %q", span.OperationName)
		}
	}
	return b.String()
}

// clip shortens an answer to what a test's log can bear.
func clip(body []byte) []byte {
	const limit = 4 << 10
	return body[:min(len(body), limit)]
}
