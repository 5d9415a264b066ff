package tcptest_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/internal/tcptest"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// Verbs of HTTP clients and servers.

func httpVerbs() map[string]*verb {
	return map[string]*verb{
		"serve": {"H: an HTTP server, tracked or plain; idle: its IdleTimeout in the kernel's time", 1, 1, "plain idle=" + originOpts, "",
			(*run).serve},
		"request": {"C METHOD PATH: a raw request on C; body: its length; sent: how much of that is sent. Waits for the handler", 3, 3, "body= sent=", "",
			(*run).request},
		"head":     {"C N: N bytes of the head of a request that does not end", 2, 2, "", "", (*run).head},
		"answer":   {"C: reads an answer with Content-Length to its end", 1, 1, "", "", (*run).answer},
		"release":  {"H: handlers that wait go on", 1, 1, "", "", (*run).release},
		"enters":   {"H: waits for a handler to begin", 1, 1, "", "", (*run).enters},
		"told":     {"H: waits until the context of the last handler that began is done", 1, 1, "", "", (*run).toldHandler},
		"hijacked": {"C H: takes the connection that a handler has hijacked", 2, 2, "", "", (*run).hijacked},
		"pool":     {"P: an http.Transport, tracked", 1, 1, "" + originOpts, "", (*run).pool},
		"get":      {"R P H PATH: a request from P to H, whose response is R; bg: not waited for", 4, 4, "bg deadline= silence=", "", (*run).get},
		"body":     {"R read|close|N: reads the body of R to its end or by N bytes, or closes it", 2, 2, "", "", (*run).body},
		"freshget": {"H PATH: a request with a pool of its own, which is read to the end; close: with Connection: close", 2, 2, "close", "", (*run).freshGet},
		"shutidle": {"H: closes the server's idle connections", 1, 1, "", "", (*run).shutIdle},
	}
}

// server is an HTTP server whose handlers wait for the script.
//
//	/hello       a short answer
//	/big/N       N bytes and Connection: close
//	/part/N      N of 2N bytes, then it waits for release
//	/wait        waits for release, whatever becomes of the client
//	/polite      waits for release or the end of its context
//	/stream      a line for every release, until the client leaves
//	/hijack      takes the connection, for the verb hijacked
//	/refuse      413 without reading the body, and closes
type server struct {
	srv     *http.Server
	addr    string
	entered chan *http.Request
	taken   chan net.Conn
	last    *http.Request
	wg      sync.WaitGroup

	mu      sync.Mutex // guards following fields
	waiting chan struct{}
	ended   bool
}

func (r *run) serve(st *statement) error {
	s := &server{entered: make(chan *http.Request, 64), taken: make(chan net.Conn, 8), waiting: make(chan struct{})}
	s.srv = &http.Server{Handler: s.routes()}
	if text := st.opts["idle"]; text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		s.srv.IdleTimeout = d
	}
	var ln net.Listener = tcptest.Listen(r)
	if st.opts["plain"] == "" {
		l, err := r.listenerFor(st)
		if err != nil {
			return err
		}
		ln = l
		httpserver.Instrument(s.srv)
	}
	s.addr = ln.Addr().String()
	s.wg.Go(func() { _ = s.srv.Serve(ln) })
	r.servers[st.args[0]] = s
	r.targets[st.args[0]] = s.addr
	return nil
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			s.entered <- req
			f(w, req)
		})
	}
	handle("/hello", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	handle("/big/{n}", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Connection", "close")
		n, _ := strconv.Atoi(req.PathValue("n"))
		w.Write(payload(n))
	})
	handle("/part/{n}", func(w http.ResponseWriter, req *http.Request) {
		n, _ := strconv.Atoi(req.PathValue("n"))
		w.Header().Set("Content-Length", strconv.Itoa(2*n))
		w.Write(payload(n))
		http.NewResponseController(w).Flush()
		<-s.released()
		w.Write(payload(n))
	})
	handle("/upload", func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
	})
	handle("/wait", func(w http.ResponseWriter, _ *http.Request) {
		<-s.released()
		io.WriteString(w, "done")
	})
	handle("/polite", func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-s.released():
		case <-req.Context().Done():
		}
	})
	handle("/stream", func(w http.ResponseWriter, req *http.Request) {
		for {
			if s.over() {
				return
			}
			_, err := io.WriteString(w, "another line\n")
			if err == nil {
				err = http.NewResponseController(w).Flush()
			}
			if err != nil {
				return
			}
			<-s.released()
		}
	})
	handle("/hijack", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			s.taken <- c
		}
	})
	handle("/refuse", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	return mux
}

// released returns what is closed when the handlers that wait now may go on.
func (s *server) released() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

func (s *server) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	close(s.waiting)
	s.waiting = make(chan struct{})
}

// releaseAll lets every handler go on, now and later.
func (s *server) releaseAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.waiting)
	}
}

func (s *server) close() {
	s.releaseAll()
	s.srv.Close()
	for {
		select {
		case c := <-s.taken:
			c.Close()
			continue
		default:
		}
		break
	}
	s.wg.Wait()
}

func (r *run) serverNamed(name string) (*server, error) {
	if s := r.servers[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("there is no server %q", name)
}

func (r *run) request(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	var s *server
	for _, candidate := range r.servers {
		if candidate.addr == c.RemoteAddr().String() {
			s = candidate
		}
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: scenario\r\n", st.args[1], st.args[2])
	sent := 0
	if text := st.opts["body"]; text != "" {
		n, err := r.number(text)
		if err != nil {
			return err
		}
		head += fmt.Sprintf("Content-Length: %d\r\n", n)
		sent = n
	}
	if text := st.opts["sent"]; text != "" {
		if sent, err = r.number(text); err != nil {
			return err
		}
	}
	if err := c.SetWriteDeadline(deadline()); err != nil {
		return err
	}
	defer c.SetWriteDeadline(time.Time{})
	if _, err := io.WriteString(c, head+"\r\n"+string(payload(sent))); err != nil {
		return err
	}
	if s == nil {
		return nil // to a raw server
	}
	return s.enter()
}

// enter waits for a handler to begin.
func (s *server) enter() error {
	select {
	case s.last = <-s.entered:
		return nil
	case <-time.After(tcptest.Deadline):
		return errors.New("no handler begins")
	}
}

func (r *run) head(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	const start = "GET /hello HTTP/1.1\r\nHost: scenario\r\nX-Long: "
	sent := r.heads[c]
	if sent < len(start) {
		part := start[sent:min(sent+n, len(start))]
		n, err = io.WriteString(c, part)
	} else {
		n, err = c.Write(payload(n))
	}
	r.heads[c] += n
	return err
}

func (r *run) answer(st *statement) error {
	c, err := r.conn(st.args[0])
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(deadline()); err != nil {
		return err
	}
	defer c.SetReadDeadline(time.Time{})
	var head strings.Builder
	for b := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		head.Write(b)
	}
	_, rest, _ := strings.Cut(head.String(), "Content-Length: ")
	text, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("no length in %q", head.String())
	}
	_, err = io.CopyN(io.Discard, struct{ io.Reader }{c}, int64(n))
	return err
}

func (r *run) enters(st *statement) error {
	s, err := r.serverNamed(st.args[0])
	if err != nil {
		return err
	}
	return s.enter()
}

func (r *run) release(st *statement) error {
	s, err := r.serverNamed(st.args[0])
	if err != nil {
		return err
	}
	s.release()
	return nil
}

func (r *run) toldHandler(st *statement) error {
	s, err := r.serverNamed(st.args[0])
	if err != nil {
		return err
	}
	if s.last == nil {
		return errors.New("no handler has begun")
	}
	select {
	case <-s.last.Context().Done():
		return nil
	case <-time.After(tcptest.Deadline):
		return errors.New("the handler is not told")
	}
}

func (r *run) hijacked(st *statement) error {
	s, err := r.serverNamed(st.args[1])
	if err != nil {
		return err
	}
	select {
	case c := <-s.taken:
		r.keep(st.args[0], c)
		// net/http ends the use of the handler after it has returned.
		<-s.last.Context().Done()
		return nil
	case <-time.After(tcptest.Deadline):
		return errors.New("nothing was hijacked")
	}
}

func (r *run) pool(st *statement) error {
	d, err := r.dialerFor(st)
	if err != nil {
		return err
	}
	d.NetDialer = nil
	r.clients[st.args[0]] = &httppool.Transport{Base: &http.Transport{IdleConnTimeout: time.Hour}, Dialer: *d}
	return nil
}

func (r *run) get(st *statement) error {
	p := r.clients[st.args[1]]
	s, err := r.serverNamed(st.args[2])
	if p == nil || err != nil {
		return fmt.Errorf("there is no pool %q or server %q", st.args[1], st.args[2])
	}
	ctx, err := r.context(st)
	if err != nil {
		return err
	}
	if x, err := r.expectOf(st); err != nil {
		return err
	} else if x.Silence != 0 {
		ctx = tcpstate.WithUse(ctx, tcpstate.Use{Name: "long-poll", Expect: x})
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+st.args[3], nil)
	if err != nil {
		return err
	}
	if st.opts["bg"] != "" {
		r.background(st.args[0], func() error {
			resp, err := p.RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			return nil
		})
		return s.enter()
	}
	resp, err := p.RoundTrip(req)
	if err != nil {
		return err
	}
	r.responses[st.args[0]] = resp
	return s.enter()
}

func (r *run) body(st *statement) error {
	resp := r.responses[st.args[0]]
	if resp == nil {
		return fmt.Errorf("there is no response %q", st.args[0])
	}
	switch st.args[1] {
	case "close":
		delete(r.responses, st.args[0])
		return resp.Body.Close()
	case "read":
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	n, err := r.number(st.args[1])
	if err != nil {
		return err
	}
	_, err = io.ReadFull(resp.Body, make([]byte, n))
	return err
}

func (r *run) freshGet(st *statement) error {
	s, err := r.serverNamed(st.args[0])
	if err != nil {
		return err
	}
	p := &httppool.Transport{Base: &http.Transport{DisableKeepAlives: st.opts["close"] != ""}}
	p.Dialer.Tracker, p.Dialer.Name = r.tr, "db"
	r.clients[fmt.Sprintf("fresh %d", len(r.clients))] = p
	resp, err := (&http.Client{Transport: p}).Get("http://" + s.addr + st.args[1])
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	return s.enter()
}

func (r *run) shutIdle(st *statement) error {
	s, err := r.serverNamed(st.args[0])
	if err != nil {
		return err
	}
	// It closes the listener and what is idle, and does not wait for the rest.
	ctx := r.Context()
	s.wg.Go(func() { _ = s.srv.Shutdown(ctx) })
	return nil
}
