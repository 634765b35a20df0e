package restore_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/restore"
	"github.com/daypass/daypass/broker/sealing"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// apart is a database with a root, and what restores it.
func apart(t *testing.T) (config *pgxpool.Config, sealer keys.Sealer, what restore.Config) {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	sealer, _ = brokertest.Keys(t)
	pool, err := pgxpool.NewWithConfig(t.Context(), config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return config, sealer, restore.Config{
		Pool: pool, Sealer: sealer, Tenant: instance.Tenant, Actor: "test", Now: time.Now,
		OpenTargets: func(context.Context, string, int64) (restore.Targets, func(), error) { return nil, func() {}, nil },
	}
}

func open(t *testing.T, config *pgxpool.Config, sealer keys.Sealer) *instance.Base {
	t.Helper()
	base, err := instance.OpenBase(t.Context(), config.Copy(), sealer, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(base.Pool.Close)
	return base
}

func row(installation string) keys.RowID {
	return keys.RowID{
		Installation: installation, Tenant: instance.Tenant, Table: "secret_versions", Column: "value", Row: "sec_1/1", Version: "1", Purpose: "static secret",
	}
}

// keepSecret stores a value as the one version of a static secret.
func keepSecret(t *testing.T, base *instance.Base, value []byte) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO secrets (id, tenant, name, description, owner, rotate_every_seconds, rotate_fields, hook, versions, events, created_at) VALUES ('sec_1', 'main', 'a', '', 'o', 0, '{}', '', 1, 1, now())`,
		`INSERT INTO secret_versions (secret_id, version, state, origin, fields, created_at, created_by, verified_at, promoted_at, value) VALUES ('sec_1', 1, 'current', 'put', '{}', now(), 'o', now(), now(), '\x00')`,
	} {
		if _, err := base.Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := base.Pool.Exec(t.Context(), `UPDATE secret_versions SET value = $1`, value); err != nil {
		t.Fatal(err)
	}
}

// TestNewInstallationKeepsSecrets: what was sealed for the original opens for the
// new one, and no longer for the original; and where the sealing key isn't there,
// it is given up only when somebody says so.
func TestNewInstallationKeepsSecrets(t *testing.T) {
	t.Parallel()
	config, sealer, what := apart(t)
	what.Mode = restore.NewInstallation
	before := open(t, config, sealer)
	values, err := before.Sealer(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := values.Seal(t.Context(), row(before.Installation), []byte("kept"))
	values.Close()
	if err != nil {
		t.Fatal(err)
	}
	keepSecret(t, before, sealed)
	before.Pool.Close()

	other, _ := brokertest.Keys(t)
	stranger := what
	stranger.Sealer = other
	if _, err := apply(t, stranger); !errors.Is(err, sealing.ErrLost) {
		t.Errorf("without the sealing key: %v", err)
	}
	report, err := apply(t, what)
	if err != nil || report.Was != before.Installation || report.Installation == before.Installation || report.Secrets != 1 {
		t.Fatalf("%+v: %v", report, err)
	}
	after := open(t, config, sealer)
	if after.Installation != report.Installation || after.Identity.Epoch != report.Epoch {
		t.Errorf("opened as %+v, want %+v", after.Identity, report)
	}
	values, err = after.Sealer(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer values.Close()
	var stored []byte
	if err := after.Pool.QueryRow(t.Context(), `SELECT value FROM secret_versions`).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if opened, err := values.Open(t.Context(), row(after.Installation), stored); err != nil || string(opened) != "kept" {
		t.Errorf("opens to %q: %v", opened, err)
	}
	if _, err := values.Open(t.Context(), row(before.Installation), stored); err == nil {
		t.Error("it opens for the original")
	}
}

func apply(t *testing.T, config restore.Config) (*restore.Report, error) {
	t.Helper()
	doing, err := restore.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return doing.Apply(t.Context())
}

// TestPromoteRaisesTheEpoch each time, and not while a broker is connected.
func TestPromoteRaisesTheEpoch(t *testing.T) {
	t.Parallel()
	config, sealer, what := apart(t)
	what.Mode = restore.Promote
	open(t, config, sealer).Pool.Close()
	first, err := apply(t, what)
	if err != nil {
		t.Fatal(err)
	}
	second, err := apply(t, what)
	if err != nil || first.Epoch == 0 || second.Epoch <= first.Epoch || second.FormerEpoch != first.Epoch {
		t.Errorf("epoch %d, then %+v: %v", first.Epoch, second, err)
	}
	running := config.Copy()
	running.ConnConfig.RuntimeParams["application_name"] = sealing.BrokerApplication
	broker := open(t, running, sealer)
	if _, err := apply(t, what); !errors.Is(err, sealing.ErrBrokersRun) {
		t.Errorf("while a broker runs: %v", err)
	}
	if broker.Identity.Epoch != second.Epoch || broker.Identity.Since.IsZero() {
		t.Errorf("a broker sees %+v", broker.Identity)
	}
}
