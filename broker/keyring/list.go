package keyring

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/keys"
)

// Listed is a key as people see it.
type Listed struct {
	Key
	Since  time.Time // since when it is in its state
	Next   string    // what happens next
	NextAt time.Time // and when; zero: at once, or not by itself
}

func (r *Ring) all(ctx context.Context) ([]Key, error) {
	rows, err := r.config.Pool.Query(ctx, selectKeys+` ORDER BY number DESC LIMIT 1000`, r.config.Tenant)
	if err != nil {
		return nil, unavailable("listing signing keys", err)
	}
	all, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return nil, unavailable("listing signing keys", err)
	}
	return all, nil
}

// List tells of all keys, the newest first, those that have ended included.
func (r *Ring) List(ctx context.Context) ([]Listed, error) {
	all, err := r.all(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Listed, len(all))
	for i, k := range all {
		l := Listed{Key: k}
		switch k.State {
		case Making:
			l.Since, l.Next = k.CreatedAt, "is made in the HSM"
		case Published:
			l.Since, l.Next, l.NextAt = *k.PublishedAt, "signs", *k.SignsFrom
		case Signing:
			l.Since, l.Next = *k.SigningSince, "signs until it is rotated by hand"
			if r.config.RotateEvery > 0 {
				l.Next, l.NextAt = "next key is published", k.SigningSince.Add(r.config.RotateEvery-keys.RotationLead)
			}
		case Retiring:
			l.Since, l.Next = *k.RetiringSince, "leaves the JWKS"
			if l.NextAt, err = r.leaves(ctx, &k); err != nil {
				return nil, err
			}
		case Retired, Revoked:
			l.Since, l.Next = *k.EndedAt, "is destroyed in the HSM"
			if k.DestroyedAt != nil {
				l.Next = "-"
			}
		}
		list[i] = l
	}
	for i := range list {
		// What is on its way is the answer to when.
		if list[i].State == Signing {
			for _, other := range all {
				if other.State == Published {
					list[i].Next, list[i].NextAt = "retires", *other.SignsFrom
				}
			}
		}
	}
	return list, nil
}
