// Package instance is one running broker, wired from its parts: what is opened
// in which order, what runs beside the requests, and what is closed.
package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/fleet"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/jobs"
	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/prints"
	"github.com/daypass/daypass/broker/reconciler"
	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/broker/retention"
	"github.com/daypass/daypass/broker/revoker"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/broker/switches"
	"github.com/daypass/daypass/broker/vaultapi"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
	"github.com/daypass/daypass/policies"
)

// Tenant is whose everything is until there are more.
const Tenant = "main"

// Config of an Instance. Every field is required, unless it says otherwise.
type Config struct {
	Database *pgxpool.Config
	// Direct leads to the same database past any pooler; nil: Database does.
	Direct     *pgx.ConnConfig
	Sealer     keys.Sealer            // wraps the root
	Signing    Signing                // the keys that sign JWTs
	IssuerKeys map[string]keys.Signer // of issuers that certify, by their names
	AuditKey   keys.Signer            // signs the audit log's checkpoints; nil: none is signed
	// CheckpointFile is appended to with each of them; "": none is.
	CheckpointFile string
	Providers      []oidc.Provider
	ExternalURL    string
	// OpenIssuers is called once the installation's id is known; it reaches for no
	// target.
	OpenIssuers func(ctx context.Context, with IssuerParts) (map[string]broker.Issuer, error)
	SecretHooks map[string]secrets.Hook // that rotate static secrets; none when empty
	// LoadPolicies loads what is to be the set in force.
	LoadPolicies func(ctx context.Context, issuers map[string]broker.Issuer) (*policies.Set, error)
	// WatchPolicies looks whether they changed; its zero value: nobody looks.
	WatchPolicies reloader.Watch
	// RevokeOnPolicyChange takes leases back that a new set doesn't allow. False:
	// they live to their end, and can't be renewed.
	RevokeOnPolicyChange bool
	TrustedProxies       []echo.TrustOption // none when empty
	Logger               *slog.Logger
	Now                  func() time.Time
	Elapsed              func() time.Duration // a clock that nobody sets; nil: the monotonic one of Now
	Checkpoint           func(step string)    // nil in every released program
	IssueTime            time.Duration        // zero: broker's default
	Limits               Limits
	Once                 map[string]bool // providers whose job tokens may come once
	Version              string          // of the program, for people; may be empty
	Retention            Retention
	Redaction            Redaction
	OAuth                httpapi.OAuth // clients that speak RFC 8693, and services that introspect; may be zero
	Reconcile            Reconcile     // how targets are compared with the leases
	RevokeGrace          time.Duration // how long a revocation may take before it is stuck; zero: revoker's default
	// Vault is what the façade for Vault's clients has; its zero value: there is none.
	Vault vaultapi.Mapping
}

// IssuerParts is what issuers are opened with, besides their configuration.
type IssuerParts struct {
	Installation string
	Epoch        int64                 // of the installation: see issuers.EpochKeeper
	Signer       func() issuers.Signer // the key to sign with at each moment
	Vault        sealed.Vault          // where static secrets are
}

// Signing says where the keys that sign JWTs are, and how they change.
type Signing struct {
	Store keys.Store // required
	// Pair names the first one; see [keyring.Config].
	Pair        keys.Pair     // Label is required
	Create      bool          // makes the first one where it is missing
	RotateEvery time.Duration // zero: by hand alone
}

// Limits are those of the broker, and the one on senders of bad tokens. 0: no limit.
type Limits struct {
	broker.Limits

	FailedTokens int // of one address, a minute, through this broker
}

// Instance is one broker. See [Open].
type Instance struct {
	Installation string
	Tokens       *admin.Tokens

	config  Config
	pool    *pgxpool.Pool
	sealer  *sealing.Sealer
	store   *leases.Store
	secrets *secrets.Store
	rotator *secrets.Rotator
	keeper  *retention.Keeper
	ring    *keyring.Ring
	broker  *broker.Broker
	revoker *revoker.Revoker
	audit   *sequencer.Sequencer
	targets *reconciler.Reconciler
	jobs    *jobs.Jobs
	server  *httpapi.Server
	issuers map[string]broker.Issuer
	reloads *reloader.Reloader
	metrics *metrics
	signing keyCheck

	locks    *pgxpool.Pool // for locks of a session; nil: pool
	fleet    *fleet.Fleet
	switches *switches.Store
	auditing auditCheck
	restored restored

	disclosures *disclosures.Service
}

// Open wires a broker. It reaches for the database and the keys, and for no
// target: one that is down never keeps a broker from starting.
func Open(ctx context.Context, config Config) (_ *Instance, err error) {
	base, err := OpenBase(ctx, config.Database, config.Sealer, config.Now)
	if err != nil {
		return nil, err
	}
	i := &Instance{Installation: base.Installation, Tokens: base.Tokens, config: config, pool: base.Pool, restored: restored{identity: base.Identity}}
	defer func() {
		if err != nil {
			i.Close()
		}
	}()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	i.metrics = newMetrics(registry)
	if i.sealer, err = base.Sealer(config.Logger, newSealingMetrics(registry)); err != nil {
		return nil, err
	}
	if i.store, err = leases.Open(ctx, leases.Config{
		Pool: base.Pool, Audit: base.Recorder, Handles: i.sealer, Claims: base.Root.Hasher(keys.SessionClaims), Installation: i.Installation, Tenant: Tenant, Now: config.Now, Elapsed: config.Elapsed, Logger: config.Logger,
	}); err != nil {
		return nil, err
	}
	if err := i.joinFleet(ctx, registry); err != nil {
		return nil, err
	}
	if err := i.openSwitches(ctx, base, registry); err != nil {
		return nil, err
	}
	watchDatabase(registry, base.Pool, i.store)
	if err := i.openAudit(base, registry); err != nil {
		return nil, err
	}
	if err := i.openKeeper(registry); err != nil {
		return nil, err
	}
	if err := i.openSecrets(base); err != nil {
		return nil, err
	}
	if err := i.openRing(ctx, base, newRingMetrics(registry, config.Now)); err != nil {
		return nil, err
	}
	if i.issuers, err = config.OpenIssuers(ctx, IssuerParts{Installation: i.Installation, Epoch: base.Identity.Epoch, Signer: i.ring.Signer, Vault: i.secrets}); err != nil {
		return nil, err
	}
	verifier, err := oidc.New(ctx, oidc.Config{Providers: config.Providers, Now: config.Now, SelfIssuer: config.ExternalURL, Logger: config.Logger})
	if err != nil {
		return nil, err
	}
	if i.revoker, err = revoker.New(revoker.Config{
		Store: i.store, Issuers: plain(i.issuers), Installation: i.Installation, Logger: config.Logger, Observe: i.metrics,
		Targets: targets(i.issuers), Grace: config.RevokeGrace,
	}); err != nil {
		return nil, err
	}
	if i.jobs, err = jobs.New(jobs.Config{Pool: base.Pool, Store: i.store, Audit: base.Recorder, Tenant: Tenant, Notify: i.revoker.Notify, Logger: config.Logger}); err != nil {
		return nil, err
	}
	if i.broker, err = broker.New(broker.Config{
		Installation: i.Installation, Tenant: Tenant, Verifier: verifier, Policies: func() *policies.Set { return i.reloads.Set() }, Issuers: i.issuers, Store: i.store, Switches: i.switches,
		SessionTokens: base.Root.Hasher(keys.SessionTokens), Prints: prints.New(base.Root), Notify: i.wake,
		Logger: config.Logger, IssueTime: config.IssueTime, Checkpoint: config.Checkpoint, Observe: i.metrics,
		Patterns: func() []string { return config.Redaction.patterns(i.store.Now()) },
		Limits:   config.Limits.Limits, Once: config.Once, Since: base.Identity.Since,
	}); err != nil {
		return nil, err
	}
	if i.reloads, err = reloader.New(ctx, reloader.Config{
		Load:  func(ctx context.Context) (*policies.Set, error) { return config.LoadPolicies(ctx, i.issuers) },
		Watch: config.WatchPolicies, Revoke: config.RevokeOnPolicyChange, Store: i.store, Allowed: i.broker.StillAllowed,
		Notify: i.wake, Logger: config.Logger, Now: config.Now, Observe: i.metrics,
	}); err != nil {
		return nil, err
	}
	if err := i.openReconciler(base, newReconcileMetrics(registry)); err != nil {
		return nil, err
	}
	if err := i.openDisclosures(base, registry); err != nil {
		return nil, err
	}
	guest, err := i.openVault(ctx)
	if err != nil {
		return nil, err
	}
	i.server, err = httpapi.New(httpapi.Config{
		Guest:  guest,
		Broker: i.broker, Store: i.store, Reload: i.Reload, Admins: i.Tokens, ExternalURL: config.ExternalURL, Ready: i.ready, Metrics: registry, Logger: config.Logger, Now: config.Now,
		Audit:          i.listAudit,
		AuditLog:       i.audit,
		Secrets:        i.secrets,
		Switches:       i.switches,
		Members:        i.members,
		Targets:        i.targets,
		Jobs:           i.jobs,
		JWKS:           i.ring.JWKS,
		Algorithms:     i.ring.Algorithms,
		TrustedProxies: config.TrustedProxies,
		Disclosures:    i.disclosures,
		Streams:        config.Redaction.streams(),
		Reporters:      config.Redaction.Reporters,
		OAuth:          config.OAuth,
		// Half the cores at most are for those whose tokens keep failing.
		Gate: limit.NewGate(config.Limits.FailedTokens, runtime.GOMAXPROCS(0)/2, config.Now),
	})
	return i, err
}

// openRing opens the keys that sign. What there is to take back of a revoked one
// comes to the revoker, which is opened later.
func (i *Instance) openRing(ctx context.Context, base *Base, observe keyring.Observer) (err error) {
	c := i.config.Signing
	i.ring, err = keyring.Open(ctx, keyring.Config{
		Pool: base.Pool, Locks: i.locks, Leases: i.store, Audit: base.Recorder, Tenant: Tenant, Store: c.Store, Pair: c.Pair, Create: c.Create, RotateEvery: c.RotateEvery,
		Notify: i.wake, Observe: observe, Logger: i.config.Logger, Now: i.config.Now, Checkpoint: i.config.Checkpoint,
	})
	if err != nil {
		return fmt.Errorf("keys.signing: %w", err)
	}
	return nil
}

// Keys are those that sign JWTs.
func (i *Instance) Keys() *keyring.Ring { return i.ring }

func (i *Instance) listAudit(ctx context.Context, page audit.Page) ([]audit.Event, error) {
	page.Tenant = Tenant
	events, err := audit.List(ctx, i.pool, page)
	if err != nil {
		err = fmt.Errorf("%w: %w", leases.ErrUnavailable, err)
	}
	return events, err
}

func plain(configured map[string]broker.Issuer) map[string]issuers.Issuer {
	m := make(map[string]issuers.Issuer, len(configured))
	for name, issuer := range configured {
		m[name] = issuer.Issuer
	}
	return m
}

// targets tells the revoker which issuers share one.
func targets(configured map[string]broker.Issuer) map[string]revoker.Target {
	m := make(map[string]revoker.Target, len(configured))
	for name, issuer := range configured {
		if issuer.HasTarget() {
			m[name] = revoker.Target{Name: issuer.Target, Workers: issuer.Workers}
		}
	}
	return m
}

// API is the handler of the API, with health and metrics or without.
func (i *Instance) API(withOperations bool) http.Handler { return i.server.API(withOperations) }

// Operations is the handler of health and metrics alone.
func (i *Instance) Operations() http.Handler { return i.server.Operations() }

// Drain makes new exchanges answer 503.
func (i *Instance) Drain() { i.server.Drain() }

// Reload reads the policies and puts their set in force; see [reloader.Reloader.Reload].
func (i *Instance) Reload(ctx context.Context, trigger reloader.Trigger) (*reloader.Result, error) {
	return i.reloads.Reload(ctx, trigger)
}

// Run takes back what is due, tries the targets, counts what is overdue, watches
// the policies, rotates keys and static secrets, wraps keys anew, keeps the tables, compares the targets with the
// leases and writes down what is refused, until ctx ends.
func (i *Instance) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { i.revoker.Run(ctx) })
	running.Go(func() { i.once(ctx, "audit log", i.audit.Run) })
	running.Go(func() { i.jobs.Run(ctx) })
	running.Go(func() { i.broker.ProbeTargets(ctx) })
	running.Go(func() { i.watchOverdue(ctx) })
	running.Go(func() { i.reloads.Run(ctx) })
	running.Go(func() { i.broker.KeepDecisions(ctx) })
	running.Go(func() { i.rotator.Run(ctx) })
	running.Go(func() { i.ring.Run(ctx) })
	running.Go(func() { i.sealer.Run(ctx) })
	running.Go(func() { i.fleet.Run(ctx) })
	running.Go(func() { i.switches.Run(ctx) })
	running.Go(func() { i.keepRules(ctx) })
	running.Go(func() { i.once(ctx, "switches", i.switches.Sweep) })
	running.Go(func() { i.once(ctx, "retention", i.keeper.Run) })
	if i.config.Reconcile.Every > 0 {
		running.Go(func() { i.once(ctx, "reconciliation", i.targets.Run) })
	}
	running.Go(func() { i.raiseEpochs(ctx) })
	running.Wait()
}

// Close lets go of the database and the targets. Run must have returned.
func (i *Instance) Close() {
	if i.targets != nil {
		i.targets.Close()
	}
	if i.store != nil {
		i.store.Close()
	}
	for name, issuer := range i.issuers {
		if closer, ok := issuer.Issuer.(interface{ Close() error }); ok {
			if err := closer.Close(); err != nil {
				i.config.Logger.Warn("closing an issuer failed", "issuer", name, "error", err)
			}
		}
	}
	if i.sealer != nil {
		i.sealer.Close()
	}
	if i.locks != nil {
		i.locks.Close()
	}
	if i.audit != nil {
		if err := i.audit.Close(); err != nil {
			i.config.Logger.Warn("closing the checkpoint file failed", "error", err)
		}
	}
	i.pool.Close()
}

// keyCheck remembers for a while whether the signing key signs: /readyz is open
// to anybody, and an HSM is slow.
type keyCheck struct {
	mu    sync.Mutex
	until time.Time
	err   error
}

const keyCheckLife = 5 * time.Second

func (k *keyCheck) check(now time.Time, ring *keyring.Ring) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !now.Before(k.until) {
		k.err = ring.Check()
		k.until = now.Add(keyCheckLife)
	}
	return k.err
}

// ready is what /readyz says. Degraded issuers are told, and don't make the
// broker unready: the others work.
func (i *Instance) ready(ctx context.Context) httpapi.Readiness {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Second, errors.New("the database took longer than 3 s"))
	defer cancel()
	r := httpapi.Readiness{
		Ready:   true,
		Checks:  map[string]string{"keys": "ok", "policies": i.reloads.Status(), "database": "ok", "clock": "ok"},
		Issuers: map[string]string{},
	}
	r.Checks["fleet"] = "ok"
	if !i.fleet.Connected() {
		// No reason to send jobs elsewhere: exchanges need nothing of it.
		r.Checks["fleet"] = "this broker doesn't hear of the others, and can't be elected"
	}
	for name := range i.issuers {
		r.Issuers[name] = "ok"
	}
	if err := i.signing.check(i.config.Now(), i.ring); err != nil {
		i.config.Logger.WarnContext(ctx, "the broker is not ready", "error", err)
		r.Ready, r.Checks["keys"] = false, "the signing key does not sign"
	}
	if err := i.store.CheckClock(); err != nil {
		r.Ready, r.Checks["clock"] = false, err.Error()
	}
	i.auditReady(ctx, &r)
	degraded, err := i.broker.Degraded(ctx)
	if err != nil {
		i.config.Logger.WarnContext(ctx, "the broker is not ready", "error", err)
		r.Ready, r.Checks["database"] = false, leases.Outage(err)
		return r
	}
	if err := i.store.Health(); err != nil {
		r.Ready, r.Checks["database"] = false, err.Error()
	}
	if status, ok := i.partitions(ctx); !ok {
		r.Ready, r.Checks["partitions"] = false, status
	}
	i.sayRestored(ctx, &r)
	for name, issuer := range i.issuers {
		failure, tried := degraded[name]
		switch {
		case len(issuer.Roles) == 0:
			r.Issuers[name] = "no role"
		case failure != "":
			r.Issuers[name] = "degraded: " + failure
		case !tried && issuer.HasTarget():
			r.Issuers[name] = "not tried yet"
		}
		i.metrics.degraded(name, failure != "")
		if off, err := i.switches.Find(ctx, switches.Of{Issuer: name}); err == nil && off != nil {
			r.Issuers[name] = "turned off by an operator"
		}
	}
	return r
}
