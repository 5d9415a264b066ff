package tcpstate

var listenerExamples []exampleRow
