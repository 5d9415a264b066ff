package tcpstate

// setUp asks about handshakes, and dialed connections that nobody uses.
func (o *openLook) setUp() bool { return false }

func (f *facts) setupVerdict() verdict { return verdict{} }
