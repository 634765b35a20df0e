package instance

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/migrations"
)

// Base is what the database and the sealing key alone give: enough for admin
// tokens, without issuers or policies.
type Base struct {
	Pool         *pgxpool.Pool
	Installation string
	Identity     installation.Identity
	Root         *keys.Root
	Recorder     *audit.Recorder
	Tokens       *admin.Tokens

	sealing    sealing.Config // of Sealer
	formerMACs []*keys.Hasher // of the audit log, by roots that were replaced
}

// OpenBase opens the database, refuses a schema that is too old and a copy, and
// opens the root.
func OpenBase(ctx context.Context, database *pgxpool.Config, sealer keys.Sealer, now func() time.Time) (*Base, error) {
	pool, err := pgxpool.NewWithConfig(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	b := &Base{Pool: pool}
	if err := b.open(ctx, sealer, now); err != nil {
		pool.Close()
		return nil, err
	}
	return b, nil
}

func (b *Base) open(ctx context.Context, sealer keys.Sealer, now func() time.Time) (err error) {
	if err := b.Pool.Ping(ctx); err != nil {
		return fmt.Errorf("reaching the broker's database: %w", err)
	}
	if err := migrations.Check(ctx, b.Pool); err != nil {
		return err
	}
	identity, err := installation.Original(ctx, b.Pool)
	if err != nil {
		return err
	}
	b.Identity, b.Installation = *identity, identity.ID
	if b.Root, err = installation.OpenRoot(ctx, b.Pool, sealer, b.Installation); err != nil {
		return err
	}
	if err := b.prepareSealing(ctx, sealer, now); err != nil {
		return err
	}
	if b.Recorder, err = audit.New(audit.Config{
		Installation: b.Installation, Tenant: Tenant, MAC: b.Root.Hasher(keys.AuditMACs), Former: b.formerMACs,
	}); err != nil {
		return err
	}
	b.Tokens, err = admin.New(admin.Config{Pool: b.Pool, Hasher: b.Root.Hasher(keys.AdminTokens), Audit: b.Recorder, Tenant: Tenant, Now: now, Since: b.Identity.Since})
	return err
}

// prepareSealing takes the sealing key up, and finds what opens old values.
func (b *Base) prepareSealing(ctx context.Context, sealer keys.Sealer, now func() time.Time) error {
	b.sealing = sealing.Config{Pool: b.Pool, Sealer: sealer, Installation: b.Installation, Now: now, Former: []*keys.RowSealer{b.Root.RowSealer()}}
	if err := b.Wrapping().Adopt(ctx, false); err != nil {
		return err
	}
	retired, err := installation.RetiredRoots(ctx, b.Pool, sealer, b.Installation)
	if err != nil {
		return err
	}
	for _, root := range retired {
		b.sealing.Former = append(b.sealing.Former, root.RowSealer())
		b.formerMACs = append(b.formerMACs, root.Hasher(keys.AuditMACs))
	}
	return nil
}

// Wrapping tells what wraps what, and wraps it anew.
func (b *Base) Wrapping() *sealing.Wrapping {
	return &sealing.Wrapping{Pool: b.Pool, Sealer: b.sealing.Sealer, Installation: b.Installation}
}

// Sealer makes what seals the values of rows. Who makes it closes it, before the
// pool.
func (b *Base) Sealer(logger *slog.Logger, observe sealing.Observer) (*sealing.Sealer, error) {
	config := b.sealing
	config.Logger, config.Observe = logger, observe
	return sealing.New(config)
}
