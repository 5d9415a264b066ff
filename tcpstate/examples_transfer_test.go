package tcpstate

var transferExamples []exampleRow
