//go:build unix

package devkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// superuser is the name of the account that the cluster is made with.
const superuser = "postgres"

// socketPort names the socket of a server that doesn't listen on TCP; nothing else is in its folder.
const socketPort = 5432

// PostgresConfig says what server to start. The zero value with Ephemeral set is a server for one test.
type PostgresConfig struct {
	// Dir is where data, socket, password and log live. It is made when missing; one that holds a cluster is used as it is, with its data
	// and password. As root, where the server's user can't reach it, they live in /var/lib/daypass/dev and Dir holds a link. Empty:
	// a temporary folder, only with Ephemeral.
	Dir string
	// TCP has the server listen on 127.0.0.1 as well, at a free port that is kept across restarts while it stays free.
	TCP bool
	// Ephemeral is for data that may be lost: nothing is synced to disk, and Stop removes all of it.
	Ephemeral bool
	// Settings are further server settings, such as "max_connections": "300". Nil: the server's own.
	Settings map[string]string
	// Log receives a line for each step of the start. What the server itself prints stands in the file `log` in its folder. Nil: nothing.
	Log io.Writer
}

// Postgres is a running private server. Its methods can be called from several goroutines.
type Postgres struct {
	cfg      PostgresConfig
	acc      account
	bin      programs
	home     *home
	sock     string
	password string

	mu     sync.Mutex
	port   int
	server *server // nil before the start and after Stop
}

// StartPostgres starts a server of the newest PostgreSQL on the machine, or the one that made the data in Dir, and returns when it answers.
// ctx bounds the start alone; the server runs until Stop, and on Linux no longer than this process, however it ends.
//
// As root the server runs as user `postgres` or `nobody`. A server that a killed process left on the same folder is stopped first.
// ErrNoPrograms when PostgreSQL isn't installed, ErrInUse when a living process already runs a server in Dir.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.Dir == "" && !cfg.Ephemeral {
		return nil, errors.New("starting PostgreSQL: without a Dir, Ephemeral must be set")
	}
	p := &Postgres{cfg: cfg}
	var err error
	if p.acc, err = serverAccount(); err != nil {
		return nil, err
	}
	if p.bin, err = findPrograms(ctx, 0); err != nil {
		return nil, err
	}
	if !p.acc.reaches(ctx, p.bin, "/") {
		return nil, fmt.Errorf("starting PostgreSQL: user %s can't run %s\nhint: its folders must be open to that user, or set %s to others",
			p.acc.name, p.bin.path("postgres"), BinEnv)
	}
	if p.home, err = openHome(ctx, cfg, p.acc, p.bin); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		if p.home.temp {
			err = errors.Join(err, p.home.discard(p.acc))
		}
		p.home.release()
		return nil, err
	}
	return p, nil
}

// start brings the locked home into order and launches the server.
func (p *Postgres) start(ctx context.Context) error {
	if err := stopOrphan(ctx, p.home.path(dataName)); err != nil {
		return err
	}
	if err := p.clearOld(); err != nil {
		return err
	}
	if err := p.matchVersion(ctx); err != nil {
		return err
	}
	var err error
	if p.password, err = p.home.password(); err != nil {
		return err
	}
	if !p.home.has(dataName) {
		p.say("making a database cluster with %s in %s", p.bin, p.home.dir)
		if err := p.initdb(ctx); err != nil {
			return err
		}
	}
	if p.home.marker != "" {
		if err := os.Symlink(p.home.dir, p.home.marker); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("linking to PostgreSQL's folder: %w", err)
		}
	}
	if p.sock, err = p.home.socketDir(ctx, p.acc, p.bin); err != nil {
		return err
	}
	if err := p.launch(ctx); err != nil {
		return err
	}
	p.say("%s answers on %s", p.bin, p.listensOn())
	return nil
}

func (p *Postgres) say(format string, args ...any) {
	fmt.Fprintf(p.cfg.Log, "postgres: "+format+"\n", args...) //nolint:errcheck // a progress line that can't be shown harms nobody
}

func (p *Postgres) listensOn() string {
	if p.cfg.TCP {
		return fmt.Sprintf("127.0.0.1:%d and %s", p.port, p.sock)
	}
	return p.sock
}

// clearOld removes data that a former life left: of an ephemeral server that was killed, or in a home whose Dir has since been removed.
func (p *Postgres) clearOld() error {
	ephemeral := p.home.has(ephemeralName)
	if p.cfg.Ephemeral && p.home.has(dataName) && !ephemeral {
		return fmt.Errorf("starting an ephemeral PostgreSQL: %s holds data to keep\nhint: give it a folder of its own, or none", p.home.dir)
	}
	orphaned := false
	if p.home.marker != "" {
		_, err := os.Lstat(p.home.marker)
		orphaned = errors.Is(err, fs.ErrNotExist)
	}
	if ephemeral || orphaned {
		if err := p.home.clear(p.acc); err != nil {
			return err
		}
	}
	if p.cfg.Ephemeral {
		if err := p.home.WriteFile(ephemeralName, nil, 0o600); err != nil {
			return fmt.Errorf("marking PostgreSQL's data as ephemeral: %w", err)
		}
	}
	return p.home.RemoveAll(newDataName)
}

// matchVersion picks the programs of the version that made the data: no other version can read it.
func (p *Postgres) matchVersion(ctx context.Context) error {
	text, err := p.home.ReadFile(dataName + "/PG_VERSION")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the version of PostgreSQL's data: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("reading the version of PostgreSQL's data: %w", err)
	}
	if major == p.bin.major {
		return nil
	}
	p.bin, err = findPrograms(ctx, major)
	return err
}

// initdb makes the cluster beside its place and renames it when done, so that one cut short is never taken for a cluster.
func (p *Postgres) initdb(ctx context.Context) error {
	if err := p.home.lend(newDataName, p.acc); err != nil {
		return err
	}
	if err := p.home.lend(socketName, p.acc); err != nil {
		return err
	}
	// The password goes in a file that the account can read: initdb can't take it from standard input after a change of user.
	pwfile := socketName + "/pw"
	if err := p.home.WriteFile(pwfile, []byte(p.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("handing initdb the password: %w", err)
	}
	defer func() { _ = p.home.Remove(pwfile) }() // in a folder that only the server's user can enter
	if p.acc.lent {
		if err := p.home.Lchown(pwfile, int(p.acc.uid), int(p.acc.gid)); err != nil {
			return fmt.Errorf("handing initdb the password: %w", err)
		}
	}
	args := []string{
		"-D", p.home.path(newDataName), "-U", superuser, "-A", "scram-sha-256", "--pwfile", p.home.path(pwfile),
		"--no-locale", "-E", "UTF8", "--no-instructions",
	}
	if p.cfg.Ephemeral {
		args = append(args, "--no-sync")
	}
	if out, err := p.acc.run(ctx, p.home.dir, p.bin.path("initdb"), args...); err != nil {
		return fmt.Errorf("running initdb as %s: %w\n%s", p.acc.name, err, tail(out))
	}
	if err := p.home.Rename(newDataName, dataName); err != nil {
		return fmt.Errorf("putting the new cluster in place: %w", err)
	}
	return nil
}

// arguments are the server's command line. It holds no secret.
func (p *Postgres) arguments() []string {
	args := []string{"-D", p.home.path(dataName), "-k", p.sock, "-p", strconv.Itoa(p.port)}
	settings := []string{"listen_addresses=", "unix_socket_permissions=0700"}
	if p.cfg.TCP {
		settings[0] = "listen_addresses=127.0.0.1"
	}
	if p.cfg.Ephemeral {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	for name, value := range p.cfg.Settings {
		settings = append(settings, name+"="+value)
	}
	slices.Sort(settings[2:])
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	return args
}

// DSN is the URL of a database for the superuser, over the Unix socket. It holds the password.
func (p *Postgres) DSN(database string) string { return p.socketURL(database, p.Port()) }

func (p *Postgres) socketURL(database string, port int) string {
	u := p.baseURL(database)
	query := url.Values{"host": {p.sock}, "port": {strconv.Itoa(port)}, "sslmode": {"disable"}}.Encode()
	// A form writes a space as +, which libpq and pgx read as what it is.
	u.RawQuery = strings.ReplaceAll(query, "+", "%20")
	return u.String()
}

// TCPDSN is the URL of a database for the superuser, over loopback, and empty when the server doesn't listen there.
func (p *Postgres) TCPDSN(database string) string {
	if !p.cfg.TCP {
		return ""
	}
	u := p.baseURL(database)
	u.Host = net.JoinHostPort(p.Host(), strconv.Itoa(p.Port()))
	u.RawQuery = "sslmode=disable"
	return u.String()
}

func (p *Postgres) baseURL(database string) *url.URL {
	return &url.URL{Scheme: "postgres", User: url.UserPassword(superuser, p.password), Path: "/" + database}
}

// Host is 127.0.0.1, or the socket's folder when the server doesn't listen on TCP. Both are what libpq takes as a host.
func (p *Postgres) Host() string {
	if p.cfg.TCP {
		return "127.0.0.1"
	}
	return p.sock
}

// Port is the TCP port and part of the socket's name. A Restart may change it when another program has taken it.
func (p *Postgres) Port() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.port
}

// Password is that of the superuser, `postgres`.
func (p *Postgres) Password() string { return p.password }

// Dir is where data and log are: the configured folder, a temporary one, or the one that stands in for a folder out of reach.
func (p *Postgres) Dir() string { return p.home.dir }

// Bin is the path of a program, such as pg_dump, of the server's own version. Where that version came without it, it is the one in PATH.
func (p *Postgres) Bin(name string) string {
	own := p.bin.path(name)
	if _, err := exec.LookPath(own); err == nil {
		return own
	}
	if other, err := exec.LookPath(name); err == nil {
		return other
	}
	return own
}

// CreateDatabase makes a database. One that exists stays as it is.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	err := p.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42P04" { // duplicate_database
		return nil
	}
	if err != nil {
		return fmt.Errorf("creating database %s: %w", name, err)
	}
	return nil
}

// DropDatabase removes a database and ends the connections to it. One that doesn't exist is no error.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	if err := p.exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("dropping database %s: %w", name, err)
	}
	return nil
}

func (p *Postgres) exec(ctx context.Context, sql string) (err error) {
	conn, err := pgx.Connect(ctx, p.DSN(superuser))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	_, err = conn.Exec(ctx, sql)
	return err
}
