package keyring

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
)

// Done is one step that was taken.
type Done struct {
	Step string // planned, published, promoted, retired, destroyed, swept
	Key  string // its id, or the label of one that has none
}

// daypassd is who takes the steps that come by themselves.
const daypassd = "daypassd"

// RunOnce takes each step that is due, and says which ones it took. What another
// broker took first isn't among them. An error of one step doesn't keep the
// others from being taken.
func (r *Ring) RunOnce(ctx context.Context) (done []Done, err error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	for _, take := range []func(context.Context, *snapshot) ([]Done, error){r.plan, r.make, r.promote, r.retire, r.destroy, r.sweep} {
		took, failed := take(ctx, r.current.Load())
		err = errors.Join(err, failed)
		if len(took) == 0 {
			continue
		}
		for _, d := range took {
			r.config.Logger.InfoContext(ctx, "a signing key's life went on", "step", d.Step, "key", d.Key)
		}
		done = append(done, took...)
		if failed := r.Refresh(ctx); failed != nil {
			return done, errors.Join(err, failed)
		}
	}
	return done, err
}

// plan decides that there will be a next key, in time for its lead.
func (r *Ring) plan(ctx context.Context, s *snapshot) ([]Done, error) {
	if s.in(Making) != nil || s.in(Published) != nil {
		return nil, nil
	}
	key := s.signing()
	if key != nil && (r.config.RotateEvery == 0 || s.now.Before(key.SigningSince.Add(r.config.RotateEvery-keys.RotationLead))) {
		return nil, nil
	}
	replaced := 0
	if key != nil {
		replaced = key.Number
	}
	label, err := r.planNext(ctx, daypassd, replaced)
	if label == "" || err != nil {
		return nil, err
	}
	return []Done{{"planned", label}}, nil
}

// planNext puts the next key on record, to be made: instead of the one of that
// number, or of none (0), which must still be the one that signs. It returns the
// label, or "" when somebody else was first.
func (r *Ring) planNext(ctx context.Context, actor string, instead int) (label string, err error) {
	// A label that is taken already is somebody else's key, not one that a crash left
	// behind: that one's label was on record before it was made.
	held, err := r.config.Store.List(ctx)
	if err != nil {
		return "", fmt.Errorf("planning the next signing key: %w", err)
	}
	r.config.Checkpoint("keys_before_plan")
	done, err := r.inStep(ctx, actor, func(ctx context.Context, s *step) error {
		all, err := s.keys(ctx, ` ORDER BY number`)
		if err != nil {
			return err
		}
		signing := 0
		for _, k := range all {
			switch k.State {
			case Making, Published:
				return errLost
			case Signing:
				signing = k.Number
			default:
			}
		}
		if signing != instead {
			return errLost
		}
		number := 1
		if len(all) > 0 {
			number = all[len(all)-1].Number + 1
		}
		p := r.config.Pair
		for ; ; number++ {
			label = p.Label + "-" + strconv.Itoa(number)
			taken := func(i keys.Info) bool { return i.Label == label }
			if !slices.ContainsFunc(held, taken) && !slices.ContainsFunc(all, func(k Key) bool { return k.Label == label }) {
				break
			}
		}
		if _, err := s.Exec(ctx, insertKey, s.tenant, number, label, p.Algorithm, p.Bits, string(Making), s.now, nil, nil, nil, 1); err != nil {
			return err
		}
		return s.record(ctx, audit.KeyPlanned, label, 1, map[string]any{"label": label, "algorithm": p.Algorithm})
	})
	r.config.Checkpoint("keys_planned")
	if !done {
		label = ""
	}
	return label, err
}

const (
	tryMaking = `SELECT pg_try_advisory_lock(hashtextextended('daypass signing key ' || $1, 0))`
	endMaking = `SELECT pg_advisory_unlock(hashtextextended('daypass signing key ' || $1, 0))`
)

// make makes the key that is planned, inside the HSM, and publishes it.
func (r *Ring) make(ctx context.Context, view *snapshot) (_ []Done, err error) {
	planned := view.in(Making)
	if planned == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, makeTimeout, errors.New("making a signing key took too long"))
	defer cancel()
	// One at a time: not every HSM refuses a second key of the same label. A lock of
	// the session, not of a transaction, which mustn't stay open that long; it ends
	// with the connection.
	conn, err := r.config.Locks.Acquire(ctx)
	if err != nil {
		return nil, unavailable("making a signing key", err)
	}
	defer conn.Release()
	var mine bool
	if err := conn.QueryRow(ctx, tryMaking, planned.Label).Scan(&mine); err != nil {
		return nil, unavailable("making a signing key", err)
	}
	if !mine {
		return nil, nil
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if _, failed := conn.Exec(ending, endMaking, planned.Label); failed != nil {
			err = errors.Join(err, unavailable("making a signing key", failed))
		}
	}()
	var still bool
	const isStill = `SELECT EXISTS (SELECT FROM signing_keys WHERE tenant = $1 AND number = $2 AND state = 'making')`
	if err := conn.QueryRow(ctx, isStill, r.config.Tenant, planned.Number).Scan(&still); err != nil {
		return nil, unavailable("making a signing key", err)
	}
	if !still {
		return nil, nil
	}
	r.config.Checkpoint("keys_before_make")
	// Where a crash came between the making and the record of it, the key is there
	// under its label, and is taken.
	signer, err := r.openOrMake(ctx, keys.Pair{Label: planned.Label, Algorithm: planned.Algorithm, Bits: planned.Bits}, true)
	if err != nil {
		return nil, err
	}
	r.config.Checkpoint("keys_made")
	published, err := r.publish(ctx, planned, signer)
	r.config.Checkpoint("keys_published")
	if !published || err != nil {
		return nil, err
	}
	return []Done{{"published", signer.KeyID()}}, nil
}

// publish puts a key that was made on record.
func (r *Ring) publish(ctx context.Context, planned *Key, signer keys.Signer) (bool, error) {
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return false, fmt.Errorf("encoding public key %s: %w", signer.KeyID(), err)
	}
	return r.inStep(ctx, daypassd, func(ctx context.Context, s *step) error {
		k, err := s.expect(ctx, planned.Number, Making)
		if err != nil {
			return err
		}
		from := s.now.Add(keys.RotationLead)
		k.KeyID, k.events = signer.KeyID(), 0 // its events so far are those of its label
		return s.apply(ctx, k, change{
			event: audit.KeyPublished, set: `state = 'published', published_at = $3, kid = $5, public_key = $6, signs_from = $7`,
			more: []any{k.KeyID, public, from}, data: map[string]any{"signs_from": from},
		})
	})
}

// promote lets the next key sign once its time has come, or at once where none does.
func (r *Ring) promote(ctx context.Context, view *snapshot) ([]Done, error) {
	next := view.in(Published)
	if next == nil {
		return nil, nil
	}
	if view.signing() != nil {
		if view.now.Before(*next.SignsFrom) {
			return nil, nil
		}
		if err := r.clocksAgree(view); err != nil {
			return nil, fmt.Errorf("promoting signing key %s: %w", next.KeyID, err)
		}
	}
	if err := r.signs(ctx, next); err != nil {
		return nil, err
	}
	r.config.Checkpoint("keys_before_promote")
	done, err := r.inStep(ctx, daypassd, func(ctx context.Context, s *step) error {
		k, err := s.expect(ctx, next.Number, Published)
		if err != nil {
			return err
		}
		former, err := s.keys(ctx, ` AND state = 'signing'`)
		if err != nil {
			return err
		}
		if len(former) > 0 && s.now.Before(*k.SignsFrom) {
			return errLost // by a clock that was set back since we looked
		}
		return s.replace(ctx, former, k)
	})
	r.config.Checkpoint("keys_promoted")
	if !done || err != nil {
		return nil, err
	}
	return []Done{{"promoted", next.KeyID}}, nil
}

// replace makes a key the one that signs, and lets the former one retire.
func (s *step) replace(ctx context.Context, former []Key, next *Key) error {
	for i := range former {
		if err := s.apply(ctx, &former[i], change{
			event: audit.KeyRetiring, set: `state = 'retiring', retiring_since = $3`, data: map[string]any{"successor": next.KeyID},
		}); err != nil {
			return err
		}
	}
	return s.apply(ctx, next, change{event: audit.KeySigning, set: `state = 'signing', signing_since = $3`})
}

// signs says whether this broker can sign with a key: nobody promotes what they
// couldn't use themselves.
func (r *Ring) signs(ctx context.Context, k *Key) error {
	r.mu.Lock()
	signer := r.opened[k.KeyID]
	r.mu.Unlock()
	if signer == nil {
		var err error
		if signer, err = r.open(ctx, *k); err != nil {
			return fmt.Errorf("signing key %s (%s) doesn't open here, and is not promoted: %w", k.KeyID, k.Label, err)
		}
	}
	if err := keys.SelfTest(signer); err != nil {
		return fmt.Errorf("signing key %s (%s) doesn't sign, and is not promoted: %w", k.KeyID, k.Label, err)
	}
	return nil
}

// clocksAgree refuses to act by time when the two clocks at hand tell different ones.
func (r *Ring) clocksAgree(view *snapshot) error {
	if apart := view.readAt.Sub(view.now).Abs(); apart > MaxApart {
		return fmt.Errorf("the clocks of this broker and of the database are %s apart (hint: set both by NTP; the keys stay as they are until then)", apart.Round(time.Second))
	}
	return nil
}

// leaves is when a retiring key may go: known for good once it has settled.
func (r *Ring) leaves(ctx context.Context, k *Key) (at time.Time, err error) {
	last, err := r.config.Leases.LastSigned(ctx, k.KeyID)
	if err != nil {
		return time.Time{}, err
	}
	at = k.RetiringSince.Add(settles)
	if last.After(at) {
		at = last
	}
	return at.Add(leeway), nil
}

// retire takes keys out of the JWKS with which nothing has to be verified any more.
func (r *Ring) retire(ctx context.Context, view *snapshot) (done []Done, err error) {
	for i := range view.keys {
		k := &view.keys[i]
		if k.State != Retiring || view.now.Before(k.RetiringSince.Add(settles+leeway)) {
			continue
		}
		at, failed := r.leaves(ctx, k)
		if failed == nil && view.now.Before(at) {
			continue
		}
		if failed == nil {
			failed = r.clocksAgree(view)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("retiring signing key %s: %w", k.KeyID, failed))
			continue
		}
		r.config.Checkpoint("keys_before_retire")
		did, failed := r.retireNow(ctx, daypassd, k, "the last token that it signed has run out")
		err = errors.Join(err, failed)
		if did {
			done = append(done, Done{"retired", k.KeyID})
		}
	}
	return done, err
}

func (r *Ring) retireNow(ctx context.Context, actor string, k *Key, reason string) (bool, error) {
	done, err := r.inStep(ctx, actor, func(ctx context.Context, s *step) error {
		k, err := s.expect(ctx, k.Number, k.State)
		if err != nil {
			return err
		}
		return s.apply(ctx, k, change{event: audit.KeyRetired, set: `state = 'retired', ended_at = $3, ended_reason = $5`, more: []any{reason}, reason: reason})
	})
	r.config.Checkpoint("keys_retired")
	return done, err
}

// destroy destroys the private keys of those that have ended: again, until it is
// on record.
func (r *Ring) destroy(ctx context.Context, view *snapshot) (done []Done, err error) {
	for i := range view.keys {
		k := &view.keys[i]
		if k.EndedAt == nil || k.DestroyedAt != nil {
			continue
		}
		if failed := r.destroyOne(ctx, k); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		done = append(done, Done{"destroyed", k.name()})
	}
	return done, err
}

func (r *Ring) destroyOne(ctx context.Context, k *Key) error {
	r.config.Checkpoint("keys_before_destroy")
	signer, err := r.config.Store.OpenSigner(ctx, keys.Pair{Label: k.Label, Algorithm: k.Algorithm, Bits: k.Bits})
	switch {
	case errors.Is(err, keys.ErrNoKey):
	case err != nil:
		return fmt.Errorf("destroying signing key %s: %w", k.name(), err)
	case k.KeyID != "" && signer.KeyID() != k.KeyID:
		r.config.Logger.WarnContext(ctx, "a signing key that has ended is gone from the HSM; what has its label is another key, and stays", "key", k.KeyID, "label", k.Label, "other", signer.KeyID())
	default:
		if err := r.config.Store.Destroy(ctx, k.Label); err != nil && !errors.Is(err, keys.ErrNoKey) {
			return fmt.Errorf("destroying signing key %s: %w", k.name(), err)
		}
	}
	r.config.Checkpoint("keys_destroyed")
	const destroyed = `UPDATE signing_keys SET destroyed_at = clock_timestamp() WHERE tenant = $1 AND number = $2 AND destroyed_at IS NULL`
	if _, err := r.config.Pool.Exec(ctx, destroyed, r.config.Tenant, k.Number); err != nil {
		return unavailable("recording the end of a signing key", err)
	}
	return nil
}

// sweep ends what a revoked key signed and nobody ended yet: the rest of a
// revocation that was interrupted, and what a broker put on record that hadn't
// noticed it.
func (r *Ring) sweep(ctx context.Context, view *snapshot) (done []Done, err error) {
	for i := range view.keys {
		k := &view.keys[i]
		if k.State != Revoked {
			continue
		}
		ended, failed := r.endSigned(ctx, k.KeyID, leases.Why{Actor: daypassd, Reason: revokedReason(k.Reason)})
		err = errors.Join(err, failed)
		if ended > 0 {
			done = append(done, Done{"swept", k.KeyID})
		}
	}
	return done, err
}
