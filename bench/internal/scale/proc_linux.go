package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/child"
)

// command is what a process can be asked for.
type command func(args json.RawMessage) (any, error)

// on makes a command of a function with one argument.
func on[A, R any](f func(A) (R, error)) command {
	return func(raw json.RawMessage) (any, error) {
		var a A
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
		return f(a)
	}
}

// none is the argument, or the answer, where there is nothing to say.
type none struct{}

func init() {
	role("holder", func() map[string]command { return new(holder).commands() })
	role("peer", func() map[string]command { return new(peer).commands() })
	role("idler", func() map[string]command { return new(idler).commands() })
}

// role makes a process of the commands that it understands.
func role(name string, can func() map[string]command) {
	child.Register(name, func([]string) error { return serve(can(), os.Stdin, os.Stdout) })
}

type request struct {
	Do   string
	Args json.RawMessage
}

type answer struct {
	Err    string
	Result any
}

// serve answers one request after the other until there are no more.
func serve(can map[string]command, in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		switch err := requests.Decode(&r); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		var a answer
		if f := can[r.Do]; f == nil {
			a.Err = "unknown command " + r.Do
		} else if v, err := f(r.Args); err != nil {
			a.Err = err.Error()
		} else {
			a.Result = v
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// proc is a process of ours.
type proc struct {
	role    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	asks    *json.Encoder
	answers *json.Decoder
}

// start starts a process. It ends with stop, when this process ends, or with
// ctx.
func start(ctx context.Context, role string) (*proc, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &proc{role: role, cmd: exec.CommandContext(ctx, exe)}
	child.Prepare(p.cmd, role)
	p.cmd.Stderr = os.Stderr
	p.cmd.WaitDelay = time.Second
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.asks, p.answers = json.NewEncoder(p.in), json.NewDecoder(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// stop ends the process and waits for that.
func (p *proc) stop() {
	if p == nil {
		return
	}
	p.in.Close()
	_ = p.cmd.Wait() // its errors came as answers, or on stderr
}

// ask has p do something, and waits for the answer.
func ask[R any](p *proc, do string, args any) (R, error) {
	var a struct {
		Err    string
		Result R
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return a.Result, err
	}
	if err = p.asks.Encode(request{do, raw}); err == nil {
		err = p.answers.Decode(&a)
	}
	switch {
	case err != nil:
		return a.Result, fmt.Errorf("%s %s: %w", p.role, do, err)
	case a.Err != "":
		return a.Result, fmt.Errorf("%s %s: %s", p.role, do, a.Err)
	}
	return a.Result, nil
}

// tell is ask where there is no answer but that it is done.
func tell(p *proc, do string, args any) error {
	_, err := ask[none](p, do, args)
	return err
}
