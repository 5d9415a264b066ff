package tcpstate

var dialKinds []kindRow

var handshakeKinds []kindRow
