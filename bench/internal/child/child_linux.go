// Package child runs a part of a measurement in a process of its own: the same
// program, asked by its environment to do something else. That is what strace
// can watch, and whose processor time is nobody else's.
package child

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const env = "TCPSTATE_BENCH_CHILD"

// programs are what a child can be, by name.
var programs = make(map[string]func(args []string) error)

// Register makes f the program of that name. It is called by init functions,
// and f with the arguments of Self.
func Register(name string, f func(args []string) error) { programs[name] = f }

// Main does not return in a child. It is the first thing that main, or the
// TestMain of a test that uses children, calls.
func Main() {
	what := os.Getenv(env)
	if what == "" {
		return
	}
	args := strings.Split(what, "\x1f")
	err := fmt.Errorf("child: no program %q", args[0])
	if f := programs[args[0]]; f != nil {
		err = f(args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Prepare makes cmd, which runs this program or strace with this program, run
// the child of that name.
func Prepare(cmd *exec.Cmd, name string, args ...string) {
	cmd.Env = append(os.Environ(), env+"="+strings.Join(append([]string{name}, args...), "\x1f"))
}
