// Package revoker takes credentials back: those whose end has come, those that
// somebody revoked, and those that were never finished.
//
// Each issuer has a loop of its own, so that a target that is down or slow keeps
// nobody else waiting. A loop claims what is due while its workers are busy with
// what was claimed before, and sleeps until the next lease is due or somebody
// wakes it. What is due by its own end comes first; what a job revokes among many
// is taken when nothing else is due. Leases that leave nothing to undo outside
// are swept together, a thousand with one commit.
//
// A target that doesn't answer is tried with one lease at a time until it does,
// and then gets all that waits for it. There is no number of tries after which a
// credential is dropped: a revocation is tried until it succeeds or an operator
// forgets it, with a reason, on record. One that takes longer than the grace is
// stuck: people are told, and it is tried all the same.
package revoker

import (
	"context"
	"errors"
	"log/slog"
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

	// Targets says of an issuer which target it has and how much is asked of that
	// at once. An issuer that isn't listed has one of its own.
	Targets map[string]Target
	// Workers is how many credentials of one target are taken back at once where
	// Targets doesn't say; zero: 8.
	Workers int
	// RevokeTime is the longest that one try may take; zero: 15 s.
	RevokeTime time.Duration
	// Grace is how long a revocation may take before it is stuck; zero: 10 minutes.
	Grace time.Duration
}

// Target is what issuers can have in common.
type Target struct {
	Name    string
	Workers int // zero: Config.Workers; of issuers that share it the smallest counts
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
	defaultGrace      = 10 * time.Minute
	claimSlack        = 5 * time.Second
	// aheadTime is how long what was claimed may wait for a worker. What waits
	// longer is left to its claim's end.
	aheadTime = 5 * time.Second

	// longestSleep bounds what we miss when another broker dies with a lease that
	// we didn't know of when we went to sleep.
	longestSleep = time.Second
	// gather is how long a sweep that found little waits for more: what falls due
	// one after the other needn't be swept one by one.
	gather = 20 * time.Millisecond

	// blockedFactor makes a lease that waits for a person wait longer from the first time on.
	blockedFactor = 10
	// stuckAttempts is the grace in tries.
	stuckAttempts = 32
	// beginBatch is how many leases that came to their end are begun at once while
	// their target is away.
	beginBatch = 256
)

// Revoker is the worker. See [Revoker.Run].
type Revoker struct {
	config Config
	loops  map[string]*loop
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
	if config.Grace == 0 {
		config.Grace = defaultGrace
	}
	r := &Revoker{config: config, loops: map[string]*loop{}}
	shared := map[string]int{}
	for name := range config.Issuers {
		target := r.target(name)
		if workers, known := shared[target.Name]; !known || target.Workers < workers {
			shared[target.Name] = target.Workers
		}
	}
	lanes := map[string]*lane{}
	for name := range config.Issuers {
		target := r.target(name)
		if lanes[target.Name] == nil {
			lanes[target.Name] = &lane{slots: make(chan struct{}, shared[target.Name])}
		}
		l := lanes[target.Name]
		l.issuers = append(l.issuers, name)
		r.loops[name] = &loop{issuer: name, lane: l, wake: make(chan struct{}, 1), freed: make(chan struct{}, 1)}
	}
	return r, nil
}

func (r *Revoker) target(issuer string) Target {
	t := r.config.Targets[issuer]
	if t.Name == "" {
		t.Name = "issuer " + issuer
	}
	if t.Workers <= 0 {
		t.Workers = r.config.Workers
	}
	return t
}

// Notify wakes the loop of an issuer. It never blocks.
func (r *Revoker) Notify(issuer string) {
	if l, ok := r.loops[issuer]; ok {
		poke(l.wake)
	}
}

// poke leaves a notice in a channel of one place: it is never lost, and never waits.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run works until ctx ends. What it has begun it finishes; what it has claimed
// and not begun it gives back.
func (r *Revoker) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, l := range r.loops {
		running.Go(func() { r.run(ctx, l) })
	}
	running.Go(func() { r.watchStuck(ctx) })
	running.Wait()
}

// RunOnce claims one batch of an issuer's due leases and tries each once. It
// returns how many it claimed.
func (r *Revoker) RunOnce(ctx context.Context, issuer string) (int, error) {
	l, known := r.loops[issuer]
	if !known {
		return 0, errors.New("no issuer " + issuer + " is configured")
	}
	claimed, worked, err := r.claim(ctx, l, cap(l.lane.slots))
	var running sync.WaitGroup
	for _, c := range claimed {
		running.Go(func() {
			var came tried
			l.lane.take(func() { came = r.try(ctx, c) })
			r.record(ctx, l, c, came)
		})
	}
	running.Wait()
	return worked, err
}

// tried is what came of one try.
type tried struct {
	began    time.Time
	response *issuers.RevokeResponse
	err      error
}

// try asks the target once. A broker that is told to stop finishes the try.
func (r *Revoker) try(ctx context.Context, c leases.Claimed) tried {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), r.config.RevokeTime, errors.New("revoking took too long"))
	defer cancel()
	began := r.config.Store.Now()
	response, err := r.ask(ctx, c)
	return tried{began, response, err}
}

// record writes down what came of a try, and finishes that too.
func (r *Revoker) record(ctx context.Context, l *loop, c leases.Claimed, t tried) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), r.config.RevokeTime, errors.New("recording a revocation took too long"))
	defer cancel()
	log := r.config.Logger.With("lease", c.ID, "issuer", c.Issuer)
	now := r.config.Store.Now()
	if t.err != nil {
		r.failed(ctx, l, c, t.err)
		return
	}
	r.answered(ctx, l)
	if !t.response.Found && t.began.Before(c.SettledAt) {
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
		return
	}
	done, err := r.config.Store.Complete(ctx, c.Lease)
	if err != nil {
		log.ErrorContext(ctx, "a credential was taken back, but that could not be written down; it will be tried again", "error", err)
		return
	}
	if done && r.config.Observe != nil {
		r.config.Observe.Revoked(c.Issuer, max(0, now.Sub(c.ExpiresAt)))
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

// answered: whatever the target said, it is there. All that was tried in vain
// while it wasn't is due now.
func (r *Revoker) answered(ctx context.Context, l *loop) {
	if !l.lane.answered() {
		return
	}
	for _, issuer := range l.lane.issuers {
		r.config.Logger.InfoContext(ctx, "a target answers again; what waited for it is taken back now", "issuer", issuer)
		if err := r.config.Store.Hasten(ctx, issuer, longestBackoff); err != nil {
			r.config.Logger.WarnContext(ctx, "what waits for a target could not be made due; each comes in its time", "issuer", issuer, "error", err)
		}
		r.Notify(issuer)
		poke(r.loops[issuer].freed)
	}
}

func (r *Revoker) failed(ctx context.Context, l *loop, c leases.Claimed, err error) {
	now := r.config.Store.Later()
	blocked := errors.Is(err, issuers.ErrBlocked)
	stuck := blocked || now.Sub(c.ExpiresAt) > r.config.Grace || c.Attempts >= stuckAttempts
	until := now.Add(Backoff(c.Attempts))
	switch {
	case errors.Is(err, issuers.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		// When it is tried again is the target's matter, not the lease's: the target
		// is what has to come back.
		until = l.lane.silent(now)
		if l.lane.open() {
			r.config.Logger.WarnContext(ctx, "a target doesn't answer; it is tried with one revocation at a time", "issuer", c.Issuer, "again_at", until)
		}
	case blocked:
		// It waits for a person, who can ask for another try at once. Many of these
		// must not keep those busy that can be taken back.
		until = now.Add(min(longestBackoff, blockedFactor*Backoff(c.Attempts)))
		r.answered(ctx, l)
	default:
		r.answered(ctx, l)
	}
	if r.config.Observe != nil {
		r.config.Observe.Failed(c.Issuer, stuck)
	}
	level := slog.LevelWarn
	if stuck && !c.Stuck {
		level = slog.LevelError // once; then it is a warning again
	}
	r.config.Logger.Log(ctx, level, "revoking failed; it will be tried again", "lease", c.ID, "issuer", c.Issuer,
		"attempts", c.Attempts+1, "again_in", until.Sub(now).String(), "stuck", stuck, "error", err)
	if err := r.config.Store.Postpone(ctx, c.Lease, until, err.Error(), stuck || c.Stuck); err != nil {
		r.config.Logger.ErrorContext(ctx, "postponing a revocation failed; its claim will run out", "lease", c.ID, "error", err)
	}
}
