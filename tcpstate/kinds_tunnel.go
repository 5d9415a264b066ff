package tcpstate

var tunnelKinds []kindRow

var processKinds []kindRow
