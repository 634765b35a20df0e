package broker

import (
	"context"
	"errors"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// undo gives everything of a failed exchange to the revoker, the caller's
// context or not. Where even that can't be written, what was minted is revoked
// from here, and the lease, still issuing, comes to the revoker by its deadline.
func (b *Broker) undo(ctx context.Context, r *leases.Reservation, orders []*order, reason string) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), undoTimeout, errors.New("undoing a failed exchange took too long"))
	defer cancel()
	leaseIDs := make([]string, len(orders))
	for i, o := range orders {
		leaseIDs[i] = o.lease.ID
	}
	err := b.config.Store.Undo(ctx, r, leases.Why{Actor: "daypassd", Reason: reason})
	if err == nil {
		for _, o := range orders {
			b.config.Notify(o.grant.Issuer)
		}
		return
	}
	b.config.Logger.ErrorContext(ctx, "a failed exchange could not be written down; revoking what it made from here", "error", err, "leases", leaseIDs)
	for _, o := range orders {
		if o.response == nil {
			continue
		}
		if err := b.revoke(ctx, r, o); err != nil {
			b.config.Logger.ErrorContext(ctx, "revoking failed; the revoker will come to it", "error", err, "lease", o.lease.ID)
		}
	}
}

// revoke takes back what an order made, from here.
func (b *Broker) revoke(ctx context.Context, r *leases.Reservation, o *order) (err error) {
	defer func() {
		if recover() != nil { // its value may hold anything: it is not repeated
			err = errPanicked
		}
	}()
	_, err = o.issuer.Revoke(ctx, &issuers.RevokeRequest{Lease: b.named(r, o), Handle: o.response.Handle})
	return err
}

// named is the lease of an order as its issuer knows it.
func (b *Broker) named(r *leases.Reservation, o *order) issuers.Lease {
	return issuers.Lease{
		Installation: b.config.Installation, Tenant: b.config.Tenant, ID: o.lease.ID, Policy: o.grant.Policy, Grant: o.grant.Name, Role: o.grant.Role,
		IssuedAt: r.Now, ExpiresAt: o.lease.ExpiresAt, IssueDeadline: o.lease.IssueDeadline,
	}
}
