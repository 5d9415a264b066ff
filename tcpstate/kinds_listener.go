package tcpstate

var listenerKinds []kindRow

var acceptKinds []kindRow
