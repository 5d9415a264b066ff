package httppool

import "net/http"

// Inner returns the transport that t makes its requests with.
func (t *Transport) Inner() *http.Transport {
	t.once.Do(t.init)
	return t.inner
}

// ForgetTraceKey makes the package believe that httptrace has changed.
func ForgetTraceKey() (restore func()) {
	key := traceKey.Swap(nil)
	return func() { traceKey.Store(key) }
}
