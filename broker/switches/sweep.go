package switches

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/leases"
)

const (
	// page is how many live leases are looked at, and at the most taken back, at once.
	page = 500
	// between two looks for the leases of a switch: those of exchanges that were
	// under way when it was turned are found by the next.
	between = 2 * Late
	// idle is how often the one who sweeps looks whether there is something to
	// sweep, without being told.
	idle = 5 * time.Second
)

// Sweep takes back the leases of what was turned off with revoke, until ctx ends.
// One broker of the fleet does it; where two do for a moment, each lease is taken
// back once all the same. What is to be swept stands in the switch's row, and
// whoever does it begins anew where another was killed.
func (s *Store) Sweep(ctx context.Context) {
	for ctx.Err() == nil {
		open, err := s.SweepOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.config.Logger.WarnContext(ctx, "leases of what is turned off could not all be taken back; it is tried again", "error", err)
		}
		pause := idle
		if open > 0 || err != nil {
			pause = between / 4
		}
		select {
		case <-ctx.Done():
		case <-s.sweep:
		case <-time.After(pause):
		}
	}
}

// sweeping is one switch whose leases are taken back.
type sweeping struct {
	Switch

	events int // tells whether it was changed meanwhile
	last   bool
}

// SweepOnce looks once for the leases of each switch that is being swept, and
// returns how many switches have to be swept again: those that weren't turned
// longer ago than [Settled] when it began to look.
func (s *Store) SweepOnce(ctx context.Context) (open int, err error) {
	const list = `SELECT ` + columns + `, events, sweep_until < clock_timestamp() FROM switches WHERE tenant = $1 AND sweep_until IS NOT NULL ORDER BY changed_at`
	rows, err := s.config.Pool.Query(ctx, list, s.config.Tenant)
	if err != nil {
		return 0, unavailable("looking for what is to be swept", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w sweeping, err error) {
		return w, row.Scan(&w.Kind, &w.Name, &w.Off, &w.Reason, &w.Actor, &w.ChangedAt, &w.SweepUntil, &w.Swept, &w.events, &w.last)
	})
	if err != nil {
		return 0, unavailable("looking for what is to be swept", err)
	}
	var failed []error
	for _, w := range all {
		done, err := s.sweepOne(ctx, &w)
		if err != nil {
			failed = append(failed, err)
		}
		if !done {
			open++
		}
	}
	return open, errors.Join(failed...)
}

// sweepOne looks once through the live leases of a switch. done says that none
// can come any more, or that it was turned again.
func (s *Store) sweepOne(ctx context.Context, w *sweeping) (done bool, err error) {
	which := leases.LiveOf{Limit: page}
	switch w.Kind {
	case Provider:
		which.Provider = w.Name
	case Policy:
		which.Policy = w.Name
	case Grant:
		which.Policy, which.Grant, _ = strings.Cut(w.Name, "/")
	case Issuer:
		which.Issuer = w.Name
	}
	why := leases.Why{Actor: w.Actor, Reason: (&OffError{w.Kind, w.Name}).Error() + ": " + w.Reason}
	for last := false; !last; {
		var found []string
		if found, which.After, last, err = s.config.Leases.LiveIDs(ctx, which); err != nil {
			return false, err
		}
		if len(found) == 0 {
			continue
		}
		ended, err := s.config.Leases.BeginRevoke(ctx, found, why)
		if err != nil {
			return false, err
		}
		woken := map[string]bool{}
		for _, l := range ended {
			if !woken[l.Issuer] {
				woken[l.Issuer] = true
				s.config.Notify(l.Issuer)
			}
		}
		const count = `UPDATE switches SET swept = swept + $4 WHERE tenant = $1 AND kind = $2 AND name = $3 AND events = $5 AND sweep_until IS NOT NULL`
		tag, err := s.config.Pool.Exec(ctx, count, s.config.Tenant, w.Kind, w.Name, len(ended), w.events)
		if err != nil {
			return false, unavailable("counting what was swept", err)
		}
		if tag.RowsAffected() == 0 {
			return false, nil // it was turned again: the next look does what is asked for then
		}
	}
	if !w.last {
		return false, nil
	}
	const end = `UPDATE switches SET sweep_until = NULL WHERE tenant = $1 AND kind = $2 AND name = $3 AND events = $4`
	if _, err := s.config.Pool.Exec(ctx, end, s.config.Tenant, w.Kind, w.Name, w.events); err != nil {
		return false, unavailable("ending a sweep", err)
	}
	return true, nil
}
