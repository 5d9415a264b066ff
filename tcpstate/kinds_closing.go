package tcpstate

var closingKinds []kindRow

var resetKinds []kindRow
