package instance_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/migrations"
	"github.com/daypass/daypass/policies"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

func database(t *testing.T) *pgxpool.Config {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestSchemaMustBeThere(t *testing.T) {
	t.Parallel()
	config := database(t)
	sealer, _ := brokertest.Keys(t)
	if _, err := instance.OpenBase(t.Context(), config, sealer, time.Now); !errors.Is(err, migrations.ErrTooOld) {
		t.Errorf("an empty database: %v", err)
	}
	config.ConnConfig.Host, config.ConnConfig.Fallbacks = t.TempDir(), nil // no server has its socket there
	if _, err := instance.OpenBase(t.Context(), config, sealer, time.Now); err == nil || !strings.Contains(err.Error(), "reaching the broker's database") {
		t.Errorf("no database at all: %v", err)
	}
}

// TestOpenFails at each of its steps, and lets go of what it had opened.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	config := database(t)
	if _, err := migrations.Up(t.Context(), config.ConnConfig.Copy()); err != nil {
		t.Fatal(err)
	}
	sealer, store := brokertest.Keys(t)
	signing := instance.Signing{Store: store, Pair: keys.Pair{Label: "signing"}, Create: true}
	mistake := errors.New("a mistake")
	for name, change := range map[string]func(*instance.Config){
		"issuers": func(c *instance.Config) {
			c.OpenIssuers = func(context.Context, instance.IssuerParts) (map[string]broker.Issuer, error) { return nil, mistake }
		},
		"policies": func(c *instance.Config) {
			c.LoadPolicies = func(context.Context, map[string]broker.Issuer) (*policies.Set, error) { return nil, mistake }
		},
	} {
		c := instance.Config{
			Database: config.Copy(), Sealer: sealer, Signing: signing, ExternalURL: "https://daypass.example", Logger: slog.New(slog.DiscardHandler), Now: time.Now,
			OpenIssuers: func(context.Context, instance.IssuerParts) (map[string]broker.Issuer, error) {
				return nil, nil
			},
			LoadPolicies: func(context.Context, map[string]broker.Issuer) (*policies.Set, error) { return &policies.Set{}, nil },
		}
		change(&c)
		if _, err := instance.Open(t.Context(), c); !errors.Is(err, mistake) {
			t.Errorf("%s: %v", name, err)
		}
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	brokertest.Poll(t, "its connections are closed", func() bool {
		var others int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&others)
		return err == nil && others == 0
	})
}

// TestFleet: brokers on one database are one installation, and each takes what
// another began.
func TestFleet(t *testing.T) {
	t.Parallel()
	first := brokertest.New(t, brokertest.Options{Idle: true})
	second := brokertest.New(t, brokertest.Options{Join: first})
	if first.Installation != second.Installation {
		t.Fatalf("%s and %s", first.Installation, second.Installation)
	}
	out := first.Exchange(first.Job(), "payments/deploy-db")
	viewer := first.Admin(admin.Viewer)
	if l := second.Lease(viewer, out.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("another broker sees it as %s", l.State)
	}
	if a := second.Do("POST", "/v1/session/revoke", out.Session.Token, nil); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if l := first.Lease(viewer, out.Credentials[0].LeaseID); l.State != "revoked" {
		t.Errorf("it is %s", l.State)
	}
	second.StopWork()
}

// TestOverdueIsCounted, of an issuer that is no longer configured too.
func TestOverdueIsCounted(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Idle: true})
	out := b.Exchange(b.Job(), "payments/deploy-db", "payments/other-db")
	b.Exec(`UPDATE leases SET issued_at = now() - interval '2 hours', expires_at = now() - interval '1 hour', due_at = now() - interval '1 hour', issuer = 'gone' WHERE id = $1`, out.Credentials[0].LeaseID)
	b.Start()
	brokertest.Poll(t, "somebody speaks of it", func() bool {
		return len(b.Log.Lines("leases of an issuer that is no longer configured can't be taken back (hint: configure it again until they are)")) == 1
	})
	if a := b.Do("GET", "/metrics", "", nil); !strings.Contains(string(a.Body), `daypass_leases_overdue{issuer="gone"} 1`) || !strings.Contains(string(a.Body), `daypass_leases_overdue{issuer="db"} 0`) {
		t.Errorf("%s", a.Body)
	}
	b.Exec(`UPDATE leases SET issuer = 'db' WHERE issuer = 'gone'`)
	brokertest.Poll(t, "it is taken back once it is configured again", func() bool { return len(b.DB.Live()) == 0 })
}
