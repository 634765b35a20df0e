//go:build unix

package devkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	startTimeout = 60 * time.Second // recovery of a crashed demo takes a second or two; a slow disk more
	stopGrace    = 10 * time.Second // of a fast shutdown, then of an immediate one
	pollEvery    = 20 * time.Millisecond
	tailBytes    = 2048
)

var (
	errPortTaken     = errors.New("the port is taken")
	errStillStopping = errors.New("backends of the former server are still there")
)

// server is one run of the postgres program.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; err is set before
	err  error
}

// run starts the program from a goroutine that keeps its thread until the program has ended: the signal that ends it with its parent
// comes when that thread does, and Go would otherwise be free to end it.
func run(cmd *exec.Cmd) (*server, error) {
	s := &server{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.err = cmd.Wait()
			close(s.done)
		}
	}()
	return s, <-started
}

// launch starts the server, with another port as often as the one it got is taken, and waits until it answers.
func (p *Postgres) launch(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("PostgreSQL did not answer within %s", startTimeout))
	defer cancel()
	for attempt := 1; ; attempt++ {
		if err := p.choosePort(ctx, attempt == 1); err != nil {
			return err
		}
		err := p.launchOnce(ctx)
		switch {
		case err == nil:
			return p.keepPort()
		case errors.Is(err, errPortTaken) && attempt < 10:
		case errors.Is(err, errStillStopping):
			if pause(ctx) != nil {
				return err
			}
		default:
			return err
		}
	}
}

// choosePort takes the port of the last start where it is still free, and any free one otherwise. Postgres can't be asked for port 0, so
// another program may be quicker: launch tries again.
func (p *Postgres) choosePort(ctx context.Context, first bool) error {
	if !p.cfg.TCP {
		p.port = socketPort
		return nil
	}
	var candidates []string
	if kept, err := p.home.ReadFile(portName); err == nil && first {
		candidates = append(candidates, strings.TrimSpace(string(kept)))
	}
	var err error
	for _, port := range append(candidates, "0") {
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port)); err != nil {
			continue
		}
		p.port = l.Addr().(*net.TCPAddr).Port
		if err = l.Close(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("finding a free port for PostgreSQL: %w", err)
}

func (p *Postgres) keepPort() error {
	if err := p.home.WriteFile(portName, []byte(strconv.Itoa(p.port)+"\n"), 0o600); err != nil {
		return fmt.Errorf("keeping PostgreSQL's port: %w", err)
	}
	return nil
}

// launchOnce starts the program and returns when it answers, or with the end of its log when it doesn't.
func (p *Postgres) launchOnce(ctx context.Context) error {
	logFile, err := p.home.OpenFile(logName, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening PostgreSQL's log: %w", err)
	}
	defer func() { _ = logFile.Close() }() // the server has its own descriptor of it
	// Not ctx: it bounds the start, and the server outlives it.
	cmd := p.acc.command(context.WithoutCancel(ctx), p.home.dir, p.bin.path("postgres"), p.arguments()...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	s, err := run(cmd)
	if err != nil {
		return fmt.Errorf("starting PostgreSQL as %s: %w", p.acc.name, err)
	}
	if err := p.await(ctx, s); err != nil {
		s.end(ctx, syscall.SIGQUIT)
		return err
	}
	p.server = s
	return nil
}

// await connects until it works, the server ends, or ctx does.
func (p *Postgres) await(ctx context.Context, s *server) error {
	cfg, err := pgx.ParseConfig(p.socketURL(superuser, p.port))
	if err != nil {
		return errors.New("reading the private PostgreSQL's own URL") // pgx's error would show the password
	}
	for {
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err == nil {
			return conn.Close(ctx)
		}
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "28P01" { // invalid_password
			return fmt.Errorf("connecting to PostgreSQL: the password kept in %s isn't the data's\nhint: remove the folder to begin anew", p.home.dir)
		}
		select {
		case <-s.done:
			return p.death(s)
		default:
		}
		if pause(ctx) != nil {
			return fmt.Errorf("waiting for PostgreSQL: %w (last: %w)\n%s", context.Cause(ctx), err, p.logTail())
		}
	}
}

// death says why the server ended.
func (p *Postgres) death(s *server) error {
	end := p.logTail()
	switch {
	case strings.Contains(end, "could not bind IPv4 address"):
		return errPortTaken
	case strings.Contains(end, "pre-existing shared memory block"):
		return errStillStopping
	}
	return fmt.Errorf("running PostgreSQL: it ended (%s); the end of %s:\n%s", s.cmd.ProcessState, p.home.path(logName), end)
}

func (p *Postgres) logTail() string {
	f, err := p.home.Open(logName)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // read only
	if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
		_, _ = f.Seek(0, io.SeekStart) // shorter than that
	}
	text, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return ""
	}
	return string(text)
}

func tail(out []byte) []byte {
	return bytes.TrimSpace(out[max(0, len(out)-tailBytes):])
}

// pause waits one poll interval. It returns an error when ctx ends first.
func pause(ctx context.Context) error {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// end sends the signal, and stronger ones as it stays, until the server is gone. When ctx ends it hurries.
func (s *server) end(ctx context.Context, sig syscall.Signal) {
	for _, sig := range []syscall.Signal{sig, syscall.SIGQUIT} {
		_ = s.cmd.Process.Signal(sig) // an error means that it has ended
		grace := time.NewTimer(stopGrace)
		select {
		case <-s.done:
			grace.Stop()
			return
		case <-ctx.Done():
			grace.Stop()
			ctx = context.WithoutCancel(ctx)
		case <-grace.C:
		}
	}
	_ = s.cmd.Process.Kill() // as above
	<-s.done
}

// Done is closed when the server ends, by Stop, Kill or itself. After a Restart it is another one.
func (p *Postgres) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return p.server.done
}

// Err says why a server ended that nobody stopped, with the end of its log. It is nil while the server runs and after Stop.
func (p *Postgres) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	select {
	case <-p.server.done:
		return p.death(p.server)
	default:
		return nil
	}
}

// Stop ends the server: a fast shutdown, then an immediate one (at once where the data is ephemeral), and a kill in the end. When ctx ends,
// it goes on to the next of these without waiting. Ephemeral data is removed. A second Stop does nothing.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.home.Root == nil {
		return nil
	}
	p.stopServer(ctx)
	var err error
	if p.cfg.Ephemeral {
		err = p.home.discard(p.acc)
	}
	p.home.release()
	p.home.Root = nil
	return err
}

func (p *Postgres) stopServer(ctx context.Context) {
	if p.server == nil {
		return
	}
	sig := syscall.SIGINT
	if p.cfg.Ephemeral {
		sig = syscall.SIGQUIT
	}
	p.server.end(ctx, sig)
	p.server = nil
}

// Kill ends the server with SIGKILL, as a crash would, and returns when it is gone. Restart starts it again.
func (p *Postgres) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		_ = p.server.cmd.Process.Kill() // an error means that it has ended
		<-p.server.done
	}
}

// Restart stops the server if it runs, and starts it again on the same data, with the same password and, while that is free, the same port.
func (p *Postgres) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.home.Root == nil {
		return errors.New("restarting PostgreSQL: it was stopped for good")
	}
	p.stopServer(ctx)
	if err := emptySockets(p.sock); err != nil {
		return err
	}
	return p.launch(ctx)
}

// stopOrphan ends the server that a killed process left on data, and removes a pid file that names a process of somebody else: Postgres
// would take that one for its former self and refuse to start. The caller holds the home's lock, so no living process wants the server.
func stopOrphan(ctx context.Context, data string) error {
	path := filepath.Join(data, "postmaster.pid")
	text, err := os.ReadFile(path) //nolint:gosec // G304: in the folder that was asked for
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading PostgreSQL's pid file: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 || !isPostmaster(pid, data) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing a stale pid file: %w", err)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*stopGrace)
	defer cancel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		if err := syscall.Kill(pid, sig); err != nil {
			break // gone
		}
		for waited := time.Duration(0); waited < stopGrace/2; waited += pollEvery {
			if !isPostmaster(pid, data) {
				return nil
			}
			if err := pause(ctx); err != nil {
				return fmt.Errorf("stopping the PostgreSQL (pid %d) that a killed process left on %s: %w", pid, data, err)
			}
		}
	}
	if isPostmaster(pid, data) {
		return fmt.Errorf("stopping the PostgreSQL (pid %d) that a killed process left on %s: it stays\nhint: kill -9 %d", pid, data, pid)
	}
	return nil
}
