package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/issuers"
)

// restored is what a promotion leaves to do (package restore): every target that
// can list is compared with what is on record before the broker is ready.
type restored struct {
	identity installation.Identity
	done     atomic.Bool // it stays so: an epoch is over with its broker
}

// sayRestored says what is left to compare, while the installation is one that
// was promoted.
func (i *Instance) sayRestored(ctx context.Context, r *httpapi.Readiness) {
	if i.restored.identity.Why != installation.Promoted {
		return
	}
	waiting, without := i.unreconciled(ctx)
	told := "ok"
	if len(waiting) > 0 {
		r.Ready = false
		told = "not compared with what is on record since the promotion: " + strings.Join(waiting, ", ")
	}
	if len(without) > 0 {
		told += "; they can't say what stands on them, so look there for what was made after the backup: " + strings.Join(without, ", ")
	}
	r.Checks["restore"] = told
}

// unreconciled names the issuers whose targets have not been compared yet, and
// those whose targets can't be.
func (i *Instance) unreconciled(ctx context.Context) (waiting, without []string) {
	for name, issuer := range i.issuers {
		if !issuer.HasTarget() {
			continue // nothing of it stands outside
		}
		if _, can := issuer.Issuer.(issuers.Lister); can {
			waiting = append(waiting, name)
		} else {
			without = append(without, name)
		}
	}
	slices.Sort(waiting)
	slices.Sort(without)
	if len(waiting) == 0 || i.restored.done.Load() {
		return nil, without
	}
	compared, err := i.reconciled(ctx)
	if err != nil {
		i.config.Logger.WarnContext(ctx, "which targets were compared since the promotion could not be read", "error", err)
	}
	waiting = slices.DeleteFunc(waiting, func(name string) bool { return slices.Contains(compared, name) })
	if len(waiting) == 0 {
		i.restored.done.Store(true)
	}
	return waiting, without
}

// reconciled are the issuers of which a comparison in this epoch ended well.
func (i *Instance) reconciled(ctx context.Context) ([]string, error) {
	const compared = `
SELECT DISTINCT issuer FROM reconciliations WHERE tenant = $1 AND epoch >= $2 AND ended_at IS NOT NULL AND error IS NULL AND NOT dry_run AND young = 0`
	rows, err := i.pool.Query(ctx, compared, Tenant, i.restored.identity.Epoch)
	if err != nil {
		return nil, fmt.Errorf("reading reconciliations: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading reconciliations: %w", err)
	}
	return names, nil
}

const (
	epochTime  = 10 * time.Second // for one target to take the epoch
	epochAgain = 30 * time.Second
)

// raiseEpochs tells every target the epoch, those that were away when the command
// did it among them, so that an older copy is refused there from then on. Without
// an epoch there is nothing to tell.
func (i *Instance) raiseEpochs(ctx context.Context) {
	i.noteTimeline(ctx)
	if i.restored.identity.Epoch == 0 {
		return
	}
	left := map[string]issuers.EpochKeeper{}
	for name, issuer := range i.issuers {
		if keeper, ok := issuer.Issuer.(issuers.EpochKeeper); ok {
			left[name] = keeper
		}
	}
	for len(left) > 0 {
		for name, keeper := range left {
			if i.raiseEpoch(ctx, name, keeper) {
				delete(left, name)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(epochAgain):
		}
	}
}

// raiseEpoch returns false when it is to be tried again.
func (i *Instance) raiseEpoch(ctx context.Context, name string, keeper issuers.EpochKeeper) bool {
	within, cancel := context.WithTimeoutCause(ctx, epochTime, fmt.Errorf("the target took longer than %s", epochTime))
	defer cancel()
	highest, err := keeper.RaiseEpoch(within)
	ours := i.restored.identity.Epoch
	switch {
	case errors.Is(err, issuers.ErrNoEpoch):
		i.config.Logger.WarnContext(ctx, "a target doesn't keep the epoch: an older copy of this broker's database could still be used with it", "issuer", name, "error", err)
	case err != nil:
		if ctx.Err() == nil {
			i.config.Logger.WarnContext(ctx, "a target could not be told the epoch; it is tried again", "issuer", name, "error", err)
		}
		return false
	case highest > ours:
		i.config.Logger.ErrorContext(ctx, "a target has seen a later epoch: this broker's database is an older copy, and can neither issue nor revoke there "+
			"(hint: point `database` at the one that was promoted last)", "issuer", name, "epoch", ours, "seen", highest)
	}
	return true
}

// noteTimeline tells when the database's server began another timeline: at a
// failover that is as it should be, and after a restore to a point in time
// somebody has to say so.
func (i *Instance) noteTimeline(ctx context.Context) {
	identity := i.restored.identity
	rose, err := installation.SawTimeline(ctx, i.pool, &identity)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			i.config.Logger.WarnContext(ctx, "the database server's timeline could not be written down", "error", err)
		}
	case rose:
		i.config.Logger.WarnContext(ctx, "the database's server is on another timeline than before: after a failover nothing has to be done; "+
			"if a backup was restored, stop the brokers and run `daypassd restore --promote`", "timeline", identity.Timeline, "before", identity.SeenTimeline)
	}
}
