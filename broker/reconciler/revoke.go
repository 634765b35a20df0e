package reconciler

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/daypass/daypass/issuers"
)

// revokeAll takes the orphans of this run back, unless it is dry or they are more
// than is believed without an operator.
func (c *comparison) revokeAll(ctx context.Context) error {
	var err error
	if c.run.Orphans, c.run.Young, err = c.countSeen(ctx); err != nil || c.run.DryRun || c.run.Orphans == 0 {
		return err
	}
	if most := max(fewOrphans, c.run.Listed/shareOrphans); c.run.Orphans > most && !c.force {
		return fmt.Errorf("%w: %d of the %d credentials on the target have no live lease, and no more than %d are taken back without an operator: "+
			"a wrong configuration or a database restored from an old backup looks like this; nothing was taken back "+
			"(hint: look at them with `daypass lease reconcile --target %[5]s --dry-run`; `daypass lease reconcile --target %[5]s --yes` takes them all back)",
			ErrTooMany, c.run.Orphans, c.run.Listed, most, c.run.Issuer)
	}
	if err := c.original(ctx); err != nil { // listing may have taken a while
		return err
	}
	var failed int
	var first error
	for after := ""; ; {
		if err := c.keepClaim(ctx); err != nil {
			return err
		}
		// No more than are worked on at once: the claim is renewed between.
		batch, err := c.nextOrphans(ctx, after, c.config.Workers)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			break
		}
		after = batch[len(batch)-1].ID
		for _, err := range c.revokeBatch(ctx, batch) {
			if err != nil {
				if failed++; first == nil {
					first = err
				}
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d orphans could not be taken back: %w", failed, c.run.Orphans, first)
	}
	return nil
}

// revokeBatch looks at the leases once more, and takes back what has none.
func (c *comparison) revokeBatch(ctx context.Context, batch []Orphan) []error {
	errs := make([]error, len(batch))
	var leaseIDs []string
	for _, o := range batch {
		if o.LeaseID != "" {
			leaseIDs = append(leaseIDs, o.LeaseID)
		}
	}
	standing, err := c.config.Store.StandingOf(ctx, leaseIDs)
	if err != nil {
		return []error{err}
	}
	var working sync.WaitGroup
	var mu sync.Mutex
	for i, o := range batch {
		if lease, known := standing[o.LeaseID]; known && lease.Live() {
			c.run.Orphans--
			errs[i] = c.endOrphan(ctx, o, stateGone)
			continue
		}
		working.Go(func() {
			errs[i] = c.revoke(ctx, o)
			if errs[i] == nil {
				mu.Lock()
				defer mu.Unlock()
				c.run.Revoked++
			}
		})
	}
	working.Wait()
	return errs
}

// revoke tries once, and writes down what came of it.
func (c *comparison) revoke(ctx context.Context, o Orphan) error {
	err := errors.New("nothing tells which lease it was made for, so it can't be taken back from here: an admin of the target has to")
	if o.LeaseID != "" {
		err = c.askToRevoke(ctx, o)
	}
	// What was done is written down also when the broker is being stopped.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), writeTime, errors.New("recording a revocation took too long"))
	defer cancel()
	if err != nil {
		err = fmt.Errorf("%s: %w", o.Name, err)
		return errors.Join(err, c.failOrphan(ctx, o, err))
	}
	if err := c.endOrphan(ctx, o, stateRevoked); err != nil {
		return err
	}
	if c.config.Observe != nil {
		c.config.Observe.OrphanRevoked(o.Issuer)
	}
	c.config.Logger.WarnContext(ctx, "a credential that no live lease knew was taken back", "issuer", o.Issuer, "name", o.Name, "lease", o.LeaseID, "orphan", o.ID, "why", o.Why)
	return nil
}

func (c *comparison) askToRevoke(ctx context.Context, o Orphan) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("revoking took too long"))
	defer cancel()
	defer func() {
		if recover() != nil { // its value may hold anything: it is not repeated
			err = errors.New("the issuer panicked")
		}
	}()
	res, err := c.config.Targets[o.Issuer].Issuer.Revoke(ctx, &issuers.RevokeRequest{
		Lease: issuers.Lease{Installation: c.config.Installation, Tenant: c.config.Tenant, ID: o.LeaseID},
	})
	switch {
	case err != nil:
		return err
	case res == nil || !res.Found:
		return errors.New("the issuer lists it, and finds nothing to take back: it is not on the target's record, so an admin of the target has to remove it")
	}
	return nil
}
