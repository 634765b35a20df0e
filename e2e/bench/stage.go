package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
)

// stage is everything that the rows need, running.
type stage struct {
	dir      string
	postgres *devkit.Postgres
	version  string // of the server
	provider *devkit.Provider
	tokens   *tokens
	module   string // PKCS#11; empty: software keys
	broker   *child
	thin     *child

	installation string // of the broker, as the target knows it
	databaseTime func() (time.Duration, error)
	undo         []func(context.Context) error // in reverse order
}

// The databases, and who is who on the target.
const (
	brokerDatabase = "broker"
	targetDatabase = "target"
	limitDatabase  = "thin"
	tokenLabel     = "daypass"
)

func openStage(ctx context.Context) (_ *stage, err error) {
	s := &stage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if s.dir, err = os.MkdirTemp("", "daypass-bench-"); err != nil {
		return nil, err
	}
	s.later(func(context.Context) error { return os.RemoveAll(s.dir) })
	// Started by root, PostgreSQL runs as somebody else, who has to pass through.
	if err := os.Chmod(s.dir, 0o711); err != nil { //nolint:gosec // G302: what is secret in it has a mode of its own
		return nil, err
	}
	for _, step := range []func(context.Context) error{s.build, s.startPostgres, s.startProvider, s.prepareKeys, s.prepareBroker, s.prepareTarget, s.startPrograms} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) later(undo func(context.Context) error) { s.undo = append(s.undo, undo) }

const closeTime = time.Minute

// close stops and removes everything, the newest first.
func (s *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	var err error
	for _, undo := range slices.Backward(s.undo) {
		err = errors.Join(err, undo(ctx))
	}
	s.undo = nil
	return err
}

// build makes the programs as users get them: no race detector.
func (s *stage) build(ctx context.Context) error {
	const module = "github.com/daypass/daypass"
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", s.dir+"/", module+"/cmd/daypassd", module+"/e2e/bench/thin") //nolint:gosec // G204: our own folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	return nil
}

func (s *stage) startPostgres(ctx context.Context) (err error) {
	s.postgres, err = devkit.StartPostgres(ctx, devkit.PostgresConfig{
		Dir: s.path("postgres"), TCP: true, Settings: map[string]string{"max_connections": "200"},
	})
	if err != nil {
		return err
	}
	s.later(func(ctx context.Context) error {
		// It may have put its data elsewhere, where its user can reach it.
		return errors.Join(s.postgres.Stop(ctx), os.RemoveAll(s.postgres.Dir()))
	})
	for _, name := range []string{brokerDatabase, targetDatabase, limitDatabase} {
		if err := s.postgres.CreateDatabase(ctx, name); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, s.postgres.DSN(targetDatabase))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it was read from
	var backend int
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid(), current_setting('server_version')`).Scan(&backend, &s.version); err != nil {
		return err
	}
	u, err := readUsage(backend)
	if err != nil {
		return fmt.Errorf("finding the server's process: %w", err)
	}
	s.databaseTime = func() (time.Duration, error) { return familyTime(u.parent) }
	return nil
}

func (s *stage) startProvider(ctx context.Context) (err error) {
	if s.provider, err = devkit.StartProvider(ctx, devkit.ProviderConfig{}); err != nil {
		return err
	}
	s.later(func(context.Context) error { return s.provider.Close() })
	s.tokens = &tokens{provider: s.provider}
	return nil
}

func (s *stage) prepareKeys(ctx context.Context) error {
	pin := issuers.NewSecret(rand.Text())
	if err := s.write("pin", pin.Reveal()); err != nil {
		return err
	}
	module, found := pkcs11.FindSoftHSM()
	if !found {
		return nil
	}
	s.module = module
	// The programs find the token by the environment that this sets.
	return pkcs11.InitSoftHSM(ctx, pkcs11.SoftHSMConfig{Dir: s.path("keys"), Module: module, TokenLabel: tokenLabel, SOPIN: pin, PIN: pin})
}

// write keeps a secret or a configuration for the programs.
func (s *stage) write(name, text string) error {
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func (s *stage) startPrograms(ctx context.Context) (err error) {
	if s.broker, err = s.startBroker(ctx, "daypass.yaml", "daypassd.log"); err != nil {
		return err
	}
	if err := s.write("thin.url", s.postgres.DSN(limitDatabase)); err != nil {
		return err
	}
	issuer := s.provider.IssuerURL(devkit.ProfileGitHub)
	s.thin, err = startChild(ctx, s.path("thin.log"), s.path("thin"), "-database", s.path("thin.url"), "-issuer", issuer, "-jwks", issuer+"/jwks", "-audience", audience,
		"-condition", s.path("condition.cel"), "-module", s.module, "-token", tokenLabel, "-keys", s.path("keys"), "-pin", s.path("pin"))
	if err != nil {
		return err
	}
	s.later(func(context.Context) error { return s.thin.stop() })
	return nil
}

// startBroker starts one more broker, which ends with the stage.
func (s *stage) startBroker(ctx context.Context, config, log string) (*child, error) {
	b, err := startChild(ctx, s.path(log), s.path("daypassd"), "serve", "--config", s.path(config))
	if err != nil {
		return nil, err
	}
	s.later(func(context.Context) error { return b.stop() })
	return b, nil
}

// describe prints what the figures were made on.
func (s *stage) describe(out io.Writer) error {
	held := "software, sealed on disk (no SoftHSM here)"
	if s.module != "" {
		held = "SoftHSM (" + s.module + ")"
	}
	_, err := fmt.Fprintf(out, "machine   %s, %d cores, load average %s\nbuilt by  %s\ndatabase  PostgreSQL %s, fsync on\nkeys      %s\n\n",
		processor(), runtime.NumCPU(), loadAverage(), runtime.Version(), s.version, held)
	return err
}

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
