package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The servers. Each runs on a loopback port of its own with its files in the
// test's directory, and is ready when the function returns. With certs it
// speaks TLS, as said there.

// Redis starts redis-server. With certs it speaks TLS only.
func Redis(t testing.TB, certs *Certs, args ...string) *Server {
	t.Helper()
	s := newServer(t, "")
	s.spec.binary = need(t, "redis-server", "redis-server")
	s.spec.args = append([]string{"--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--daemonize", "no"}, args...)
	if certs == nil {
		s.spec.args = append(s.spec.args, "--port", strconv.Itoa(s.port))
		s.spec.ready = speaks("PING\r\n", '+')
	} else {
		s.spec.args = append(s.spec.args, "--port", "0", "--tls-port", strconv.Itoa(s.port), "--tls-auth-clients", "no",
			"--tls-cert-file", s.file(t, "cert.pem", certs.Cert), "--tls-key-file", s.file(t, "key.pem", certs.Key),
			"--tls-ca-cert-file", s.file(t, "ca.pem", certs.CA))
	}
	s.Start(t)
	return s
}

// Postgres starts a PostgreSQL server whose superuser and database are
// "postgres" and which trusts everybody. With certs it accepts TLS as well as
// plain connections. Stop is its fast shutdown: sessions are ended.
func Postgres(t testing.TB, certs *Certs, settings ...string) *Server {
	t.Helper()
	bin := postgresBin(t)
	s := newServer(t, "postgres")
	data := s.template(t, "postgres", func(data string) {
		s.run(t, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C")
	})
	s.spec.binary = filepath.Join(bin, "postgres")
	s.spec.args = []string{"-D", data, "-p", strconv.Itoa(s.port), "-k", s.dir}
	settings = append([]string{"listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", "autovacuum=off"}, settings...)
	if certs != nil {
		settings = append(settings, "ssl=on",
			"ssl_cert_file="+s.file(t, "cert.pem", certs.Cert), "ssl_key_file="+s.file(t, "key.pem", certs.Key))
	}
	for _, set := range settings {
		s.spec.args = append(s.spec.args, "-c", set)
	}
	s.spec.quit = syscall.SIGINT
	// StartupMessage (protocol documentation, 55.7), answered by an R for
	// authentication; before the server is up, by an E.
	s.spec.ready = speaks("\x00\x00\x00\x17\x00\x03\x00\x00user\x00postgres\x00\x00", 'R')
	s.Start(t)
	return s
}

// postgresBin returns the directory of the newest PostgreSQL of the machine.
func postgresBin(t testing.TB) string {
	t.Helper()
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	if len(dirs) > 0 {
		return dirs[len(dirs)-1]
	}
	return filepath.Dir(need(t, "postgres", "postgresql"))
}

// MariaDB starts a MariaDB server whose user "root" needs no password. With
// certs it accepts TLS as well as plain connections.
func MariaDB(t testing.TB, certs *Certs, args ...string) *Server {
	t.Helper()
	install := need(t, "mariadb-install-db", "mariadb-server")
	s := newServer(t, "mysql")
	s.spec.binary = need(t, "mariadbd", "mariadb-server")
	data := s.template(t, "mariadb", func(data string) {
		s.run(t, install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=8M")
	})
	s.spec.args = append([]string{
		"--no-defaults", "--datadir=" + data, "--bind-address=127.0.0.1", "--port=" + strconv.Itoa(s.port),
		"--socket=" + filepath.Join(s.dir, "sock"), "--pid-file=" + filepath.Join(s.dir, "pid"), "--skip-name-resolve",
		"--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0",
	}, args...)
	if certs != nil {
		s.spec.args = append(s.spec.args, "--ssl-ca="+s.file(t, "ca.pem", certs.CA),
			"--ssl-cert="+s.file(t, "cert.pem", certs.Cert), "--ssl-key="+s.file(t, "key.pem", certs.Key))
	}
	s.Start(t)
	return s
}

// FerretDB starts a server of MongoDB's protocol, which Debian does not have:
// FerretDB with SQLite. With certs it speaks TLS only. The first time it is
// compiled, which takes a minute.
func FerretDB(t testing.TB, certs *Certs) *Server {
	t.Helper()
	s := newServer(t, "")
	s.spec.binary = build(t, "ferretdb")
	s.spec.args = []string{"-addr", s.Addr(), "-dir", s.dir}
	if certs != nil {
		s.spec.args = append(s.spec.args, "-cert", s.file(t, "cert.pem", certs.Cert), "-key", s.file(t, "key.pem", certs.Key))
	}
	s.Start(t)
	return s
}

// Nginx starts nginx with what is to stand in its server block, such as
// "location / { return 200 hello; }". With certs it speaks TLS, and HTTP/2 to
// those who ask for it.
func Nginx(t testing.TB, certs *Certs, server string) *Server {
	t.Helper()
	s := newServer(t, "")
	s.spec.binary = need(t, "nginx", "nginx-light")
	listen := fmt.Sprintf("listen 127.0.0.1:%d;", s.port)
	if certs != nil {
		listen = fmt.Sprintf("listen 127.0.0.1:%d ssl http2; ssl_certificate %s; ssl_certificate_key %s;",
			s.port, s.file(t, "cert.pem", certs.Cert), s.file(t, "key.pem", certs.Key))
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	conf := s.file(t, "nginx.conf", []byte(user+`
daemon off; worker_processes 1; pid nginx.pid; error_log stderr;
events { worker_connections 256; }
http {
	access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server { `+listen+" "+server+` }
}
`))
	s.spec.args = []string{"-p", s.dir + "/", "-c", conf, "-e", "stderr"}
	s.Start(t)
	return s
}

// Mosquitto starts the MQTT broker mosquitto, which lets everybody in. With
// certs it speaks TLS.
func Mosquitto(t testing.TB, certs *Certs, lines ...string) *Server {
	t.Helper()
	s := newServer(t, "mosquitto")
	s.spec.binary = need(t, "mosquitto", "mosquitto")
	conf := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\n", s.port)
	if certs != nil {
		conf += fmt.Sprintf("certfile %s\nkeyfile %s\n", s.file(t, "cert.pem", certs.Cert), s.file(t, "key.pem", certs.Key))
	}
	for _, line := range lines {
		conf += line + "\n"
	}
	s.spec.args = []string{"-c", s.file(t, "mosquitto.conf", []byte(conf))}
	s.Start(t)
	return s
}

// RabbitMQ starts the AMQP broker RabbitMQ, with its user "guest" of the same
// password. With certs it speaks TLS only. It takes some seconds.
func RabbitMQ(t testing.TB, certs *Certs, lines ...string) *Server {
	t.Helper()
	s := newServer(t, "rabbitmq")
	s.spec.binary = need(t, "/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")

	// Erlang would start a daemon that outlives everything; this one ends with
	// the test.
	epmd := newServer(t, "rabbitmq")
	epmd.spec.binary = need(t, "epmd", "erlang-base")
	epmd.spec.args = []string{"-port", strconv.Itoa(epmd.port), "-address", "127.0.0.1"}
	epmd.Start(t)

	conf := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\n", s.port)
	if certs != nil {
		conf = fmt.Sprintf("listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:%d\nssl_options.cacertfile = %s\nssl_options.certfile = %s\nssl_options.keyfile = %s\n",
			s.port, s.file(t, "ca.pem", certs.CA), s.file(t, "cert.pem", certs.Cert), s.file(t, "key.pem", certs.Key))
	}
	for _, line := range lines {
		conf += line + "\n"
	}
	s.file(t, ".erlang.cookie", []byte("TCPSTATE"))
	require.NoError(t, os.Chmod(filepath.Join(s.dir, ".erlang.cookie"), 0o400))
	s.spec.env = []string{
		"HOME=" + s.dir,
		"ERL_EPMD_PORT=" + strconv.Itoa(epmd.port),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=" + fmt.Sprintf("t%d@localhost", s.port),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(freePort(t)),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_CONFIG_FILE=" + s.file(t, "rabbitmq.conf", []byte(conf)),
		"RABBITMQ_CONF_ENV_FILE=" + filepath.Join(s.dir, "none"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + s.file(t, "enabled_plugins", []byte("[].\n")),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(s.dir, "mnesia"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(s.dir, "log"),
		"RABBITMQ_LOGS=-",
		"RUNNING_UNDER_SYSTEMD=1", // the script becomes the server and gets the signals
	}
	s.Start(t)
	return s
}

// SSH starts sshd, which lets in who has the private key to authorized, in the
// format of authorized_keys, as the user of the test. Without certs: its host
// key is new.
func SSH(t testing.TB, authorized []byte, options ...string) *Server {
	t.Helper()
	s := newServer(t, "")
	s.spec.binary = need(t, "sshd", "openssh-server")
	key := filepath.Join(s.dir, "host")
	s.run(t, need(t, "ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", key)
	if os.Geteuid() == 0 {
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755)) // where sshd separates its privileges
	}
	conf := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n",
		s.port, key, s.file(t, "authorized_keys", authorized))
	for _, o := range options {
		conf += o + "\n"
	}
	s.spec.args = []string{"-D", "-e", "-f", s.file(t, "sshd_config", []byte(conf))}
	s.spec.ready = func(addr string) error {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Read(make([]byte, 4)) // its banner
		return err
	}
	s.Start(t)
	return s
}
