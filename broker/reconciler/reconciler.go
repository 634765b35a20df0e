// Package reconciler compares what stands on a target with the leases.
//
// Two things can be wrong. A credential of ours that no live lease knows is an
// orphan: nobody would ever take it back. It is, once it was one for long enough
// to be sure, through the issuer and by the id of the lease that it was made for.
// A live lease whose credential is gone is marked and told: the job that holds it
// fails, and somebody has reached into the target by hand.
//
// What is listed first and looked up afterwards can't be mistaken for an orphan:
// a lease is on record before anything is made for it. What was active before the
// listing began, is not in it, and is active after its end can't be mistaken for
// gone: a lease is on record as being taken back before anything is taken away.
//
// It is made for the day on which it is wrong itself: pointed at the wrong
// target, or at a database restored from an old backup. It touches nothing that
// carries another installation's id, and takes back no more than a few, or a
// small share, unless an operator says so.
//
// One broker of a fleet compares a target at a time, by a claim in the database
// that runs out; when the next time has come is read there too. Two at once would
// do no harm: all that it does may be done twice.
package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// Config of a Reconciler.
type Config struct {
	Pool         *pgxpool.Pool     // required
	Store        *leases.Store     // required
	Audit        *audit.Recorder   // required
	Targets      map[string]Target // by the issuer's name; those that can't be listed are named, no more
	Installation string            // required
	Tenant       string            // required

	Every time.Duration // how often each target is compared; zero: only when somebody asks
	Grace time.Duration // how long a credential is without a live lease before it is an orphan; zero: 10 minutes
	// DryRunFirst keeps the schedule from taking anything back until an operator had a
	// run of that target do so.
	DryRunFirst bool
	// Epoch is the installation's, which a restore raises; nil: 0.
	Epoch   func() int64
	Logger  *slog.Logger // nil: discards
	Observe Observer     // nil: nobody looks

	PageSize  int // how much is asked for at a time; zero: 500
	MaxListed int // a list that is longer has no end; zero: 2 million
	Workers   int // how many orphans are taken back at once; zero: 4
}

// Target is one issuer and where its target is.
type Target struct {
	Issuer  issuers.Issuer
	Address string
}

// Observer sees what comes of it; for metrics.
type Observer interface {
	// OrphanRevoked is called when one was taken back.
	OrphanRevoked(issuer string)
	// ReconcileFailed is called when a comparison ended with an error.
	ReconcileFailed(issuer string)
}

// What callers can do something about.
var (
	// ErrUnknown: there is no such issuer, or it has no target.
	ErrUnknown = errors.New("no issuer of that name has a target")
	// ErrCannotList: nothing tells what stands on this target.
	ErrCannotList = errors.New("this kind of target can't be listed")
	// ErrBusy: another comparison of the target is under way.
	ErrBusy = errors.New("this target is being compared already")
	// ErrTooMany: there are more orphans than are taken back without an operator.
	ErrTooMany = errors.New("too many orphans")

	errStopped = errors.New("the broker was stopped")
	errLost    = errors.New("another broker took over")
)

const (
	defaultGrace     = 10 * time.Minute
	defaultPageSize  = 500
	defaultMaxListed = 2_000_000
	defaultWorkers   = 4

	callTime  = 30 * time.Second // of one call of an issuer
	claimTime = 90 * time.Second // must outlast a call and what is written after it
	runTime   = 6 * time.Hour    // of all: 100,000 orphans at five a second
	writeTime = 10 * time.Second

	// fewOrphans and shareOrphans (one in …) are what is taken back without an operator.
	fewOrphans   = 10
	shareOrphans = 10

	retryAfter = 5 * time.Minute // a comparison that failed
	longSleep  = time.Minute
)

// Reconciler is the worker. See [Reconciler.Run].
type Reconciler struct {
	config Config

	mu      sync.Mutex
	stops   map[string]context.CancelCauseFunc // of the runs that Start began, by their ids
	closed  bool
	running sync.WaitGroup
}

// New checks the configuration.
func New(config Config) (*Reconciler, error) {
	if config.Pool == nil || config.Store == nil || config.Audit == nil || config.Installation == "" || config.Tenant == "" {
		return nil, errors.New("making reconciler: pool, store, audit, installation and tenant are required")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Epoch == nil {
		config.Epoch = func() int64 { return 0 }
	}
	for _, d := range []struct {
		value    *int
		fallback int
	}{{&config.PageSize, defaultPageSize}, {&config.MaxListed, defaultMaxListed}, {&config.Workers, defaultWorkers}} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	if config.Grace <= 0 {
		config.Grace = defaultGrace
	}
	return &Reconciler{config: config, stops: map[string]context.CancelCauseFunc{}}, nil
}

// Options say what a comparison may do. The zero value is the schedule's.
type Options struct {
	DryRun bool   // takes nothing back
	Force  bool   // takes back however many there are
	Actor  string // who asked; "": the schedule
}

// schedule is the actor of comparisons that nobody asked for.
const schedule = "daypassd"

// RunOnce compares one target now, and returns what came of it; with the error
// that is on record too, where there is one.
func (r *Reconciler) RunOnce(ctx context.Context, issuer string, options Options) (*Run, error) {
	c, err := r.begin(ctx, issuer, options)
	if err != nil {
		return nil, err
	}
	err = c.work(ctx)
	return c.run, err
}

// Start begins a comparison that goes on after ctx has ended, and returns it with
// a channel that is closed at its end.
func (r *Reconciler) Start(ctx context.Context, issuer string, options Options) (*Run, <-chan struct{}, error) {
	c, err := r.begin(ctx, issuer, options)
	if err != nil {
		return nil, nil, err
	}
	working, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		stop(errStopped)
	}
	r.stops[c.run.ID] = stop
	begun, done := *c.run, make(chan struct{})
	r.running.Go(func() {
		defer close(done)
		defer func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.stops, begun.ID)
			stop(nil)
		}()
		_ = c.work(working) // it is on record
	})
	return &begun, done, nil
}

// Close ends what Start began.
func (r *Reconciler) Close() {
	r.mu.Lock()
	r.closed = true
	for _, stop := range r.stops {
		stop(errStopped)
	}
	r.mu.Unlock()
	r.running.Wait()
}

// Run compares each target when its time has come, until ctx ends. Each has a
// loop of its own: one that hangs keeps no other waiting.
func (r *Reconciler) Run(ctx context.Context) {
	if r.config.Every <= 0 {
		return
	}
	var running sync.WaitGroup
	for name, target := range r.config.Targets {
		if _, can := target.Issuer.(issuers.Lister); can {
			running.Go(func() { r.loop(ctx, name) })
		}
	}
	running.Wait()
}

func (r *Reconciler) loop(ctx context.Context, issuer string) {
	for ctx.Err() == nil {
		wait, err := r.Scheduled(ctx, issuer)
		if err != nil && ctx.Err() == nil {
			r.config.Logger.WarnContext(ctx, "comparing a target with the leases failed; it will be tried again", "issuer", issuer, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(time.Second, min(longSleep, wait))):
		}
	}
}

// Scheduled compares a target when its time has come, unless another broker does,
// and returns how long it is until the next time.
func (r *Reconciler) Scheduled(ctx context.Context, issuer string) (time.Duration, error) {
	wait, dry, err := r.due(ctx, issuer)
	if err != nil || wait > 0 {
		return max(wait, time.Second), err
	}
	run, err := r.RunOnce(ctx, issuer, Options{DryRun: dry})
	if errors.Is(err, ErrBusy) {
		return longSleep, nil
	}
	if run != nil && run.DryRun && run.Orphans > 0 {
		r.config.Logger.WarnContext(ctx, "a target has credentials that no live lease knows; nothing was taken back, since reconcile.dry_run_first is set "+
			"(hint: `daypass lease reconcile --target ISSUER` takes them back, and lets the schedule do so from then on)", "issuer", issuer, "orphans", run.Orphans)
	}
	return longSleep, err
}

func (r *Reconciler) lister(issuer string) (issuers.Lister, error) {
	target, known := r.config.Targets[issuer]
	if !known {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, issuer)
	}
	lister, can := target.Issuer.(issuers.Lister)
	if !can {
		return nil, fmt.Errorf("%w: %s", ErrCannotList, issuer)
	}
	return lister, nil
}
