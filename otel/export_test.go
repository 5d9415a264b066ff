package tcpotel

import "github.com/tcpstate/tcpstate-go/tcpstate"

// Limits, for tests.
const (
	MaxNames     = maxNames
	MaxTargets   = maxTargets
	MaxFunctions = maxFunctions
)

// Detached returns the observer that Start would attach, and what ends it.
func Detached(opts ...Option) (*tcpstate.Observer, func() error, error) {
	c := newConfig(opts)
	r, err := newReporter(&c)
	if err != nil {
		return nil, nil, err
	}
	return r.observer(), r.registration.Unregister, nil
}

// ErrorType is errorType.
var ErrorType = errorType

// HandshakeError is handshakeError.
var HandshakeError = handshakeError
