//go:build !linux

// Command stalepool compares pools on Linux.
package main

import "fmt"

func main() { fmt.Println("stalepool runs on Linux") }
