package reloader

import (
	"context"
	"slices"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/policies"
)

const (
	// livePage is how many leases are looked at at once.
	livePage = 200
	// Up to so many policies are read one by one; of more, all live leases are.
	fewPolicies = 200
	// sweepAfter is when an exchange that began on the former set has ended for
	// certain, with what it left behind on record.
	sweepAfter = 30 * time.Second
	// countTime is for how long of each interval live leases are counted: a twentieth.
	countTime = interval / 20
)

// lost are live leases that a set wouldn't allow.
type lost struct {
	count int
	shown []string // the first of them
}

func (l *lost) add(page []string) {
	l.count += len(page)
	l.shown = append(l.shown, page[:min(len(page), maxShown-len(l.shown))]...)
}

// lost looks for leases of these policies that a set wouldn't allow.
func (r *Reloader) lost(ctx context.Context, set *policies.Set, changed []string) (lost, error) {
	var found lost
	err := r.eachLost(ctx, set, changed, func(page []string) error {
		found.add(page)
		return nil
	})
	return found, err
}

// eachLost calls f with the leases of these policies that a set wouldn't allow,
// a page at a time.
func (r *Reloader) eachLost(ctx context.Context, set *policies.Set, changed []string, f func(page []string) error) error {
	if len(changed) > fewPolicies {
		return r.eachLostOf(ctx, set, "", func(policy string) bool { return slices.Contains(changed, policy) }, f)
	}
	for _, policy := range changed {
		if err := r.eachLostOf(ctx, set, policy, nil, f); err != nil {
			return err
		}
	}
	return nil
}

// eachLostOf is the same for one policy, or with "" for those that want says;
// nil wants all.
func (r *Reloader) eachLostOf(ctx context.Context, set *policies.Set, policy string, want func(policy string) bool, f func(page []string) error) error {
	page := leases.LivePage{Policy: policy, Digest: set.Digest(), Limit: livePage}
	for {
		gone, last, err := r.lostOn(ctx, set, &page, want)
		if err != nil {
			return err
		}
		if len(gone) > 0 {
			if err := f(gone); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

// lostOn are the leases of one page that a set wouldn't allow. The page is then the
// next one; last says that there is none.
func (r *Reloader) lostOn(ctx context.Context, set *policies.Set, page *leases.LivePage, want func(policy string) bool) (gone []string, last bool, err error) {
	live, end, last, err := r.config.Store.Live(ctx, *page)
	if err != nil {
		return nil, false, err
	}
	for _, l := range live {
		if (want == nil || want(l.Policy)) && !r.allows(ctx, set, &l) {
			gone = append(gone, l.ID)
		}
	}
	page.After = end
	return gone, last, nil
}

// allows: one whose session's claims were changed can't be decided, and is not
// allowed.
func (r *Reloader) allows(ctx context.Context, set *policies.Set, l *leases.Live) bool {
	if l.Forged {
		r.config.Logger.ErrorContext(ctx, "the claims of a lease's session are not those that its job token had: it counts as not allowed", "lease", l.ID)
		return false
	}
	_, err := r.config.Allowed(set, l.Lease, &l.Session)
	return err == nil
}

// sweep is a look at the leases that is to come.
type sweep struct {
	due       time.Time       // zero: none
	changed   []string        // policies
	countOnly bool            // all policies, and nothing is revoked
	counted   leases.LivePage // of countOnly: what is looked at next
	found     lost            // and what was found so far
}

// sweepLater revokes now what a change doesn't allow, and once more when the
// exchanges that began on the former set have ended.
func (r *Reloader) sweepLater(ctx context.Context, changes policies.Changes) {
	if !r.config.Revoke {
		return
	}
	changed := append(slices.Clone(changes.Changed), changes.Removed...)
	if !r.sweep.countOnly {
		changed = append(changed, r.sweep.changed...) // of a change just before this one
	}
	slices.Sort(changed)
	r.sweep = sweep{due: r.config.Now().Add(sweepAfter), changed: slices.Compact(changed)}
	if err := r.revoke(ctx, r.sweep.changed); err != nil {
		r.config.Logger.ErrorContext(ctx, "leases that the policies no longer allow could not all be revoked; it is tried again", "error", err)
	}
}

// revoke takes back what the set in force doesn't allow.
func (r *Reloader) revoke(ctx context.Context, changed []string) error {
	set := r.Set()
	why := leases.Why{Actor: "daypassd", Reason: "the policies no longer allow it, by set " + set.Digest()}
	return r.eachLost(ctx, set, changed, func(page []string) error {
		ended, err := r.config.Store.BeginRevoke(ctx, page, why)
		if err != nil {
			return err
		}
		for _, l := range ended {
			r.config.Notify(l.Issuer)
		}
		return nil
	})
}

// sweepDue does the look that has become due.
func (r *Reloader) sweepDue(ctx context.Context) {
	if r.sweep.due.IsZero() || r.config.Now().Before(r.sweep.due) {
		return
	}
	var err error
	done := true
	if r.sweep.countOnly {
		done, err = r.countOn(ctx)
	} else {
		err = r.revoke(ctx, r.sweep.changed)
	}
	switch {
	case err != nil:
		if ctx.Err() == nil {
			r.config.Logger.WarnContext(ctx, "live leases could not be compared with the policies; it is tried again", "error", err)
		}
		r.sweep.due = r.config.Now().Add(sweepAfter)
	case done:
		r.sweep = sweep{}
	}
}

// countOn counts for a moment, and goes on at the next look: nothing depends on it, and
// there may be millions to compare beside the exchanges.
func (r *Reloader) countOn(ctx context.Context) (done bool, err error) {
	set, began := r.Set(), r.config.Now()
	if r.sweep.counted.Digest != set.Digest() { // from the beginning
		r.sweep.found, r.sweep.counted = lost{}, leases.LivePage{Digest: set.Digest(), Limit: livePage}
	}
	found := &r.sweep.found
	for !done {
		var page []string
		if page, done, err = r.lostOn(ctx, set, &r.sweep.counted, nil); err != nil {
			return false, err
		}
		found.add(page)
		if !done && r.config.Now().Sub(began) >= countTime {
			return false, nil
		}
	}
	r.config.Observe.NoLongerAllowed(found.count)
	if found.count > 0 {
		r.config.Logger.WarnContext(ctx, "leases are alive that the policies no longer allow; they can't be renewed", "digest", set.Digest(), "leases", found.count, "revoked", false, "some", found.shown)
	}
	return true, nil
}
