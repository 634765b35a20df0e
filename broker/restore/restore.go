// Package restore makes a copy of the broker's database one that may work: a
// backup that was restored after a disaster, or a clone.
//
// A copy is inert. One that was dumped and restored, or cloned by Postgres, finds
// out by itself (package installation). One of the server's files, or a restore to
// a point in time, can't: it is told by the targets, once another one has raised
// the installation's epoch there. What is to work again is said by a person, who
// alone knows whether the original lives on:
//
//   - [Promote]: the original is gone, and the same installation goes on here. It
//     doesn't know what happened after the backup, so all that was given out before
//     is void: sessions, admin tokens, job tokens; what lives is taken back; and
//     the brokers aren't ready until each target that can list was compared with
//     what is on record.
//   - [NewInstallation]: the original lives on, and this becomes another one, with
//     an id of its own. It lets go of what is the other's without touching it.
package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/issuers"
)

// Mode says what is to become of the database.
type Mode string

// The two modes.
const (
	Promote         Mode = "promote"
	NewInstallation Mode = "new-installation"
)

// Targets are issuers that were opened for one installation and epoch, by name.
type Targets map[string]issuers.Issuer

// Config of what is done. Every field is required, unless it says otherwise.
type Config struct {
	Pool   *pgxpool.Pool // not guarded, and not under a broker's application_name
	Sealer keys.Sealer
	Tenant string
	Actor  string // who does it
	Mode   Mode
	// OpenTargets opens what has something outside. It reaches for nothing. It is
	// not called for a new installation.
	OpenTargets func(ctx context.Context, installation string, epoch int64) (_ Targets, closeAll func(), err error)
	DropSealed  bool // give up static secrets that don't open; for a new installation
	Now         func() time.Time
	Logger      *slog.Logger // nil: discards
}

// Report says what is done, or would be.
type Report struct {
	Mode         Mode         `json:"mode"`
	Installation string       `json:"installation"`
	Was          string       `json:"was,omitempty"` // of a new installation: the original's id
	Copy         bool         `json:"copy"`          // the database is not the one that it was born as
	Epoch        int64        `json:"epoch"`         // 0 before it is done
	FormerEpoch  int64        `json:"former_epoch"`
	At           time.Time    `json:"at,omitzero"` // what is older is void
	Leases       int          `json:"leases"`      // that lived: taken back, or forgotten
	Revoking     int          `json:"revoking"`    // that were being taken back: goes on, or forgotten
	AdminTokens  []AdminToken `json:"admin_tokens,omitempty"`
	RunsOut      *time.Time   `json:"runs_out,omitempty"` // when the last JWT or certificate on record ends
	Targets      []Target     `json:"targets,omitempty"`
	Secrets      int          `json:"secret_versions"` // sealed anew
	Lost         []string     `json:"lost,omitempty"`  // static secrets that don't open
	SigningKeys  []string     `json:"signing_keys,omitempty"`
}

// AdminToken is one that ends.
type AdminToken struct {
	ID    string `json:"id"`
	Owner string `json:"owner"`
}

// Target is how one issuer's target comes along.
type Target struct {
	Issuer string `json:"issuer"`
	// Epoch: "keeps it", "doesn't keep the epoch", or what went wrong.
	Epoch string `json:"epoch"`
	// Lists says that the reconciler can compare it with what is on record. What
	// stands on another one and was made after the backup is for a person to find.
	Lists bool `json:"lists"`
}

// How a target keeps the epoch.
const (
	Keeps   = "keeps it"
	NoEpoch = "doesn't keep the epoch"
)

const (
	targetTime = 10 * time.Second // for one target to take the epoch
	reason     = "the broker's database was restored"
	forgotten  = "it is the original's, of which this database was a copy"
)

// Restore does it. See [New].
type Restore struct{ config Config }

// New returns an error when a field is missing.
func New(config Config) (*Restore, error) {
	if config.Pool == nil || config.Sealer == nil || config.Tenant == "" || config.Actor == "" || config.OpenTargets == nil || config.Now == nil {
		return nil, errors.New("restoring: pool, sealer, tenant, actor, targets and clock are all required")
	}
	if config.Mode != Promote && config.Mode != NewInstallation {
		return nil, fmt.Errorf("restoring: there is no mode %q", config.Mode)
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Restore{config: config}, nil
}

// alone calls f while no broker can start, and none runs.
func (r *Restore) alone(ctx context.Context, f func() error) error {
	conn, err := r.config.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("reaching the broker's database: %w", err)
	}
	defer conn.Release()
	if err := sealing.Alone(ctx, conn, installation.ReplaceLock); err != nil {
		return err
	}
	defer func() {
		// The lock ends with the connection in any case.
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, installation.ReplaceLock)
	}()
	return f()
}

// Plan says what Apply would do. It writes nothing, and tells no target.
func (r *Restore) Plan(ctx context.Context) (*Report, error) {
	who, report, err := r.look(ctx)
	if err != nil || r.config.Mode == NewInstallation {
		return report, err
	}
	targets, closeAll, err := r.config.OpenTargets(ctx, who.ID, who.Epoch)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		t := Target{Issuer: name, Epoch: NoEpoch, Lists: lists(targets[name])}
		if _, ok := targets[name].(issuers.EpochKeeper); ok {
			t.Epoch = "will be told"
		}
		report.Targets = append(report.Targets, t)
	}
	return report, nil
}

// Apply does it. It can be called again after an interruption: until its last
// commit the database stays what it was.
func (r *Restore) Apply(ctx context.Context) (report *Report, err error) {
	err = r.alone(ctx, func() (err error) {
		if r.config.Mode == Promote {
			report, err = r.promote(ctx)
		} else {
			report, err = r.renew(ctx)
		}
		return err
	})
	return report, err
}

// look reads what there is.
func (r *Restore) look(ctx context.Context) (*installation.Identity, *Report, error) {
	who, err := installation.Read(ctx, r.config.Pool)
	if err != nil {
		return nil, nil, err
	}
	report := &Report{Mode: r.config.Mode, Installation: who.ID, Copy: who.Copy, FormerEpoch: who.Epoch}
	const admins = `SELECT id, owner FROM admin_tokens WHERE tenant = $1 AND revoked_at IS NULL AND expires_at > $2 ORDER BY id`
	rows, err := r.config.Pool.Query(ctx, admins, r.config.Tenant, r.config.Now())
	if err == nil {
		report.AdminTokens, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AdminToken])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listing admin tokens: %w", err)
	}
	rows, err = r.config.Pool.Query(ctx, `SELECT kid FROM signing_keys WHERE tenant = $1 AND kid IS NOT NULL AND ended_at IS NULL ORDER BY number`, r.config.Tenant)
	if err == nil {
		report.SigningKeys, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listing signing keys: %w", err)
	}
	const alive = `
SELECT count(*) FILTER (WHERE state <> 'revoking'), count(*) FILTER (WHERE state = 'revoking'), max(expires_at) FILTER (WHERE revocation = 'expiry' AND state <> 'revoking')
FROM leases WHERE tenant = $1 AND due_at IS NOT NULL`
	if err := r.config.Pool.QueryRow(ctx, alive, r.config.Tenant).Scan(&report.Leases, &report.Revoking, &report.RunsOut); err != nil {
		return nil, nil, fmt.Errorf("counting leases: %w", err)
	}
	if r.config.Mode == NewInstallation {
		rebound, err := (&sealing.Rebinding{Pool: r.config.Pool, Sealer: r.config.Sealer, From: who.ID, To: who.ID}).Plan(ctx)
		if err != nil {
			return nil, nil, err
		}
		report.carried(rebound)
	}
	return who, report, nil
}

func (p *Report) carried(rebound *sealing.Rebound) {
	p.Secrets, p.Lost = rebound.Values, nil
	for _, v := range rebound.Lost {
		p.Lost = append(p.Lost, v.What)
	}
}

func lists(issuer issuers.Issuer) bool {
	_, ok := issuer.(issuers.Lister)
	return ok
}

// opened are the parts that write, for one installation under one root.
type opened struct {
	recorder *audit.Recorder
	store    *leases.Store
	tokens   *admin.Tokens
}

func (r *Restore) open(ctx context.Context, id string, root *keys.Root) (o opened, err error) {
	if o.recorder, err = audit.New(audit.Config{Installation: id, Tenant: r.config.Tenant, MAC: root.Hasher(keys.AuditMACs)}); err != nil {
		return o, err
	}
	if o.tokens, err = admin.New(admin.Config{Pool: r.config.Pool, Hasher: root.Hasher(keys.AdminTokens), Audit: o.recorder, Tenant: r.config.Tenant, Now: r.config.Now}); err != nil {
		return o, err
	}
	o.store, err = leases.Open(ctx, leases.Config{
		Pool: r.config.Pool, Audit: o.recorder, Handles: root.RowSealer(), Claims: root.Hasher(keys.SessionClaims), Installation: id, Tenant: r.config.Tenant,
		Now: r.config.Now, Logger: r.config.Logger, Writers: 1,
	})
	return o, err
}

// tell gives the targets an epoch, all at once, and returns the highest that they
// know. What goes wrong is in the report: a target that is away hears it from the
// brokers.
func (r *Restore) tell(ctx context.Context, id string, epoch int64) (all []Target, highest int64, err error) {
	targets, closeAll, err := r.config.OpenTargets(ctx, id, epoch)
	if err != nil {
		return nil, 0, err
	}
	defer closeAll()
	names := slices.Sorted(maps.Keys(targets))
	all = make([]Target, len(names))
	known := make([]int64, len(names))
	var telling sync.WaitGroup
	for n, name := range names {
		telling.Go(func() { all[n], known[n] = r.tellOne(ctx, name, targets[name]) })
	}
	telling.Wait()
	return all, slices.Max(append(known, epoch)), nil
}

func (r *Restore) tellOne(ctx context.Context, name string, issuer issuers.Issuer) (Target, int64) {
	t := Target{Issuer: name, Epoch: NoEpoch, Lists: lists(issuer)}
	keeper, ok := issuer.(issuers.EpochKeeper)
	if !ok {
		return t, 0
	}
	ctx, cancel := context.WithTimeoutCause(ctx, targetTime, fmt.Errorf("the target took longer than %s", targetTime))
	defer cancel()
	highest, err := keeper.RaiseEpoch(ctx)
	switch {
	case err == nil:
		t.Epoch = Keeps
	case errors.Is(err, issuers.ErrNoEpoch):
	default:
		t.Epoch = "could not be told: " + err.Error()
	}
	return t, highest
}
