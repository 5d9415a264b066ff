// Command ferretdb serves MongoDB's protocol from a directory, for tests. It is a
// module of its own, because what it links is heavy and has its own versions of
// the clients.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	addr := flag.String("addr", "", "host:port to listen on")
	dir := flag.String("dir", "", "directory of the data")
	cert := flag.String("cert", "", "certificate file: speak TLS")
	key := flag.String("key", "", "its key file")
	flag.Parse()
	if err := serve(*addr, *dir, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "ferretdb:", err)
		os.Exit(1)
	}
}

func serve(addr, dir, cert, key string) error {
	cfg := &ferretdb.Config{Handler: "sqlite", SQLiteURL: "file:" + dir + "/"}
	if cert == "" {
		cfg.Listener.TCP = addr
	} else {
		cfg.Listener = ferretdb.ListenerConfig{TLS: addr, TLSCertFile: cert, TLSKeyFile: key}
	}
	f, err := ferretdb.New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return f.Run(ctx)
}
