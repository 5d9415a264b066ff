package tcptest_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Verbs that move bytes.

func ioVerbs() map[string]*verb {
	return map[string]*verb{
		"say":     {"FROM TO N: N bytes written at one end and read at the other", 3, 3, "", "", (*run).say},
		"send":    {"C N: writes N bytes, which nobody need read; bg: from a goroutine that may block", 2, 2, "bg", "", (*run).send},
		"recv":    {"C N: reads N bytes", 2, 2, "", "", (*run).recv},
		"eof":     {"C: reads the end of the stream", 1, 1, "", "", (*run).eof},
		"fail":    {"C: a read or, with write, a write that fails", 1, 1, "write", "", (*run).fail},
		"timeout": {"C: a read that fails at its deadline", 1, 1, "", "", (*run).timeout},
		"reader":  {"C: reads in the background to the end; close: and closes then", 1, 1, "close", "", (*run).reader},
		"park":    {"C: a goroutine waits in Read in the background and lets go at the first byte or error", 1, 1, "", "", (*run).park},
		"copy":    {"FROM TO: io.Copy in the background; closewrite: passes the end on; close: closes both at the end", 2, 2, "closewrite close", "", (*run).copy},
		"await":   {"C: waits for the background work of C to end", 1, 1, "", "", (*run).await},
	}
}

// payload returns n bytes that no filter or protocol takes for anything.
func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return b
}

func (r *run) say(st *statement) error {
	from, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	to, err := r.conn(st.args[1])
	if err != nil {
		return err
	}
	n, err := r.number(st.args[2])
	if err != nil {
		return err
	}
	if err := writeAll(from, n); err != nil {
		return err
	}
	if err := readExactly(to, n); err != nil {
		return err
	}
	// The kernel's ages are in milliseconds: an answer is to be younger than
	// its question.
	time.Sleep(2 * time.Millisecond)
	return nil
}

// writeAll writes n bytes, of which the kernel has to take all soon.
func writeAll(c net.Conn, n int) error {
	if err := c.SetWriteDeadline(deadline()); err != nil {
		return err
	}
	defer c.SetWriteDeadline(time.Time{})
	_, err := c.Write(payload(n))
	return err
}

func readExactly(c net.Conn, n int) error {
	if err := c.SetReadDeadline(deadline()); err != nil {
		return err
	}
	defer c.SetReadDeadline(time.Time{})
	_, err := io.ReadFull(c, make([]byte, n))
	return err
}

func (r *run) send(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	if st.opts["bg"] != "" {
		r.background(st.args[0], func() error { _, err := c.Write(payload(n)); return err })
		return nil
	}
	return writeAll(c, n)
}

func (r *run) recv(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	return readExactly(c, n)
}

func (r *run) eof(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(deadline()); err != nil {
		return err
	}
	defer c.SetReadDeadline(time.Time{})
	n, err := c.Read(make([]byte, 1))
	if err != io.EOF {
		return fmt.Errorf("read %d bytes and %v in place of EOF", n, err)
	}
	return nil
}

func (r *run) fail(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	if err := c.SetDeadline(deadline()); err != nil {
		return err
	}
	defer c.SetDeadline(time.Time{})
	if st.opts["write"] != "" {
		_, err = c.Write(payload(1))
	} else {
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%v in place of an error of the connection", err)
	}
	return nil
}

func (r *run) timeout(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	defer c.SetReadDeadline(time.Time{})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%v in place of a timeout", err)
	}
	return nil
}

func (r *run) reader(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	closes := st.opts["close"] != ""
	r.background(st.args[0], func() error {
		b := make([]byte, 4096)
		for {
			if _, err := c.Read(b); err != nil {
				if closes {
					c.Close()
				}
				return nil
			}
		}
	})
	return nil
}

func (r *run) park(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	r.background(st.args[0], func() error { _, _ = c.Read(make([]byte, 1)); return nil })
	return nil
}

func (r *run) copy(st *statement) error {
	from, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	to, err := r.conn(st.args[1])
	if err != nil {
		return err
	}
	half, whole := st.opts["closewrite"] != "", st.opts["close"] != ""
	r.background(st.args[0], func() error {
		_, _ = io.Copy(to, from)
		if half {
			_ = to.(interface{ CloseWrite() error }).CloseWrite()
		}
		if whole {
			from.Close()
			to.Close()
		}
		return nil
	})
	return nil
}

func (r *run) await(st *statement) error {
	done := r.waiters[st.args[0]]
	if done == nil {
		return fmt.Errorf("%q has no background work", st.args[0])
	}
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		return errors.New("it does not end")
	}
}
