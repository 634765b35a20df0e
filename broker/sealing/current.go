package sealing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/keys"
)

// current is the data key that seals for a scope.
type current struct {
	*entry

	left     int64 // seals that this broker may still make
	rotateAt time.Time
}

// retryAfter is how long a data key goes on before the HSM is asked again, when it
// was away.
const retryAfter = 10 * time.Second

// current gives the data key that seals for a scope, and counts one seal. While
// the next one can't be had, the former goes on until its life in memory ends.
func (s *Sealer) current(ctx context.Context, of scope) (*keys.DataKey, error) {
	flight := "current " + of.tenant + "\x00" + of.purpose
	refresh := func(ctx context.Context) error { return s.refresh(ctx, of) }
	for range 3 { // others may have used up what one of us has just fetched
		now := s.config.Now()
		s.mu.Lock()
		c := s.currents[of]
		if c != nil && now.Before(c.until) && c.left > 0 {
			c.left--
			key, old := c.key, !now.Before(c.renewAt) || !now.Before(c.rotateAt) || c.left < s.block/4
			s.mu.Unlock()
			if old {
				s.behind(flight, refresh)
			}
			return key, nil
		}
		s.mu.Unlock()
		if err := s.wait(ctx, flight, refresh); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: values are sealed faster than data keys are made", ErrUnavailable)
}

// claim takes a block of seals of the data key that is current: of one that is
// neither too old nor used up.
const claim = `
UPDATE data_keys SET seals = seals + $3
WHERE tenant = $1 AND purpose = $2 AND retired_at IS NULL AND created_at > now() - $4::interval AND seals + $3 <= $5
RETURNING id, sealing_key, wrapped, extract(epoch FROM now() - created_at)::float8`

// refresh fetches the current data key, or makes the next one.
func (s *Sealer) refresh(ctx context.Context, of scope) error {
	for range 3 { // another broker may have made it, and may have used it up
		asked := s.config.Now()
		d := stored{tenant: of.tenant, purpose: of.purpose}
		var age float64
		err := s.config.Pool.QueryRow(ctx, claim, of.tenant, of.purpose, s.block, s.config.KeyAge, s.config.SealsPerKey).Scan(&d.id, &d.sealingKey, &d.wrapped, &age)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			made, err := s.makeNext(ctx, of, asked)
			if err != nil || made {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("taking the current data key: %w: %w", ErrUnavailable, err)
		}
		rotateAt := asked.Add(s.config.KeyAge - time.Duration(age*float64(time.Second)))
		if s.extend(of, d.id, asked) {
			return nil
		}
		e, err := s.entryOf(ctx, &d, asked)
		if err != nil {
			return err
		}
		s.use(of, &current{entry: e, left: s.block, rotateAt: rotateAt})
		return nil
	}
	return fmt.Errorf("%w: other brokers use up data keys faster than this one gets hold of them", ErrUnavailable)
}

// entryOf opens a data key, if it isn't opened already. One whose time to be
// opened anew has come goes on while the HSM is away.
func (s *Sealer) entryOf(ctx context.Context, d *stored, asked time.Time) (*entry, error) {
	s.mu.Lock()
	e := s.opened.get(d.id, asked)
	s.mu.Unlock()
	if e != nil && asked.Before(e.renewAt) {
		return e, nil
	}
	key, err := s.unwrap(ctx, d)
	if err == nil {
		return s.kept(key, asked), nil
	}
	if e != nil && errors.Is(err, ErrUnavailable) {
		s.config.Logger.WarnContext(ctx, "the HSM is away; the data key that is opened goes on until its life's end", "data_key", d.id, "until", e.until, "error", err)
		return &entry{key: e.key, renewAt: asked.Add(retryAfter), until: e.until}, nil
	}
	return nil, err
}

// extend adds a block to a data key that is opened and needn't be opened anew.
func (s *Sealer) extend(of scope, id string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.currents[of]
	if c == nil || c.key.ID() != id || !now.Before(c.renewAt) {
		return false
	}
	c.left += s.block
	return true
}

func (s *Sealer) use(of scope, c *current) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if former := s.currents[of]; former != nil && former.key.ID() == c.key.ID() {
		c.left += former.left
	}
	if len(s.currents) >= s.config.CacheSize {
		clear(s.currents) // what is needed comes back
	}
	s.currents[of] = c
	s.opened.put(c.entry)
}

// makeNext makes a data key and puts it in the place of the one that is too old
// or used up. Of two brokers that do so at once, one finds that it was too late:
// false, and its key was never used.
func (s *Sealer) makeNext(ctx context.Context, of scope, asked time.Time) (bool, error) {
	place := keys.DataKeyPlace{Installation: s.config.Installation, ID: keys.NewDataKeyID(), Tenant: of.tenant, Purpose: of.purpose}
	key, wrapped, err := keys.MakeDataKey(ctx, s.config.Sealer, place)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	const retire = `
UPDATE data_keys SET retired_at = now()
WHERE tenant = $1 AND purpose = $2 AND retired_at IS NULL AND (created_at <= now() - $3::interval OR seals + $4 > $5)`
	const insert = `
INSERT INTO data_keys (id, tenant, purpose, sealing_key, wrapped, seals, created_at) VALUES ($1, $2, $3, $4, $5, $6, now())
ON CONFLICT (tenant, purpose) WHERE retired_at IS NULL DO NOTHING`
	made := false
	err = pgx.BeginFunc(ctx, s.config.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, retire, of.tenant, of.purpose, s.config.KeyAge, s.block, s.config.SealsPerKey); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, insert, place.ID, of.tenant, of.purpose, s.config.Sealer.KeyID(), wrapped, s.block)
		made = tag.RowsAffected() == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("storing data key: %w: %w", ErrUnavailable, err)
	}
	if made {
		s.use(of, &current{entry: s.kept(key, asked), left: s.block, rotateAt: asked.Add(s.config.KeyAge)})
		s.config.Logger.InfoContext(ctx, "a new data key seals from now on", "data_key", place.ID, "tenant", of.tenant, "purpose", of.purpose)
	}
	return made, nil
}
