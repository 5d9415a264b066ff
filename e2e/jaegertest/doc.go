// Package jaegertest runs a real tracing backend, Jaeger all-in-one, for a test
// and reads back over its query API what the backend understood.
//
//	func TestExport(t *testing.T) {
//		jaeger := jaegertest.Start(t)
//		// Export over OTLP to jaeger.OTLPEndpoint()+"/v1/traces" …
//		traces := jaeger.WaitTraces(t, "my-service", jaegertest.Query{}, nil)
//		// … and judge traces[0].Spans.
//	}
//
// # What Jaeger makes of an OpenTelemetry span
//
// As read off Jaeger v1.62, the version that e2e/jaeger pins:
//
//   - A parent is a CHILD_OF reference within the same trace, the first of the
//     span's references. See [Span.Parent].
//   - A link is a FOLLOWS_FROM reference. Its attributes and trace state are
//     dropped, save that the attribute opentracing.ref_type=child_of makes it a
//     CHILD_OF. A link to the span's own parent adds no reference: it turns the
//     parent's reference into a FOLLOWS_FROM. See [Span.Links].
//   - The first reference within the span's own trace is moved to the front, so
//     references need not come in the order of the links.
//   - Status Error is the tags otel.status_code=ERROR and error=true, Ok is
//     otel.status_code=OK, Unset is no tag; a description is the tag
//     otel.status_description. See [Span.Status].
//   - The kind is the tag span.kind, in lower case; the instrumentation scope is
//     the tags otel.scope.name and otel.scope.version, and the scope's own
//     attributes are dropped.
//   - An event is a log whose name is the field "event".
//   - Resource attributes but service.name are tags of the process.
//   - Attributes keep their type, but slices and maps become a string of JSON.
//   - Every span gets the tag internal.span.format=otlp.
//   - Times and durations are cut to microseconds.
package jaegertest
