package tcpstate

var dialExamples []exampleRow
