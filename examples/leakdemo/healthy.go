package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
)

// healthyTraffic runs beside the leaks and looks like them in the kernel: it
// must not be reported.
type healthyTraffic struct {
	errs chan error
	n    int
}

func startHealthy(ctx context.Context, b *backends) *healthyTraffic {
	h := &healthyTraffic{errs: make(chan error)}
	for _, f := range []func(context.Context, *backends) error{keepAlive, slowDownload, idlePool, halfClose} {
		h.n++
		go func() { h.errs <- f(ctx, b) }()
	}
	return h
}

func (h *healthyTraffic) wait() error {
	var all []error
	for range h.n {
		all = append(all, <-h.errs)
	}
	return errors.Join(all...)
}

// shop answers requests; /catalog is large, and the connection closes after it.
func shop() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /item", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "one item") })
	mux.HandleFunc("GET /catalog", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, strings.Repeat("one item\n", 16<<10))
	})
	return mux
}

// keepAlive makes requests over and over, as it should be done.
func keepAlive(ctx context.Context, b *backends) error {
	for end := time.Now().Add(healthyFor); time.Now().Before(end); {
		if err := get(ctx, b, "/item", func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err != nil {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// slowDownload reads an answer so slowly that the server has closed long
// before its end. In the kernel that is a CLOSE-WAIT with unread bytes, like
// the leak.
func slowDownload(ctx context.Context, b *backends) error {
	return get(ctx, b, "/catalog", func(r io.Reader) error {
		steps := int64(healthyFor / (100 * time.Millisecond))
		chunk := int64(len("one item\n")) * (16 << 10) / steps
		for {
			_, err := io.CopyN(io.Discard, r, chunk)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := pause(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
	})
}

// idlePool leaves connections idle in the pool.
func idlePool(ctx context.Context, b *backends) error {
	for range 3 {
		if err := get(ctx, b, "/item", func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err != nil {
			return err
		}
	}
	return pause(ctx, healthyFor)
}

func get(ctx context.Context, b *backends, path string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.shop+path, nil)
	if err != nil {
		return err
	}
	resp, err := b.healthy.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return read(resp.Body)
}

// halfClose sends a job, says that this was all, and waits for the answer: at
// the server that is a CLOSE-WAIT, too.
func halfClose(ctx context.Context, b *backends) error {
	conn, err := (&dialer.Dialer{Tracker: b.dial.Tracker, Name: "healthy-batch-client"}).DialContext(ctx, "tcp", b.halfAddr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "sort these\n"); err != nil {
		return err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && !strings.HasSuffix(string(answer), "done\n") {
		err = fmt.Errorf("batch: answer %q", answer)
	}
	return err
}

// batch reads a job to its end and answers piece by piece.
func batch(conn net.Conn) {
	defer conn.Close()
	if _, err := io.ReadAll(conn); err != nil {
		return
	}
	for end := time.Now().Add(healthyFor); time.Now().Before(end); time.Sleep(threshold / 3) {
		if _, err := io.WriteString(conn, "working\n"); err != nil {
			return
		}
	}
	_, _ = io.WriteString(conn, "done\n")
}

func echo(conn net.Conn) {
	defer conn.Close()
	_, _ = io.Copy(conn, conn)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
