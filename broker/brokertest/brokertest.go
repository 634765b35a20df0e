// Package brokertest starts whole brokers for tests: a database of their own in
// a real PostgreSQL, a real OIDC provider on loopback, keys in memory, the API
// over HTTP with the limits of the real server. Only the targets are made up
// ([Target]), so that they can be slow, dead, or lose an answer when a test says
// so; the jwt issuer is the real one.
//
// Every broker is examined when its test ends, whatever the test was about: no
// secret that went through it may stand in its log, in an error that it answered
// or in its database; every event must verify; each ended lease has exactly one
// event that ended it; and nothing may live on a target that the database
// doesn't know to be alive.
package brokertest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/reloader"
	static "github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/broker/vaultapi"
	"github.com/daypass/daypass/issuers/jwt"
	"github.com/daypass/daypass/issuers/sealed"
	"github.com/daypass/daypass/migrations"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
)

// Names that every broker here is configured with.
const (
	// Audience is what job tokens are for.
	Audience = "https://ci.daypass.example"
	// IssuerDB and IssuerOther are the issuers on the two targets, IssuerJWT the
	// one that signs.
	IssuerDB    = "db"
	IssuerOther = "other"
	IssuerJWT   = "release-jwt"
	// IssuerSealed gives static secrets: by its role key the value of SecretKey, by
	// its role login username and password of SecretLogin, by its role next the
	// pending version of SecretKey.
	IssuerSealed = "vault"
	SecretKey    = "payments/stripe-key"
	SecretLogin  = "payments/legacy/login"
	// SigningLabel is that of the first key that signs.
	SigningLabel = "signing"
)

// Policies are in force unless a test brings its own: those of the repository
// of the demo provider's sample claims.
const Policies = `
policy: payments
owner: payments@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
  - name: nightly
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push, environment: nightly}
grants:
  - {name: deploy-db, jobs: [release], issuer: db, role: deployer, ttl: 10m, max_ttl: 1h, redact: [{pattern: 'pay_live_[0-9a-z]{24}'}]}
  - {name: read-db, jobs: [release], issuer: db, role: reader, ttl: 5m, env: {username: READ_USER, password: READ_PASSWORD, url: READ_URL}}
  - {name: clash, jobs: [release], issuer: other, role: deployer, ttl: 5m}
  - {name: other-db, jobs: [release], issuer: other, role: deployer, ttl: 5m, env: {username: OTHER_USER, password: OTHER_PASSWORD}}
  - {name: limited, jobs: [release], issuer: db, role: deployer, ttl: 5m, max_active: 1}
  - {name: sign, jobs: [release], issuer: release-jwt, ttl: 5m, with: {audience: "https://sts.example.com"}}
  - {name: key, jobs: [release], issuer: vault, role: key, ttl: 5m}
  - {name: login, jobs: [release], issuer: vault, role: login, ttl: 5m}
  - {name: next-key, jobs: [release], issuer: vault, role: next, ttl: 5m}
  - {name: night, jobs: [nightly], issuer: db, role: deployer, ttl: 5m}
`

// Options of a broker. The zero value is what most tests want.
type Options struct {
	// Policies are files by name; nil: one with [Policies].
	Policies map[string]string
	// IssueTime is how long an issuer may take; zero: 5 s.
	IssueTime time.Duration
	// SessionTTL of both providers; zero: 1 hour.
	SessionTTL time.Duration
	// Clock is what the broker believes the time to be; nil: the system's. The
	// database keeps its own.
	Clock func() time.Time
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []echo.TrustOption
	// Idle leaves the revoker and whatever else runs beside the requests for
	// [Broker.Start].
	Idle bool
	// Probe lets the broker try its targets when it starts. Otherwise it finds on
	// record that somebody just did, so that a target sees the leases of tests alone.
	Probe bool
	// Algorithm is that of the keys that sign JWTs; "": ES256.
	Algorithm string
	// Signer replaces each key that signs JWTs by what it makes of it.
	Signer func(keys.Signer) keys.Signer
	// Issuers opens more of them, by the broker's URL.
	Issuers func(ctx context.Context, url string) (map[string]broker.Issuer, error)
	// Checkpoint is called between the steps of an exchange.
	Checkpoint func(step string)
	// RevokeOnPolicyChange takes leases back that a new set doesn't allow.
	RevokeOnPolicyChange bool
	// SecretHooks are those that rotate static secrets; none unless a test brings some.
	SecretHooks map[string]static.Hook
	// Limits are none unless a test brings some.
	Limits instance.Limits
	// Once are the providers whose job tokens may come once.
	Once map[string]bool
	// OAuth is what the OAuth calls know.
	OAuth httpapi.OAuth
	// Vault is what the façade for Vault's clients has; none unless a test says so.
	Vault vaultapi.Mapping
	// RotateEvery is how long a signing key signs; zero: until a test rotates it.
	RotateEvery time.Duration
	// Redaction is what is masked in logs, and who reports leaks; its zero value: the defaults.
	Redaction instance.Redaction
	// Connection changes how the broker, and its Base, connect to the database.
	Connection func(*pgxpool.Config)
	// Database is the URL of an empty database; "": one of its own in the tests' server.
	Database string
	// Join makes this broker one more of another's fleet: the same database,
	// keys, provider and targets.
	Join *Broker
}

// Broker is a running broker and everything around it.
type Broker struct {
	*instance.Instance
	URL      string // of the API, health and metrics included
	Provider *devkit.Provider
	DB       *Target // behind IssuerDB
	Other    *Target // behind IssuerOther
	// Base is a second door to the database, for looking: its pool is not the broker's.
	Base *instance.Base
	Log  *Log
	// Store holds the keys that sign JWTs: those of the whole fleet.
	Store *MemoryStore
	// AuditKey signs the audit log of the whole fleet.
	AuditKey keys.Signer

	t        testing.TB
	options  Options
	dsn      string
	sealer   keys.Sealer
	server   *httptest.Server
	secrets  *secrets
	stopWork func()
	answers  *answers
	policies *atomic.Pointer[map[string]string] // files by name
}

// New starts a broker that lasts as long as the test.
func New(t testing.TB, options Options) *Broker {
	t.Helper()
	if options.IssueTime == 0 {
		options.IssueTime = 5 * time.Second
	}
	if options.Clock == nil {
		options.Clock = time.Now //nolint:forbidigo // for tests alone: the machine's clock is right
	}
	if options.Policies == nil {
		options.Policies = map[string]string{"payments.yaml": Policies}
	}
	b := &Broker{t: t, options: options, Log: &Log{}, answers: &answers{}, policies: &atomic.Pointer[map[string]string]{}}
	b.SetPolicies(options.Policies)
	if options.Join == nil {
		b.found()
	} else {
		o := options.Join
		b.AuditKey = o.AuditKey
		b.dsn, b.sealer, b.Store, b.Provider, b.DB, b.Other, b.secrets = o.dsn, o.sealer, o.Store, o.Provider, o.DB, o.Other, o.secrets
	}
	b.open()
	return b
}

// found makes what a fleet shares.
func (b *Broker) found() {
	t := b.t
	t.Helper()
	b.dsn, b.secrets = b.options.Database, &secrets{}
	if b.dsn == "" {
		b.dsn = devtest.Migrated(t)
	} else if _, err := migrations.Up(t.Context(), b.database().ConnConfig.Copy()); err != nil {
		t.Fatal(err)
	}
	b.DB, b.Other = newTarget(b.secrets), newTarget(b.secrets)
	b.sealer, b.Store = Keys(t)
	b.Store.Wrap = b.options.Signer
	var err error
	if b.AuditKey, err = (&MemoryStore{}).MakeSigner(t.Context(), keys.Pair{Label: "audit"}); err != nil {
		t.Fatal(err)
	}
	provider, err := devkit.StartProvider(t.Context(), devkit.ProviderConfig{Algorithm: "ES256"}) // an RSA key takes its time to make
	if err != nil {
		t.Fatal(err)
	}
	b.Provider = provider
	t.Cleanup(func() {
		if err := provider.Close(); err != nil {
			t.Error(err)
		}
	})
}

// database is how the real server opens it.
func (b *Broker) database() *pgxpool.Config {
	b.t.Helper()
	config, err := pgxpool.ParseConfig(b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	// Half of the least that a configuration may ask for. Each connection costs
	// Postgres a process, which plans all statements anew: with eight, most of what
	// the tests took was that.
	config.MaxConns = 4
	leases.Prepare(config)
	if b.options.Connection != nil {
		b.options.Connection(config)
	}
	installation.Guard(config)
	return config
}

func (b *Broker) open() {
	t := b.t
	t.Helper()
	b.server = httptest.NewUnstartedServer(nil)
	b.URL = "http://" + b.server.Listener.Addr().String()
	logger := slog.New(slog.NewJSONHandler(b.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if b.Base, err = instance.OpenBase(t.Context(), b.database(), b.sealer, time.Now); err != nil { //nolint:forbidigo // for tests alone: the machine's clock is right
		t.Fatal(err)
	}
	if !b.options.Probe {
		for _, name := range []string{IssuerDB, IssuerOther} {
			b.Exec(`INSERT INTO probes (tenant, issuer, started_at, ended_at) VALUES ('main', $1, now(), now()) ON CONFLICT DO NOTHING`, name)
		}
	}
	b.Instance, err = instance.Open(t.Context(), instance.Config{
		Database: b.database(), Sealer: b.sealer,
		Signing:     instance.Signing{Store: b.Store, Pair: keys.Pair{Label: SigningLabel, Algorithm: b.options.Algorithm}, Create: true, RotateEvery: b.options.RotateEvery},
		ExternalURL: b.URL, Logger: logger, Now: b.options.Clock, AuditKey: b.AuditKey,
		Providers: []oidc.Provider{
			{Name: "github", Type: "github", Issuer: b.Provider.IssuerURL(devkit.ProfileGitHub), Audience: Audience, SessionTTL: b.options.SessionTTL},
			{Name: "gitlab", Type: "gitlab", Issuer: b.Provider.IssuerURL(devkit.ProfileGitLab), Audience: Audience, SessionTTL: b.options.SessionTTL},
		},
		OpenIssuers: b.openIssuers, LoadPolicies: b.loadPolicies, RevokeOnPolicyChange: b.options.RevokeOnPolicyChange, TrustedProxies: b.options.TrustedProxies,
		Redaction:  b.options.Redaction,
		Checkpoint: b.options.Checkpoint, IssueTime: b.options.IssueTime, Limits: b.options.Limits, Once: b.options.Once, OAuth: b.options.OAuth, SecretHooks: b.options.SecretHooks,
		Vault: b.options.Vault,
	})
	if err != nil {
		b.Base.Pool.Close()
		b.server.Listener.Close() //nolint:errcheck // the test has failed already
		t.Fatal(err)
	}
	b.server.Config = &http.Server{
		Handler: b.API(true), MaxHeaderBytes: 64 << 10, ReadHeaderTimeout: 15 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	b.server.Start()
	if !b.options.Idle {
		b.Start()
	}
	t.Cleanup(b.close)
}

func (b *Broker) openIssuers(ctx context.Context, with instance.IssuerParts) (map[string]broker.Issuer, error) {
	signing, err := jwt.New(ctx, jwt.Config{Issuer: b.URL, Signer: with.Signer})
	if err != nil {
		return nil, err
	}
	static, err := sealed.New(ctx, sealed.Config{Vault: with.Vault, Roles: map[string]sealed.Role{
		"key":   {Secret: SecretKey, Env: map[string]string{"value": "STRIPE_KEY"}},
		"next":  {Secret: SecretKey, Pending: true},
		"login": {Secret: SecretLogin, Fields: []string{"username", "password"}, Visible: []string{"username"}},
	}})
	if err != nil {
		return nil, err
	}
	open := map[string]broker.Issuer{}
	if b.options.Issuers != nil {
		if open, err = b.options.Issuers(ctx, b.URL); err != nil {
			return nil, err
		}
	}
	maps.Copy(open, map[string]broker.Issuer{
		IssuerSealed: {Issuer: static, Target: b.URL, Roles: []string{"key", "next", "login"}},
		IssuerDB:     {Issuer: b.DB, Target: "db.example:5432/payments", Roles: []string{"deployer", "reader"}},
		IssuerOther:  {Issuer: b.Other, Target: "other.example:5432/other", Roles: []string{"deployer"}},
		IssuerJWT:    {Issuer: signing, Target: b.URL, Roles: []string{""}},
	})
	return open, nil
}

func (b *Broker) loadPolicies(ctx context.Context, open map[string]broker.Issuer) (*policies.Set, error) {
	return policies.Load(ctx, b.source(), policies.Config{
		Providers: map[string]lint.Provider{"github": {Type: "github"}, "gitlab": {Type: "gitlab"}}, Issuers: checker(open), Now: b.options.Clock(),
	})
}

func (b *Broker) source() policies.Source {
	files := fstest.MapFS{}
	for name, text := range *b.policies.Load() {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return policies.Source{FS: files}
}

// SetPolicies replaces the policy files of this broker, by name. They are not in
// force before a reload.
func (b *Broker) SetPolicies(files map[string]string) {
	files = maps.Clone(files)
	b.policies.Store(&files)
}

// Reload puts what SetPolicies left in force, as a signal would.
func (b *Broker) Reload() (*reloader.Result, error) {
	return b.Instance.Reload(context.WithoutCancel(b.t.Context()), reloader.Trigger{Actor: "daypassd", By: "test"})
}

// MustReload is a Reload that has to succeed.
func (b *Broker) MustReload() *reloader.Result {
	b.t.Helper()
	result, err := b.Reload()
	if err != nil {
		b.t.Fatal(err)
	}
	return result
}

// checker lets every policy use every issuer, if its parameters are right.
type checker map[string]broker.Issuer

// CheckGrant implements policies.IssuerChecker.
func (c checker) CheckGrant(use policies.GrantUse) error {
	issuer, known := c[use.Issuer]
	if !known {
		return fmt.Errorf("there is no issuer %q", use.Issuer)
	}
	if checker, can := issuer.Issuer.(interface {
		CheckParameters(role string, parameters json.RawMessage) error
	}); can {
		return checker.CheckParameters(use.Role, use.With)
	}
	return nil
}

// Start runs what works beside the requests. It is called once; New does unless
// Options.Idle says no.
func (b *Broker) Start() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	b.stopWork = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
}

// StopWork ends what Start began, as far as it can before the test ends.
func (b *Broker) StopWork() {
	if b.stopWork != nil {
		b.stopWork()
	}
}

func (b *Broker) close() {
	b.server.Close()
	b.StopWork()
	b.examine()
	b.Close()
	b.Base.Pool.Close()
	if b.t.Failed() {
		b.t.Logf("the broker's log:\n%s", b.Log.tail())
	}
}
