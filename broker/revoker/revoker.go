// Package revoker takes credentials back: those whose end has come, those that
// somebody revoked, and those that were never finished.
//
// Each issuer has a loop of its own, so that a target that is down or slow keeps
// nobody else waiting. A loop claims what is due, revokes it, and sleeps until
// the next lease is due or somebody wakes it. There is no number of tries after
// which a credential is dropped: a revocation is tried until it succeeds or an
// operator forgets it, with a reason, on record.
package revoker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2" //nolint:depguard // jitter: nothing secret comes of it
	"sync"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// Config of a Revoker.
type Config struct {
	Store        *leases.Store             // required
	Issuers      map[string]issuers.Issuer // required; by name
	Installation string                    // required
	Logger       *slog.Logger              // nil: discards
	Observe      Observer                  // nil: nobody looks

	// Workers is how many credentials of one target are taken back at once; zero: 8.
	Workers int
	// RevokeTime is the longest that one try may take; zero: 15 s.
	RevokeTime time.Duration
}

// Observer sees every try; for metrics.
type Observer interface {
	// Revoked is called when a lease has come to its end: lag is how long after it
	// was due.
	Revoked(issuer string, lag time.Duration)
	// Failed is called when a try failed; stuck when it needs a person.
	Failed(issuer string, stuck bool)
}

const (
	defaultWorkers    = 8
	defaultRevokeTime = 15 * time.Second
	claimSlack        = 5 * time.Second
	// batchOfNothing is how many leases end at once where nothing outside has to be undone.
	batchOfNothing = 512

	// longestSleep bounds what we miss when another broker dies with a lease that
	// we didn't know of when we went to sleep.
	longestSleep = time.Second

	firstBackoff = 500 * time.Millisecond
	// longestBackoff is how long a target that came back may wait for us.
	longestBackoff = 30 * time.Second
	// blockedFactor makes five minutes of the longest pause.
	blockedFactor = 10
	// stuckAfter is how long a revocation may fail before people are told.
	stuckAfter = 10 * time.Minute
	// stuckAttempts is the same in tries, for a lease that was revoked long before
	// its end: at 15 to 30 s each, ten minutes or a little more.
	stuckAttempts = 32
)

// Revoker is the worker. See [Revoker.Run].
type Revoker struct {
	config Config
	loops  map[string]*loop
}

type loop struct {
	issuer string
	wake   chan struct{} // one place: a notice is never lost, and never waits
	free   bool          // the last batch had nothing to undo outside: take more at once
}

// New checks the configuration.
func New(config Config) (*Revoker, error) {
	if config.Store == nil || config.Installation == "" {
		return nil, errors.New("making revoker: store and installation are required")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Workers == 0 {
		config.Workers = defaultWorkers
	}
	if config.RevokeTime == 0 {
		config.RevokeTime = defaultRevokeTime
	}
	r := &Revoker{config: config, loops: map[string]*loop{}}
	for name := range config.Issuers {
		r.loops[name] = &loop{issuer: name, wake: make(chan struct{}, 1)}
	}
	return r, nil
}

// Notify wakes the loop of an issuer. It never blocks.
func (r *Revoker) Notify(issuer string) {
	if l, ok := r.loops[issuer]; ok {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Run works until ctx ends. What it has begun it finishes, or leaves to its
// claim's end.
func (r *Revoker) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, l := range r.loops {
		running.Go(func() { r.run(ctx, l) })
	}
	running.Wait()
}

func (r *Revoker) run(ctx context.Context, l *loop) {
	for failures := 0; ctx.Err() == nil; {
		worked, err := r.RunOnce(ctx, l.issuer)
		sleep := time.Duration(0)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				r.config.Logger.ErrorContext(ctx, "looking for what is to be revoked failed", "issuer", l.issuer, "error", err)
			}
			sleep = Backoff(failures)
			failures++
		case worked == 0:
			failures = 0
			sleep = r.untilNext(ctx, l.issuer)
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-time.After(sleep):
		}
	}
}

func (r *Revoker) untilNext(ctx context.Context, issuer string) time.Duration {
	next, err := r.config.Store.NextDue(ctx, issuer)
	if err != nil || next.IsZero() {
		return longestSleep
	}
	return max(0, min(longestSleep, next.Sub(r.config.Store.Later())))
}

// RunOnce claims one batch of an issuer's due leases and tries each once. It
// returns how many it claimed. A batch is no larger than what can be worked on
// at the same time, so that a claim needs to last for one try only: when we die,
// another broker takes over soon.
func (r *Revoker) RunOnce(ctx context.Context, issuer string) (int, error) {
	l, known := r.loops[issuer]
	if !known {
		return 0, errors.New("no issuer " + issuer + " is configured")
	}
	limit := r.config.Workers
	if l.free {
		limit = batchOfNothing
	}
	claimed, expired, err := r.config.Store.Claim(ctx, issuer, limit, r.config.RevokeTime+claimSlack)
	if err != nil {
		return 0, err
	}
	l.free = len(claimed) == 0 && expired > 0
	slots := make(chan struct{}, r.config.Workers) // the first batch after a free one may be larger
	var running sync.WaitGroup
	for _, c := range claimed {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			r.revoke(ctx, c)
		})
	}
	running.Wait()
	return len(claimed) + expired, nil
}

// revoke tries once, and writes down what came of it. A broker that is told to
// stop finishes the try.
func (r *Revoker) revoke(ctx context.Context, c leases.Claimed) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), r.config.RevokeTime, errors.New("revoking took too long"))
	defer cancel()
	log := r.config.Logger.With("lease", c.ID, "issuer", c.Issuer)
	began := r.config.Store.Now()
	response, err := r.ask(ctx, c)

	// What follows is ours to write down even when the target used the time up.
	ctx, cancel = context.WithTimeoutCause(context.WithoutCancel(ctx), r.config.RevokeTime, errors.New("recording a revocation took too long"))
	defer cancel()
	now := r.config.Store.Now()
	switch {
	case err != nil:
		r.failed(ctx, c, err)
	case !response.Found && began.Before(c.SettledAt):
		// A create that is still on its way could land behind us: "not found" is an
		// answer only to a question that was asked once the target refuses to make it.
		// What we claim by may be later than the clock that the target goes by.
		until := c.SettledAt
		if soon := r.config.Store.Later().Add(firstBackoff); until.Before(soon) {
			until = soon
		}
		if err := r.config.Store.Postpone(ctx, c.Lease, until, "not on the target yet; waiting until nothing can be made for it any more", false); err != nil {
			log.ErrorContext(ctx, "postponing a revocation failed; its claim will run out", "error", err)
		}
	default:
		done, err := r.config.Store.Complete(ctx, c.Lease)
		if err != nil {
			log.ErrorContext(ctx, "a credential was taken back, but that could not be written down; it will be tried again", "error", err)
			return
		}
		if done && r.config.Observe != nil {
			r.config.Observe.Revoked(c.Issuer, max(0, now.Sub(c.ExpiresAt)))
		}
	}
}

// ask is the call of the issuer. One that panics has failed, like any other: it
// must not take the loops of all the others with it.
func (r *Revoker) ask(ctx context.Context, c leases.Claimed) (_ *issuers.RevokeResponse, err error) {
	defer func() {
		if recover() != nil { // its value may hold anything: it is not repeated
			err = errors.New("the issuer panicked")
		}
	}()
	return r.config.Issuers[c.Issuer].Revoke(ctx, &issuers.RevokeRequest{Lease: c.Named(r.config.Installation), Handle: c.Handle})
}

func (r *Revoker) failed(ctx context.Context, c leases.Claimed, err error) {
	now := r.config.Store.Later()
	stuck := errors.Is(err, issuers.ErrBlocked) || now.Sub(c.ExpiresAt) > stuckAfter || c.Attempts >= stuckAttempts
	pause := Backoff(c.Attempts)
	if errors.Is(err, issuers.ErrBlocked) {
		// It waits for a person, who can ask for another try at once. Many of these
		// must not keep those busy that can be taken back.
		pause *= blockedFactor
	}
	if r.config.Observe != nil {
		r.config.Observe.Failed(c.Issuer, stuck)
	}
	r.config.Logger.WarnContext(ctx, "revoking failed; it will be tried again", "lease", c.ID, "issuer", c.Issuer,
		"attempts", c.Attempts+1, "again_in", pause.String(), "stuck", stuck, "error", err)
	if err := r.config.Store.Postpone(ctx, c.Lease, now.Add(pause), err.Error(), stuck); err != nil {
		r.config.Logger.ErrorContext(ctx, "postponing a revocation failed; its claim will run out", "lease", c.ID, "error", err)
	}
}

// Backoff is how long to wait after a number of failures: doubling, bounded, and
// between half and the whole of it at random, so that a fleet doesn't come back
// all at once.
func Backoff(failures int) time.Duration {
	whole := min(longestBackoff, firstBackoff<<min(failures, 10))
	return whole/2 + rand.N(whole/2) //nolint:gosec // jitter, no secret
}
