package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// client returns an HTTP client with a pool of its own.
func (h *hour) client(name string) (c *http.Client, end func()) {
	t := &httppool.Transport{Dialer: dialer.Dialer{Tracker: h.tr, Name: name}}
	return &http.Client{Transport: t}, t.CloseIdleConnections
}

// get makes a request and reads the answer as it should be read.
func (h *hour) get(ctx context.Context, c *http.Client, url string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := read(resp.Body); err != nil {
		return err
	}
	h.done.Add(1)
	return nil
}

func discard(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// browse makes requests at uneven intervals, some of them longer than the
// server keeps idle connections.
func (h *hour) browse(addr string) error {
	c, end := h.client("web")
	defer end()
	for {
		for range rand.IntN(20) {
			if err := h.get(h.ctx, c, "http://"+addr+"/page", discard); err != nil {
				return err
			}
			req, err := http.NewRequestWithContext(h.ctx, http.MethodPost, "http://"+addr+"/form", strings.NewReader(strings.Repeat("x", rand.IntN(1<<16))))
			if err != nil {
				return err
			}
			resp, err := c.Do(req)
			if err != nil {
				return err
			}
			if err := errors.Join(discard(resp.Body), resp.Body.Close()); err != nil {
				return err
			}
		}
		if err := h.get(h.ctx, c, "http://"+addr+"/report", discard); err != nil {
			return err
		}
		if !h.sleep(time.Duration(rand.Int64N(int64(40 * time.Second)))) {
			return nil
		}
	}
}

// burst makes many requests at once, then none for a while.
func (h *hour) burst(addr string) error {
	c, end := h.client("burst")
	defer end()
	for {
		var wg sync.WaitGroup
		errs := make(chan error, 1)
		for range 30 {
			wg.Go(func() {
				if err := h.get(h.ctx, c, "http://"+addr+"/page", discard); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			})
		}
		wg.Wait()
		select {
		case err := <-errs:
			return err
		default:
		}
		if !h.sleep(15 * time.Second) {
			return nil
		}
	}
}

// events listens to an event stream.
func (h *hour) events(addr string) error {
	c, end := h.client("events")
	defer end()
	return h.get(h.ctx, c, "http://"+addr+"/events", func(r io.Reader) error {
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			h.done.Add(1)
		}
		return sc.Err()
	})
}

// poll waits for news again and again, and says that this takes its time.
func (h *hour) poll(addr string) error {
	c, end := h.client("poll")
	defer end()
	for {
		ctx, cancel := context.WithTimeout(h.ctx, time.Minute)
		ctx = tcpstate.WithUse(ctx, tcpstate.Use{Name: "poll", Expect: tcpstate.Expect{Silence: time.Minute}})
		err := h.get(ctx, c, "http://"+addr+"/poll", discard)
		cancel()
		if err != nil {
			return err
		}
	}
}

// download reads a large answer slowly.
func (h *hour) download(addr string) error {
	c, end := h.client("download")
	defer end()
	for {
		err := h.get(h.ctx, c, "http://"+addr+"/download", func(r io.Reader) error {
			buf := make([]byte, 32<<10)
			for {
				if _, err := io.ReadFull(r, buf); err == io.EOF || err == io.ErrUnexpectedEOF {
					return nil
				} else if err != nil {
					return err
				}
				if !h.sleep(200 * time.Millisecond) {
					return nil
				}
			}
		})
		if err != nil || h.ctx.Err() != nil {
			return err
		}
	}
}

// websocket keeps a connection open on which nothing is said but pings.
func (h *hour) websocket(addr string) error {
	c, end := h.client("websocket")
	defer end()
	ws, _, err := websocket.Dial(h.ctx, "ws://"+addr+"/ws", &websocket.DialOptions{HTTPClient: c})
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	ctx := ws.CloseRead(context.Background())
	for h.sleep(20 * time.Second) {
		if err := ws.Ping(ctx); err != nil {
			return err
		}
		h.done.Add(1)
	}
	return ws.Close(websocket.StatusNormalClosure, "")
}

// upload sends everything, closes its direction, and waits for the answer.
func (h *hour) upload(addr string) error {
	d := dialer.Dialer{Tracker: h.tr, Name: "upload"}
	for {
		c, err := d.DialContext(h.ctx, "tcp", addr)
		if err != nil {
			return err
		}
		err = h.uploadOver(c)
		if err = errors.Join(err, c.Close()); err != nil || h.ctx.Err() != nil {
			return err
		}
		h.done.Add(1)
	}
}

func (h *hour) uploadOver(c net.Conn) error {
	defer context.AfterFunc(h.ctx, func() { c.Close() })()
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		return err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	return discard(c)
}

// subscribe waits for messages, of which there is one every few seconds.
func (h *hour) subscribe(addr string) error {
	d := dialer.Dialer{Tracker: h.tr, Name: "feed", Expect: tcpstate.Expect{Heartbeat: 15 * time.Second, LongLived: true}}
	c, err := d.DialContext(h.ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(h.ctx, func() { c.Close() })()
	if _, err := fmt.Fprintln(c, "SUBSCRIBE news"); err != nil {
		return err
	}
	return lines(c, func(string) { h.done.Add(1) })
}

// retrying calls a server that is restarted now and then.
func (h *hour) retrying(addr string) error {
	c, end := h.client("api")
	defer end()
	for h.ctx.Err() == nil {
		wait := 100 * time.Millisecond
		if err := h.get(h.ctx, c, "http://"+addr+"/page", discard); err != nil {
			wait = time.Second // it is being restarted
		}
		if !h.sleep(wait) {
			break
		}
	}
	return nil
}
