// Package jaeger holds no code: its module exists to pin Jaeger, so that
//
//	GOWORK=off go build -C e2e/jaeger -o "$DIR/jaeger-all-in-one" github.com/jaegertracing/jaeger/cmd/all-in-one
//
// builds the same all-in-one server from every clone. The tool directive in
// go.mod names the command, and go.sum covers all it needs.
//
// It is a module of its own because Jaeger's requirements (OpenTelemetry v1.30,
// gRPC v1.67, more than a hundred others) would otherwise take part in choosing
// the versions that the library is tested with.
package jaeger
