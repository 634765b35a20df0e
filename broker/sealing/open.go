package sealing

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/keys"
)

// cache holds opened data keys, the least used of which goes first. Go lets
// nobody wipe a cipher's key schedule: what is forgotten here is for the garbage
// collector, which writes over it in its own time.
type cache struct {
	size  int
	byID  map[string]*list.Element // of *entry
	order *list.List               // the last used in front
}

type entry struct {
	key            *keys.DataKey
	renewAt, until time.Time
}

func newCache(size int) cache {
	return cache{size: size, byID: map[string]*list.Element{}, order: list.New()}
}

func (c *cache) get(id string, now time.Time) *entry {
	at, ok := c.byID[id]
	if !ok {
		return nil
	}
	e := at.Value.(*entry) // the list holds nothing else
	if !now.Before(e.until) {
		c.forget(id)
		return nil
	}
	c.order.MoveToFront(at)
	return e
}

func (c *cache) put(e *entry) {
	c.forget(e.key.ID())
	c.byID[e.key.ID()] = c.order.PushFront(e)
	for c.order.Len() > c.size {
		c.forget(c.order.Back().Value.(*entry).key.ID())
	}
}

func (c *cache) forget(id string) {
	if at, ok := c.byID[id]; ok {
		c.order.Remove(at)
		delete(c.byID, id)
	}
}

// kept makes the entry of a data key that was asked for at a time.
func (s *Sealer) kept(key *keys.DataKey, asked time.Time) *entry {
	return &entry{key: key, renewAt: asked.Add(s.config.CacheLife / 2), until: asked.Add(s.config.CacheLife)}
}

// open gives a data key by its id.
func (s *Sealer) open(ctx context.Context, id string) (*keys.DataKey, error) {
	flight := "open " + id
	load := func(ctx context.Context) error { return s.load(ctx, id) }
	for range 2 {
		now := s.config.Now()
		s.mu.Lock()
		e := s.opened.get(id, now)
		s.mu.Unlock()
		if e != nil {
			if !now.Before(e.renewAt) {
				s.behind(flight, load)
			}
			return e.key, nil
		}
		if err := s.wait(ctx, flight, load); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: data key %s was forgotten as soon as it was opened", ErrUnavailable, id)
}

// wait lets one of all who want the same do it, and waits for its outcome.
func (s *Sealer) wait(ctx context.Context, flight string, do func(context.Context) error) error {
	done, err := s.start(flight, do)
	if err != nil {
		return err
	}
	timeout := time.NewTimer(s.config.Wait)
	defer timeout.Stop()
	select {
	case result := <-done:
		return result
	case <-timeout.C:
		// Calls into an HSM can't be cancelled: this one goes on by itself.
		err := fmt.Errorf("%w: HSM and database took longer than %s", ErrUnavailable, s.config.Wait)
		s.remember(flight, err)
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// behind does the same without waiting. What fails is tried again by a later
// caller.
func (s *Sealer) behind(flight string, do func(context.Context) error) {
	_, _ = s.start(flight, do) // the failure is remembered and logged
}

func (s *Sealer) start(flight string, do func(context.Context) error) (<-chan error, error) {
	now := s.config.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("%w: the sealer was closed", ErrUnavailable)
	}
	if f, ok := s.failed[flight]; ok {
		if now.Before(f.until) {
			return nil, f.err
		}
		delete(s.failed, flight)
	}
	s.running.Add(1)
	done := make(chan error, 1)
	results := s.flights.DoChan(flight, func() (any, error) {
		ctx, cancel := context.WithTimeoutCause(context.Background(), s.config.Wait, errors.New("opening a data key took too long"))
		defer cancel()
		err := do(ctx)
		if errors.Is(err, ErrUnavailable) {
			s.remember(flight, err)
			s.config.Logger.Warn("a data key could not be opened; those that are opened go on until their life's end", "error", err)
		}
		return nil, err
	})
	go func() {
		defer s.running.Done()
		done <- (<-results).Err
	}()
	return done, nil
}

func (s *Sealer) remember(flight string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failed) >= s.config.CacheSize {
		clear(s.failed)
	}
	s.failed[flight] = failure{err, s.config.Now().Add(quiet)}
}

// load reads a data key, and opens it by the HSM.
func (s *Sealer) load(ctx context.Context, id string) error {
	asked := s.config.Now()
	key, err := s.fetch(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.opened.put(s.kept(key, asked))
	case !errors.Is(err, ErrUnavailable):
		s.opened.forget(id) // it was destroyed, say
	}
	return err
}

// stored is a row of data_keys.
type stored struct {
	id, tenant, purpose, sealingKey string
	wrapped                         []byte
	lost                            bool
}

func (d *stored) place(installation string) keys.DataKeyPlace {
	return keys.DataKeyPlace{Installation: installation, ID: d.id, Tenant: d.tenant, Purpose: d.purpose}
}

func (s *Sealer) fetch(ctx context.Context, id string) (*keys.DataKey, error) {
	const read = `SELECT tenant, purpose, sealing_key, wrapped, lost_at IS NOT NULL FROM data_keys WHERE id = $1`
	d := stored{id: id}
	err := s.config.Pool.QueryRow(ctx, read, id).Scan(&d.tenant, &d.purpose, &d.sealingKey, &d.wrapped, &d.lost)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("%w: there is no data key %s", keys.ErrOpen, id)
	case err != nil:
		return nil, fmt.Errorf("reading data key %s: %w: %w", id, ErrUnavailable, err)
	case d.wrapped == nil:
		return nil, fmt.Errorf("%w: data key %s was destroyed", keys.ErrOpen, id)
	}
	return s.unwrap(ctx, &d)
}

// unwrap asks the HSM.
func (s *Sealer) unwrap(ctx context.Context, d *stored) (key *keys.DataKey, err error) {
	err = keys.OpenBy(s.config.Sealer, d.sealingKey, func(sealer keys.Sealer) (err error) {
		key, err = keys.OpenDataKey(ctx, sealer, d.place(s.config.Installation), d.wrapped)
		return err
	})
	if s.config.Observe != nil {
		s.config.Observe.Opened(err)
	}
	switch {
	case err == nil:
		return key, nil
	case errors.Is(err, keys.ErrNoKey) && d.lost:
		return nil, fmt.Errorf("%w: data key %s is lost with sealing key %s", keys.ErrOpen, d.id, d.sealingKey)
	case errors.Is(err, keys.ErrOpen):
		return nil, err
	}
	return nil, fmt.Errorf("opening data key %s: %w: %w", d.id, ErrUnavailable, err)
}
