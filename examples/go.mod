module github.com/tcpstate/tcpstate-go/examples

go 1.26

require github.com/tcpstate/tcpstate-go v0.0.0

replace github.com/tcpstate/tcpstate-go => ../
