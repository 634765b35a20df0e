//go:build unix

package devkit

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"
)

const (
	standbyName  = "standby"      // what it calls itself to its primary
	passFileName = "primary.pass" // with which it connects there
)

// StartStandby copies the server and starts the copy as its streaming standby, with the same superuser and password. The copy lives in a
// temporary folder until its Stop. Settings that are nil are the primary's.
func (p *Postgres) StartStandby(ctx context.Context, settings map[string]string) (*Postgres, error) {
	return p.StartStandbyIn(ctx, "", settings)
}

// StartStandbyIn is the same with a folder for the copy, which has nothing in it and is kept: see PostgresConfig.Dir.
func (p *Postgres) StartStandbyIn(ctx context.Context, dir string, settings map[string]string) (*Postgres, error) {
	if settings == nil {
		settings = p.cfg.Settings
	}
	s := &Postgres{cfg: PostgresConfig{Dir: dir, TCP: p.cfg.TCP, Ephemeral: dir == "", Settings: settings, Log: p.cfg.Log}, acc: p.acc, bin: p.bin, password: p.password}
	var err error
	if s.home, err = openHome(ctx, s.cfg, s.acc, s.bin); err != nil {
		return nil, err
	}
	if err := s.follow(ctx, p); err != nil {
		if s.home.temp {
			err = errors.Join(err, s.home.discard(s.acc))
		}
		s.home.release()
		return nil, err
	}
	return s, nil
}

// follow copies the primary into the new home, and starts it there.
func (p *Postgres) follow(ctx context.Context, primary *Postgres) error {
	files := map[string]string{passwordName: p.password, passFileName: "*:*:*:*:" + p.password}
	if p.cfg.Ephemeral {
		files[ephemeralName] = ""
	}
	for name, content := range files {
		if err := p.home.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
			return fmt.Errorf("preparing a standby: %w", err)
		}
	}
	if p.acc.lent {
		if err := p.home.Lchown(passFileName, int(p.acc.uid), int(p.acc.gid)); err != nil {
			return fmt.Errorf("preparing a standby: %w", err)
		}
	}
	if err := p.home.lend(dataName, p.acc); err != nil {
		return err
	}
	source, err := url.Parse(primary.DSN(superuser))
	if err != nil {
		return errors.New("reading the primary's own URL") // url's error would show the password
	}
	source.User = url.User(superuser) // the password isn't for the command line
	source.RawQuery += "&application_name=" + standbyName + "&passfile=" + url.PathEscape(p.home.path(passFileName))
	if out, err := p.acc.run(ctx, p.home.dir, primary.Bin("pg_basebackup"), "--pgdata", p.home.path(dataName), "--write-recovery-conf",
		"--wal-method=stream", "--checkpoint=fast", "--no-sync", "--dbname", source.String()); err != nil {
		return fmt.Errorf("copying the primary as %s: %w\n%s", p.acc.name, err, tail(out))
	}
	if p.sock, err = p.home.socketDir(ctx, p.acc, p.bin); err != nil {
		return err
	}
	return p.launch(ctx)
}

// AwaitStandby returns once the standby follows, and from then on has each commit wait for it.
func (p *Postgres) AwaitStandby(ctx context.Context) error {
	if err := p.exec(ctx, "ALTER SYSTEM SET synchronous_standby_names = '"+standbyName+"'"); err != nil {
		return fmt.Errorf("asking for synchronous replication: %w", err)
	}
	if err := p.exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return fmt.Errorf("asking for synchronous replication: %w", err)
	}
	conn, err := pgx.Connect(ctx, p.DSN(superuser))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // its work is done
	for {
		var follows bool
		if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')`).Scan(&follows); err != nil {
			return fmt.Errorf("waiting for the standby: %w", err)
		}
		if follows {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("waiting for the standby: %w", err)
		}
	}
}

// Promote makes a standby the primary, and returns when it takes writes.
func (p *Postgres) Promote(ctx context.Context) error {
	if err := p.exec(ctx, "SELECT pg_promote(true, 60)"); err != nil {
		return fmt.Errorf("promoting the standby: %w", err)
	}
	return nil
}
