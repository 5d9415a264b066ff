package jaegertest

import "context"

var ErrPortTaken = errPortTaken

// Launch starts Jaeger with these addresses for OTLP, and does not try again.
func Launch(ctx context.Context, bin, otlpHTTP, otlpGRPC string) (*Server, error) {
	return launch(ctx, bin, func() (string, string, error) { return otlpHTTP, otlpGRPC, nil })
}

func (s *Server) Pid() int { return s.pid }
