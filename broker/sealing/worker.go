package sealing

import (
	"context"
	"time"
)

const (
	// workEvery is how often a broker looks whether there is something to wrap anew.
	workEvery = time.Minute
	// tidyEvery is how often it looks for data keys that nothing refers to.
	tidyEvery = time.Hour
)

// Counts is what one round of work did.
type Counts struct {
	Rewrapped int
	Destroyed int
	Progress  Progress
}

// Run wraps what former sealing keys wrap by the latest, and destroys data keys
// that nothing refers to, until ctx ends. Any number of brokers may: they take
// nothing from each other but time.
func (s *Sealer) Run(ctx context.Context) {
	var tidied time.Time
	for ctx.Err() == nil {
		tidy := tidied.IsZero() || s.config.Now().Sub(tidied) >= tidyEvery
		counts, err := s.RunOnce(ctx, tidy)
		sleep := workEvery
		switch {
		case err != nil && ctx.Err() == nil:
			s.config.Logger.WarnContext(ctx, "wrapping keys anew failed; it goes on from where it is", "error", err)
		case counts.Rewrapped > 0:
			s.config.Logger.InfoContext(ctx, "keys were wrapped anew", "keys", counts.Rewrapped, "done", counts.Progress.Done, "of", counts.Progress.Total)
			sleep = 0 // there may be more
		}
		if err == nil && tidy {
			tidied = s.config.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(sleep):
		}
	}
}

// RunOnce does one round: a batch of keys to be wrapped anew; and where tidy is
// set, a look for data keys that nothing refers to.
func (s *Sealer) RunOnce(ctx context.Context, tidy bool) (c Counts, err error) {
	w := Wrapping{Pool: s.config.Pool, Sealer: s.config.Sealer, Installation: s.config.Installation}
	if c.Rewrapped, c.Progress, err = w.RunOnce(ctx); err != nil {
		return c, err
	}
	if s.config.Observe != nil {
		s.config.Observe.Progress(c.Progress)
	}
	if tidy {
		c.Destroyed, err = destroy(ctx, s.config.Pool, destroyAfter)
	}
	return c, err
}
