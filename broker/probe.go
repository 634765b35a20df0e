package broker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/switches"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies"
)

const (
	// One broker of the fleet tries a target at the start of the fleet: those that
	// start within this time of it don't.
	probeWindow = time.Minute
	// A target that failed is tried again this often, until it works.
	probeAgain = time.Minute
	probeTTL   = time.Minute
)

// SystemSession is the provider of the sessions in which the broker tries its
// targets; no provider of job tokens can be called so.
const SystemSession = "system"

// ProbeTargets tries every target that something is made on, once: a real lease
// is reserved, issued and revoked. What fails makes its issuer degraded and is
// tried again until it works. It returns when ctx ends.
func (b *Broker) ProbeTargets(ctx context.Context) {
	since := b.config.Store.Now().Add(-probeWindow)
	for {
		for name, issuer := range b.config.Issuers {
			if !issuer.HasTarget() {
				continue
			}
			if err := b.probeOnce(ctx, name, since); err != nil && ctx.Err() == nil {
				b.config.Logger.WarnContext(ctx, "the broker's database could not take down how a target does", "issuer", name, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(probeAgain):
		}
		// From now on only those that failed.
		since = time.Time{}
	}
}

// HasTarget says whether there is something outside to try.
func (i Issuer) HasTarget() bool {
	if len(i.Roles) == 0 {
		return false
	}
	about := i.Describe(i.Roles[0])
	return !about.SideEffectFree && !about.Inside
}

// probeOnce tries one target, unless another broker has. A zero since stands for
// "only if its last try failed, or was never ended".
func (b *Broker) probeOnce(ctx context.Context, name string, since time.Time) error {
	if off, err := b.config.Switches.Find(ctx, switches.Of{Issuer: name}); off != nil || err != nil {
		return err // nothing is made of what is turned off, not by us either
	}
	if since.IsZero() {
		probes, err := b.config.Store.Probes(ctx)
		if err != nil {
			return err
		}
		for _, p := range probes {
			if p.Issuer == name && p.EndedAt != nil && p.Error == nil {
				return nil
			}
		}
		since = b.config.Store.Now().Add(-probeAgain)
	}
	mine, err := b.config.Store.ClaimProbe(ctx, name, since)
	if err != nil || !mine {
		return err
	}
	failure := ""
	err = b.probe(ctx, name)
	if ctx.Err() != nil {
		return ctx.Err() // we are stopping: it says nothing of the target
	}
	if err != nil {
		failure = err.Error()
		b.config.Logger.WarnContext(ctx, "a target could not be used; its issuer is degraded until it can", "issuer", name, "error", err)
	}
	return b.config.Store.EndProbe(ctx, name, failure)
}

// probe goes the way of any lease.
func (b *Broker) probe(ctx context.Context, name string) error {
	issuer := b.config.Issuers[name]
	role := issuer.Roles[0]
	now := b.config.Store.Now()
	o := &order{issuer: issuer, about: issuer.Describe(role), grant: &policies.Grant{Policy: SystemSession, Name: "probe", Job: SystemSession, Issuer: name, Role: role, TTL: probeTTL}}
	id := ids.New(ids.Session, now)
	reservation := &leases.Reservation{
		Session: leases.Session{
			ID: id, Provider: SystemSession, Issuer: SystemSession, TokenDigest: sha256.Sum256([]byte(id)), Subject: "target probe", Claims: []byte("{}"),
			OpenedAt: now, ExpiresAt: now.Add(2 * probeTTL), TokenExpiresAt: now.Add(2 * probeTTL),
		},
		// A session token that nobody has, since nobody knows what hashes to it.
		Token: leases.Token{Hash: b.config.SessionTokens.Sum("probe", []byte(id)), KeyID: b.config.SessionTokens.KeyID()},
	}
	if err := b.schedule(reservation, []*order{o}, reservation.Session.ExpiresAt, false); err != nil {
		return err
	}
	if err := b.reserveThenIssue(ctx, reservation, []*order{o}); err != nil {
		return err
	}
	ended, err := b.config.Store.BeginRevoke(ctx, []string{o.lease.ID}, leases.Why{Actor: "daypassd", Reason: "the target was tried"})
	if err != nil {
		return err
	}
	ended, err = b.await(ctx, ended)
	if err != nil {
		return err
	}
	if !ended[0].State.Ended() {
		return fmt.Errorf("%w: its user could be made, but not be taken away within %s: %s", issuers.ErrUnavailable, RevokeWait, ended[0].LastError)
	}
	return nil
}

// Degraded says, by issuer, why a target could not be used; "" where it works,
// and nothing where nobody has tried yet.
func (b *Broker) Degraded(ctx context.Context) (map[string]string, error) {
	probes, err := b.config.Store.Probes(ctx)
	if err != nil {
		return nil, errors.Join(errors.New("reading how the targets do"), err)
	}
	state := map[string]string{}
	for _, p := range probes {
		if _, configured := b.config.Issuers[p.Issuer]; !configured || (p.EndedAt == nil && p.Error == nil) {
			continue
		}
		state[p.Issuer] = ""
		if p.Error != nil {
			state[p.Issuer] = *p.Error
		}
	}
	return state, nil
}
