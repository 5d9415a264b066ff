package tcpstate

var tunnelExamples []exampleRow
