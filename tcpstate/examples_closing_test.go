package tcpstate

var closingExamples []exampleRow
