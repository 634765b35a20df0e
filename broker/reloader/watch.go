package reloader

import (
	"context"
	"errors"
	"time"

	"github.com/daypass/daypass/policies"
)

// Watch looks whether policies changed.
type Watch struct {
	// Stamp is cheap, and another one whenever the policies may have changed. Nil:
	// nobody looks.
	Stamp func(ctx context.Context) (string, error)
	// Digest reads them without compiling: what a set of them would be called. It
	// is asked now and then, in case that a change didn't show in the stamp.
	Digest func(ctx context.Context) (string, error)
}

const (
	// interval is how often the folder is looked at, and least is how much longer
	// than the look itself the pause is: a large folder costs 2 % of one CPU at the
	// most.
	interval   = 2 * time.Second
	least      = 50
	longest    = 10 * time.Second // however long a look took, and whatever the clock says of it
	digestPoll = 30               // every so many looks are at the files' content
)

// Run watches the folder, waits for confirmations, and looks at leases when that
// is due, until ctx ends.
func (r *Reloader) Run(ctx context.Context) {
	for {
		pause := min(max(interval, least*r.RunOnce(ctx)), longest)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// RunOnce does what there is to do now. It returns how long it took to look at the
// folder.
func (r *Reloader) RunOnce(ctx context.Context) time.Duration {
	began := r.config.Now()
	changed := r.changed(ctx)
	took := r.config.Now().Sub(began)
	if changed || r.wasConfirmed(ctx) {
		// What goes wrong is in the log, or is tried again.
		_, _ = r.Reload(ctx, Trigger{Actor: "daypassd", By: "watch"})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweepDue(ctx)
	return took
}

func (r *Reloader) stamp(ctx context.Context) (string, error) {
	if r.config.Watch.Stamp == nil {
		return "", nil
	}
	return r.config.Watch.Stamp(ctx)
}

// changed says whether the folder looks other than when it was last read.
func (r *Reloader) changed(ctx context.Context) bool {
	if r.config.Watch.Stamp == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.polls++
	stamp, err := r.stamp(ctx)
	switch {
	case err != nil || stamp != r.seen:
		return true // Reload finds the same error, and takes it down
	case r.config.Watch.Digest == nil || r.polls%digestPoll != 0:
		return false
	case r.state.Load().failed != 0:
		return true
	}
	known := r.Set().Digest()
	if s := r.state.Load(); s.pending != nil {
		known = s.pending.Digest
	}
	digest, err := r.config.Watch.Digest(ctx)
	if errors.Is(err, policies.ErrChanging) {
		return false
	}
	return err != nil || digest != known
}

// wasConfirmed says whether the set that waits was confirmed meanwhile, on this
// broker or on another.
func (r *Reloader) wasConfirmed(ctx context.Context) bool {
	pending := r.state.Load().pending
	if pending == nil {
		return false
	}
	who, err := r.config.Store.PoliciesConfirmed(ctx, pending.Digest, r.config.Store.Now().Add(-confirmationLife))
	if err != nil {
		r.config.Logger.WarnContext(ctx, "whether a set of policies was confirmed could not be read", "error", err)
	}
	return who != ""
}
