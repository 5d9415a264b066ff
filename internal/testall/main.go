// Command testall runs the tests of every module in this repository, in order,
// with the flags given: go run ./internal/testall [go test flags].
//
// The end-to-end test builds a tracing backend from source, which takes minutes
// the first time; it runs with -e2e only. The clients in examples/clients want
// their servers and are tested by themselves.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
)

func main() {
	modules := []string{".", "examples", "bench"}
	args := os.Args[1:]
	if i := slices.Index(args, "-e2e"); i >= 0 {
		args = slices.Delete(args, i, i+1)
		modules = append(modules, "e2e")
	}
	failed := 0
	for _, m := range modules {
		fmt.Println("== module", m)
		cmd := exec.Command("go", append([]string{"test", "-C", m}, append(args, "./...")...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Println("== module", m, "failed:", err)
			failed++
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
