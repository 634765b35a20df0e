package sequencer

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/ids"
)

// BeginAnew empties the log, in the caller's transaction: a copy of a database that
// becomes an installation of its own has a log of its own. Events from before now stay in
// their table, without numbers: they are the other installation's, and stand in its log.
func BeginAnew(ctx context.Context, tx pgx.Tx, now time.Time) error {
	// It only grows, but for this.
	const empty = `
ALTER TABLE audit_log DISABLE TRIGGER USER;
ALTER TABLE audit_nodes DISABLE TRIGGER USER;
TRUNCATE audit_log, audit_nodes, audit_checkpoints;
ALTER TABLE audit_log ENABLE TRIGGER USER;
ALTER TABLE audit_nodes ENABLE TRIGGER USER`
	if _, err := tx.Exec(ctx, empty); err != nil {
		return fmt.Errorf("emptying the audit log: %w", err)
	}
	const begin = `UPDATE audit_sequencer SET settled = $1, begins = $1, founded = true`
	if _, err := tx.Exec(ctx, begin, ids.From(ids.Event, now)); err != nil {
		return fmt.Errorf("beginning the audit log anew: %w", err)
	}
	return nil
}
