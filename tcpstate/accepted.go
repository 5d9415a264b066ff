package tcpstate

// accepted asks about accepted connections that do not get going.
func (o *openLook) accepted() bool { return false }

func (f *facts) acceptedVerdict() verdict { return verdict{} }
