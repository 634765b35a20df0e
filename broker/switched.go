package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/switches"
	"github.com/daypass/daypass/policies"
)

// checkSwitches refuses what is turned off, once the time of the reservation is
// set: the database refuses one that comes long after it, so that what a broker
// was about to do when it was stopped for a while isn't done after the switch.
//
// It comes after the decision: who may not have a grant is told what anybody is.
func (b *Broker) checkSwitches(ctx context.Context, r *leases.Reservation, orders []*order) error {
	for _, o := range orders {
		if err := b.config.Switches.Check(ctx, switches.Of{
			Provider: r.Session.Provider, Policy: o.grant.Policy, Grant: o.grant.Name, Issuer: o.grant.Issuer,
		}); err != nil {
			return err
		}
	}
	return nil
}

// Switchable says whether there is something of that name here that can be
// turned off.
func (b *Broker) Switchable(kind switches.Kind, name string) bool {
	switch kind {
	case switches.Provider:
		_, known := b.config.Verifier.Provider(name)
		return known
	case switches.Issuer:
		_, known := b.config.Issuers[name]
		return known
	case switches.Grant:
		return slices.ContainsFunc(b.config.Policies().Grants(), func(g policies.GrantInfo) bool { return g.Name == name })
	case switches.Policy:
		return slices.ContainsFunc(b.config.Policies().Grants(), func(g policies.GrantInfo) bool { return strings.HasPrefix(g.Name, name+"/") })
	}
	return false
}

// noteSwitches adds to an explanation that a decision alone brings nothing.
func (b *Broker) noteSwitches(ctx context.Context, out *Explained, provider, grant string) {
	of := switches.Of{Provider: provider}
	of.Policy, of.Grant, _ = strings.Cut(grant, "/")
	for _, g := range b.config.Policies().Grants() {
		if g.Name == grant {
			of.Issuer = g.Issuer
		}
	}
	off, err := b.config.Switches.Find(ctx, of)
	if err != nil || off == nil {
		return
	}
	note := fmt.Sprintf("whatever the policies say: %s %s has been turned off since %s by %s, because: %s (hint: `daypass switch on %[1]s %[2]s`)",
		off.Kind, off.Name, off.ChangedAt.UTC().Format("2006-01-02 15:04:05 MST"), off.Actor, off.Reason)
	if out.Note != "" {
		note = out.Note + "; " + note
	}
	out.Note = note
}
