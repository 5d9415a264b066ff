package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tcpstate/tcpstate-go/dialer"
	"github.com/tcpstate/tcpstate-go/listener"
	"github.com/tcpstate/tcpstate-go/listener/httpserver"
	"github.com/tcpstate/tcpstate-go/pool/httppool"
	"github.com/tcpstate/tcpstate-go/tcpstate"
)

// backends are the servers of the demonstration and the clients that talk to
// them.
type backends struct {
	client  *http.Client   // leaks
	healthy *http.Client   // does not
	dial    *dialer.Dialer // leaks

	payments, shop              string // base URLs
	apiAddr, chatAddr, echoAddr string
	halfAddr                    string
	reporting                   chan struct{} // a report handler has begun
	results                     chan string   // never comes

	closers []func()
	wg      sync.WaitGroup
}

func newBackends(t *tcpstate.Tracker) (b *backends, err error) {
	b = &backends{reporting: make(chan struct{}, 1), results: make(chan string)}
	defer func() {
		if err != nil {
			b.close()
		}
	}()

	client := func(name string) *http.Client {
		tr := &httppool.Transport{Dialer: dialer.Dialer{Tracker: t, Name: name}}
		b.closers = append(b.closers, tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	b.client, b.healthy = client("payments"), client("healthy-shop")
	b.dial = &dialer.Dialer{Tracker: t, Name: "echo"}

	payments := http.NewServeMux()
	payments.HandleFunc("GET /invoices/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, strings.Repeat("invoice ", 2500))
	})
	if b.payments, err = b.serveHTTP(t, "payments-server", payments); err != nil {
		return nil, err
	}

	api := http.NewServeMux()
	api.HandleFunc("POST /v1/reports", b.report)
	url, err := b.serveHTTP(t, "api", api)
	if err != nil {
		return nil, err
	}
	b.apiAddr = strings.TrimPrefix(url, "http://")

	if b.shop, err = b.serveHTTP(t, "healthy-shop-server", shop()); err != nil {
		return nil, err
	}
	c := &chat{sessions: make(map[net.Conn]bool)}
	if b.chatAddr, err = b.serve(t, "chat", c.serve); err != nil {
		return nil, err
	}
	b.closers = append(b.closers, c.closeAll)
	if b.echoAddr, err = b.serve(t, "healthy-echo", echo); err != nil {
		return nil, err
	}
	if b.halfAddr, err = b.serve(t, "healthy-batch", batch); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *backends) serveHTTP(t *tcpstate.Tracker, name string, h http.Handler) (url string, err error) {
	ln, err := (&listener.Config{Tracker: t, Name: name}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	httpserver.Instrument(srv)
	b.wg.Go(func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			fmt.Println("serve:", err)
		}
	})
	b.closers = append(b.closers, func() { _ = srv.Close() })
	return "http://" + ln.Addr().String(), nil
}

// serve hands accepted connections to handle, each in a goroutine.
func (b *backends) serve(t *tcpstate.Tracker, name string, handle func(net.Conn)) (addr string, err error) {
	ln, err := (&listener.Config{Tracker: t, Name: name}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	b.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { handle(conn) })
		}
	})
	b.closers = append(b.closers, func() { _ = ln.Close() })
	return ln.Addr().String(), nil
}

// close ends everything, the leaks last: their findings are cleared.
func (b *backends) close() {
	close(b.results)
	for _, c := range b.closers {
		c()
	}
}

func (c *chat) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.sessions {
		_ = conn.Close()
	}
}
