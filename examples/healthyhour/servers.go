package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// servers is where the clients go.
type servers struct {
	web    string // HTTP
	api    string // HTTP, restarted now and then
	upload string // reads to the end of the stream, works, answers
	feed   string // messages to whoever connects

	ctx    context.Context // ends after the clients
	cancel context.CancelFunc
	wg     sync.WaitGroup
	srv    *http.Server
}

func (h *hour) startServers() (*servers, error) {
	s := new(servers)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	web, err := h.listen("web", tcpstate.Expect{}, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.web = web.Addr().String()
	s.srv = h.httpServer()
	s.wg.Go(func() { _ = s.srv.Serve(web) })

	// What comes after the end of the upload is an answer: declared.
	upload, err := h.listen("upload", tcpstate.Expect{HalfClose: true}, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.upload = upload.Addr().String()
	s.serve(upload, s.take)

	feed, err := h.listen("feed", tcpstate.Expect{LongLived: true}, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.feed = feed.Addr().String()
	s.serve(feed, s.publish)

	api, err := h.listen("api", tcpstate.Expect{}, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.api = api.Addr().String()
	s.wg.Go(func() { h.restart(s, api) })
	return s, nil
}

func (h *hour) listen(name string, x tcpstate.Expect, addr string) (*listener.Listener, error) {
	return (&listener.Config{Tracker: h.tr, Name: name, Expect: x}).Listen(context.Background(), "tcp", addr)
}

// drain ends the servers as a deployment does.
func (s *servers) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = s.srv.Shutdown(ctx)
	s.cancel()
	s.wg.Wait()
}

// serve hands each connection of ln to f, and closes it then.
func (s *servers) serve(ln net.Listener, f func(net.Conn)) {
	context.AfterFunc(s.ctx, func() { ln.Close() })
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(s.ctx, func() { c.Close() })()
				f(c)
			})
		}
	})
}

// take reads an upload to its end, works for longer than any threshold, and
// answers.
func (s *servers) take(c net.Conn) {
	n, err := io.Copy(io.Discard, c)
	if err != nil {
		return
	}
	select {
	case <-time.After(45 * time.Second):
	case <-s.ctx.Done():
	}
	fmt.Fprintf(c, "%d bytes\n", n)
}

// publish sends a message now and then, and a sign of life in between.
func (s *servers) publish(c net.Conn) {
	go func() { _, _ = io.Copy(io.Discard, c) }() // what the subscriber wants
	for tick := time.NewTicker(9 * time.Second); ; {
		if _, err := io.WriteString(c, "still here\n"); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// httpServer serves everything that is done over HTTP.
func (h *hour) httpServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "a page")
	})
	mux.HandleFunc("POST /form", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(12 * time.Second):
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, "a report")
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			fmt.Fprint(w, "data: tick\n\n")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-time.After(40 * time.Second):
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("GET /poll", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(50 * time.Second):
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, "news")
	})
	mux.HandleFunc("GET /download", func(w http.ResponseWriter, r *http.Request) {
		for range 256 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			if _, _, err := c.Read(context.Background()); err != nil {
				return
			}
		}
	})
	srv := &http.Server{Handler: mux, IdleTimeout: 20 * time.Second}
	httpserver.Instrument(srv)
	return srv
}

// restart stops the API and starts it again, on the same address.
func (h *hour) restart(s *servers, ln net.Listener) {
	addr := ln.Addr().String()
	for {
		srv := h.httpServer()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = srv.Serve(ln)
		}()
		select {
		case <-time.After(40 * time.Second):
		case <-s.ctx.Done():
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = srv.Shutdown(ctx)
		_ = srv.Close()
		cancel()
		<-served
		if s.ctx.Err() != nil {
			return
		}
		for {
			next, err := h.listen("api", tcpstate.Expect{}, addr)
			if err == nil {
				ln = next
				break
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// lines reads c line by line until it ends.
func lines(c net.Conn, f func(string)) error {
	sc := bufio.NewScanner(c)
	for sc.Scan() {
		f(sc.Text())
	}
	return sc.Err()
}
