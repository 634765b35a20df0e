package secrets

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// RotatorConfig is for a Rotator.
type RotatorConfig struct {
	Store *Store // required
	// Checkpoint is called between the stages, where tests stop the process. Nil in
	// every released program.
	Checkpoint func(step string)
}

// Rotator replaces secrets that are due: it makes a new value up, has the secret's
// hook put it into the target, has it tried there, and promotes it. Each stage is
// written down when it is done; after a crash the next rotator calls the hook
// again for a stage of which nobody knows whether it was done.
type Rotator struct{ config RotatorConfig }

// interval is how long the rotator sleeps when there is nothing to do. Secrets are
// due in days.
const interval = 5 * time.Second

// NewRotator checks the configuration.
func NewRotator(config RotatorConfig) (*Rotator, error) {
	if config.Store == nil {
		return nil, errors.New("making rotator: the store is required")
	}
	if config.Checkpoint == nil {
		config.Checkpoint = func(string) {}
	}
	return &Rotator{config: config}, nil
}

// Run works until ctx ends.
func (r *Rotator) Run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		for {
			worked, err := r.RunOnce(ctx)
			if err != nil && ctx.Err() == nil {
				r.config.Store.config.Logger.ErrorContext(ctx, "looking for secrets that are due failed", "error", err)
			}
			if !worked || err != nil || ctx.Err() != nil {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// RunOnce takes one secret on that waits, and does one stage of its rotation. It
// says whether there was one.
func (r *Rotator) RunOnce(ctx context.Context) (bool, error) {
	s := r.config.Store
	c, err := s.claim(ctx)
	if c == nil || err != nil {
		return false, err
	}
	r.config.Checkpoint("after_claim")
	failure := r.stage(ctx, c)
	if failure == nil || errors.Is(failure, errNothingToDo) {
		return true, nil
	}
	if ctx.Err() != nil {
		return true, ctx.Err() // we are stopping: it says nothing of the hook. The claim runs out
	}
	again, err := s.failed(ctx, c, failure)
	s.config.Logger.WarnContext(ctx, "rotating a secret failed", "secret", c.name, "attempts", c.attempts+1, "again_in", again.String(), "waits_for_a_person", again == 0, "error", failure)
	return true, err
}

func (r *Rotator) stage(ctx context.Context, c *claimed) error {
	s := r.config.Store
	t, err := s.look(ctx, c)
	switch {
	case err != nil:
		return err
	case t.pending == 0:
		err = s.makeUp(ctx, t)
		r.config.Checkpoint("after_make_up")
	case t.hook == HookGenerate:
		return fmt.Errorf("version %d waits for whoever puts it into the target, verifies and promotes it", t.pending)
	case !t.isSet:
		if err = r.call(ctx, t, StageSet); err == nil {
			err = s.markSet(ctx, t)
			r.config.Checkpoint("after_set")
		}
	case !t.isTried:
		if err = r.call(ctx, t, StageVerify); err == nil {
			err = s.markVerified(ctx, t)
			r.config.Checkpoint("after_verify")
		}
	default:
		err = s.finish(ctx, t)
		r.config.Checkpoint("after_promote")
	}
	return err
}

// call is the call of the hook.
func (r *Rotator) call(ctx context.Context, t *task, stage Stage) error {
	hook := r.config.Store.config.Hooks[t.hook]
	if hook == nil {
		return fmt.Errorf("the hook %s is no longer configured", t.hook)
	}
	r.config.Checkpoint("before_" + string(stage))
	if err := hook.Call(ctx, &HookCall{
		Stage: stage, Secret: t.secret.Name, SecretID: t.secret.ID, Version: t.pending, Values: t.values, Current: t.previous,
	}); err != nil {
		return fmt.Errorf("stage %s: %w", stage, err)
	}
	r.config.Checkpoint("called_" + string(stage))
	return nil
}
