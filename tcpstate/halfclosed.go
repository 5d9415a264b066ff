package tcpstate

// halfClosed asks about connections that we have closed in our direction.
func (o *openLook) halfClosed() bool { return false }

func (f *facts) halfClosedVerdict() verdict { return verdict{} }
