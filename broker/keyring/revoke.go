package keyring

import (
	"context"
	"fmt"
	"time"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
)

// RefusedError says why something that a person asked for isn't done.
type RefusedError struct{ Text string }

// Error implements error.
func (e *RefusedError) Error() string { return e.Text }

func refused(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// Rotate makes and publishes the next key now, unless one is on its way already,
// and returns it. With atOnce it signs from now on, before verifiers that keep
// the JWKS can know it.
func (r *Ring) Rotate(ctx context.Context, actor string, atOnce bool) (*Key, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	next, err := r.next(ctx, actor)
	if err != nil || !atOnce {
		return next, err
	}
	if err := r.signs(ctx, next); err != nil {
		return nil, err
	}
	done, err := r.inStep(ctx, actor, func(ctx context.Context, s *step) error {
		k, err := s.expect(ctx, next.Number, Published)
		if err != nil {
			return err
		}
		former, err := s.keys(ctx, ` AND state = 'signing'`)
		if err != nil {
			return err
		}
		return s.replace(ctx, former, k)
	})
	if err != nil {
		return nil, err
	}
	if !done {
		return nil, refused("the keys changed meanwhile (hint: `daypassd keys ls`, and once more)")
	}
	return r.key(ctx, next.KeyID)
}

// next brings the next key as far as published.
func (r *Ring) next(ctx context.Context, actor string) (*Key, error) {
	for range 3 {
		if err := r.Refresh(ctx); err != nil {
			return nil, err
		}
		view := r.current.Load()
		if next := view.in(Published); next != nil {
			return next, nil
		}
		if view.in(Making) == nil {
			replaced := 0
			if key := view.signing(); key != nil {
				replaced = key.Number
			}
			if _, err := r.planNext(ctx, actor, replaced); err != nil {
				return nil, err
			}
			continue
		}
		if _, err := r.make(ctx, view); err != nil {
			return nil, err
		}
	}
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	if next := r.current.Load().in(Published); next != nil {
		return next, nil
	}
	return nil, refused("another broker is making the next key just now (hint: `daypassd keys ls` in a minute)")
}

// key finds a key by its id or its label.
func (r *Ring) key(ctx context.Context, name string) (*Key, error) {
	all, err := r.all(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if k := &all[i]; k.KeyID == name || k.Label == name {
			return k, nil
		}
	}
	return nil, refused("there is no signing key %q (hint: `daypassd keys ls` lists them)", name)
}

// Retire ends a key with which nothing has to be verified: one whose tokens have
// run out, or that never signed. name is its id or label.
func (r *Ring) Retire(ctx context.Context, actor, name string) (*Key, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	k, err := r.key(ctx, name)
	if err != nil {
		return nil, err
	}
	switch k.State {
	case Signing:
		return nil, refused("key %s is the one that signs (hint: `daypassd keys rotate` makes the next one; `daypassd keys revoke-key` is for an emergency)", k.KeyID)
	case Retired, Revoked:
		return nil, refused("key %s has ended already, at %s", k.name(), k.EndedAt.Format(time.RFC3339))
	case Retiring:
		at, err := r.leaves(ctx, k)
		if err != nil {
			return nil, err
		}
		view := r.current.Load()
		if view.now.Before(at) {
			return nil, refused("key %s has to verify what it signed until %s; it is retired by itself then (hint: `daypassd keys revoke-key` is for an emergency)", k.KeyID, at.Format(time.RFC3339))
		}
		if err := r.clocksAgree(view); err != nil {
			return nil, refused("key %s can't be retired now: %s", k.KeyID, err)
		}
	default: // it never signed
	}
	done, err := r.retireNow(ctx, actor, k, "retired by hand")
	if err != nil {
		return nil, err
	}
	if !done {
		return nil, refused("the keys changed meanwhile (hint: `daypassd keys ls`, and once more)")
	}
	k, err = r.key(ctx, name)
	if err != nil {
		return nil, err
	}
	return k, r.destroyOne(ctx, k)
}

// Revoke asks for the end of a key before its time.
type Revoke struct {
	Key    string // its id or label
	Actor  string
	Reason string
	// WithoutReplacement revokes the key that signs even where the next one can't be
	// made: nothing is signed then.
	WithoutReplacement bool
}

// Revocation is what became of it.
type Revocation struct {
	Key         string `json:"key"`
	Replacement string `json:"replacement,omitempty"` // signs now, where Key did
	Leases      int    `json:"leases"`                // ended by this call
	// Until is the latest that a verifier which keeps the JWKS may accept what the
	// key signs, by whomever: a thief's tokens have no lease, and any end they like.
	Until time.Time `json:"valid_elsewhere_until"`
	// LastEnd is when the last token with a lease runs out; nil: there was none.
	LastEnd *time.Time `json:"last_lease_expires_at,omitempty"`
	// Undestroyed is why the private key couldn't be destroyed; it is tried again.
	Undestroyed string `json:"undestroyed,omitempty"`
}

func revokedReason(why string) string { return "its signing key was revoked: " + why }

// RevokeKey takes a key out of the JWKS now, lets another one sign where it did,
// ends every lease that it signed, and destroys it. It can be called again after
// an interruption, and goes on where it was.
func (r *Ring) RevokeKey(ctx context.Context, q Revoke) (*Revocation, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	k, err := r.key(ctx, q.Key)
	if err != nil {
		return nil, err
	}
	switch k.State {
	case Making:
		return nil, refused("key %s isn't made yet (hint: `daypassd keys retire %s` gives it up)", k.Label, k.Label)
	case Retired:
		return nil, refused("key %s was retired at %s: nothing that it signed is valid", k.name(), k.EndedAt.Format(time.RFC3339))
	default:
	}
	out := &Revocation{Key: k.KeyID}
	if k.State != Revoked {
		if out.Replacement, err = r.revoke(ctx, k, q); err != nil {
			return nil, err
		}
		r.config.Checkpoint("keys_revoked")
		if err := r.Refresh(ctx); err != nil {
			return nil, err
		}
		if k, err = r.key(ctx, k.KeyID); err != nil {
			return nil, err
		}
	}
	last, err := r.config.Leases.LastSigned(ctx, k.KeyID)
	if err != nil {
		return nil, err
	}
	if k.DestroyedAt == nil {
		if err := r.destroyOne(ctx, k); err != nil {
			out.Undestroyed = err.Error()
		}
	}
	if out.Leases, err = r.endSigned(ctx, k.KeyID, leases.Why{Actor: q.Actor, Reason: revokedReason(k.Reason)}); err != nil {
		return nil, fmt.Errorf("the key is revoked, and %d leases that it signed have ended; the brokers end the rest, or this command, run again: %w", out.Leases, err)
	}
	// A broker that is cut off from the database publishes the key for as long as
	// it believes what it knows, and a verifier may have asked just then.
	out.Until = k.EndedAt.Add(MaxStale + keys.JWKSMaxAge)
	if !last.IsZero() {
		out.LastEnd = &last
	}
	return out, nil
}

// revoke takes the key out, in one transaction with the one that signs instead.
func (r *Ring) revoke(ctx context.Context, k *Key, q Revoke) (replacement string, err error) {
	var next *Key
	if k.State == Signing {
		if next, err = r.next(ctx, q.Actor); err == nil {
			err = r.signs(ctx, next)
		}
		if err != nil && !q.WithoutReplacement {
			return "", fmt.Errorf("the key is NOT revoked, because there would be none to sign with: %w (hint: --without-replacement revokes it all the same, and no JWT is signed until there is another key)", err)
		}
		if err != nil {
			next = nil
		}
	}
	r.config.Checkpoint("keys_before_revoke")
	done, err := r.inStep(ctx, q.Actor, func(ctx context.Context, s *step) error {
		k, err := s.expect(ctx, k.Number, k.State)
		if err != nil {
			return err
		}
		if err := s.apply(ctx, k, change{event: audit.KeyRevoked, set: `state = 'revoked', ended_at = $3, ended_reason = $5`, more: []any{q.Reason}, reason: q.Reason}); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		if next, err = s.expect(ctx, next.Number, Published); err != nil {
			return err
		}
		replacement = next.KeyID
		return s.replace(ctx, nil, next)
	})
	if err == nil && !done {
		err = refused("the key is NOT revoked: the keys changed meanwhile (hint: once more)")
	}
	return replacement, err
}

// endSigned ends what a key signed, batch by batch, until nothing is left that
// isn't held by somebody else.
func (r *Ring) endSigned(ctx context.Context, keyID string, why leases.Why) (total int, err error) {
	for {
		ended, issuers, err := r.config.Leases.EndSigned(ctx, keyID, why)
		total += ended
		if err != nil || ended == 0 {
			return total, err
		}
		for _, issuer := range issuers {
			r.config.Notify(issuer)
		}
		r.config.Checkpoint("keys_swept")
	}
}
