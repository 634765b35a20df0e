package fsck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

// Existing is a credential of this installation that stands on a target.
type Existing struct {
	LeaseID string // "" where what stands there doesn't tell
	Name    string // as the target knows it
}

// Lister calls yield for each credential of this installation on one target.
type Lister func(ctx context.Context, yield func(Existing) error) error

// mostListed bounds the memory of a look at one target.
const mostListed = 1_000_000

// targets looks at each of them; one that doesn't answer keeps no other from it.
func (r *run) targets(ctx context.Context) (failed error) {
	for _, name := range slices.Sorted(maps.Keys(r.config.Unlisted)) {
		r.report.Walks = append(r.report.Walks, Walk{Name: "target of " + name, Skipped: r.config.Unlisted[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(r.config.Targets)) {
		if err := r.target(ctx, name, r.config.Targets[name]); err != nil {
			failed = errors.Join(failed, fmt.Errorf("looking at the target of %s: %w", name, err))
		}
	}
	return failed
}

// target compares what stands on one target with the leases. What comes and goes
// while it is listed is told by a second list.
func (r *run) target(ctx context.Context, issuer string, list Lister) (err error) {
	done := Walk{Name: "target of " + issuer}
	defer func() {
		if err != nil {
			done.Skipped = "it could not be looked at"
		}
		r.report.Walks = append(r.report.Walks, done)
	}()
	suspects, listed, err := r.compare(ctx, issuer, list)
	done.Rows = listed
	if err != nil || len(suspects) == 0 {
		return err
	}
	if err := pause(ctx, r.config.Pause); err != nil {
		return err
	}
	again, _, err := r.compare(ctx, issuer, list)
	if err != nil {
		return err
	}
	var still []Finding
	for _, key := range slices.Sorted(maps.Keys(suspects)) {
		if f, there := again[key]; there && f.Check == suspects[key].Check {
			still = append(still, f)
		}
	}
	done.Cut = r.add(new(int), still)
	return nil
}

// compare returns what doesn't fit, by lease id or name.
func (r *run) compare(ctx context.Context, issuer string, list Lister) (wrong map[string]Finding, listed int, err error) {
	standing := map[string]string{} // lease id to name
	wrong = map[string]Finding{}
	err = list(ctx, func(e Existing) error {
		if listed++; listed > mostListed {
			return fmt.Errorf("it holds more than %d credentials", mostListed)
		}
		if !ids.Valid(ids.Lease, e.LeaseID) {
			wrong[e.Name] = orphan(issuer, e, "its name tells no lease")
			return nil
		}
		standing[e.LeaseID] = e.Name
		return nil
	})
	if err != nil {
		return nil, listed, err
	}
	if err := r.orphans(ctx, issuer, standing, wrong); err != nil {
		return nil, listed, err
	}
	return wrong, listed, r.gone(ctx, issuer, standing, wrong)
}

func orphan(issuer string, e Existing, why string) Finding {
	return Finding{
		Check: CheckOrphan, Where: fmt.Sprintf("credential %s on the target of %s", e.Name, issuer), What: "no lease is alive for it: " + why,
		Hint: "nothing takes it back: drop it on the target, or reconcile the issuer",
	}
}

// orphans adds what stands on the target, and whose lease doesn't live. Other
// issuers may have made it there: a lease of any will do.
func (r *run) orphans(ctx context.Context, issuer string, standing map[string]string, wrong map[string]Finding) error {
	leaseIDs := slices.Sorted(maps.Keys(standing))
	for len(leaseIDs) > 0 {
		n := min(len(leaseIDs), r.config.Batch)
		states := map[string]leases.State{}
		const find = `SELECT id, state FROM leases WHERE id = ANY($1) AND id BETWEEN $2 AND $3 AND tenant = $4`
		rows, err := r.config.Pool.Query(ctx, find, leaseIDs[:n], leaseIDs[0], leaseIDs[n-1], r.config.Tenant)
		if err != nil {
			return err
		}
		var id string
		var state leases.State
		if _, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error { states[id] = state; return nil }); err != nil {
			return err
		}
		for _, id := range leaseIDs[:n] {
			switch state, known := states[id]; {
			case !known:
				wrong[id] = orphan(issuer, Existing{id, standing[id]}, "lease "+id+" is not on record")
			case state.Ended():
				wrong[id] = orphan(issuer, Existing{id, standing[id]}, "lease "+id+" is "+string(state))
			}
		}
		leaseIDs = leaseIDs[n:]
	}
	return nil
}

// gone adds active leases whose credential doesn't stand on the target. It reads
// what lives, by the index of that: what is remembered may be a thousand times as much.
func (r *run) gone(ctx context.Context, issuer string, standing map[string]string, wrong map[string]Finding) error {
	const live = `
SELECT policy, grant_name, id, issuer = $5 AND state = 'active', expires_at FROM leases
WHERE tenant = $1 AND state IN ('issuing', 'active') AND (policy, grant_name, id) > ($2, $3, $4) ORDER BY policy, grant_name, id LIMIT $6`
	for policy, grant, id := "", "", ""; ; {
		rows, err := r.config.Pool.Query(ctx, live, r.config.Tenant, policy, grant, id, issuer, r.config.Batch)
		if err != nil {
			return err
		}
		n := 0
		var asked bool
		var end time.Time
		if _, err := pgx.ForEachRow(rows, []any{&policy, &grant, &id, &asked, &end}, func() error {
			n++
			if _, there := standing[id]; asked && !there {
				wrong[id] = Finding{
					Check: CheckGone, Where: "lease " + id, What: fmt.Sprintf("it is active until %s, and the target of %s doesn't know its credential", stamp(end), issuer),
					Hint: "somebody removed it on the target, or the target was restored: whoever holds the lease has to ask for another one",
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if n < r.config.Batch {
			return nil
		}
	}
}
