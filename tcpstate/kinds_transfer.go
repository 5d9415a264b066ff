package tcpstate

var peerKinds []kindRow

var localKinds []kindRow

var idleKinds []kindRow

var keepaliveKinds []kindRow
