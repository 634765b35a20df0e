// Package reloader keeps the set of policies that is in force, and puts another
// one in its place: when the policy folder changes, when a signal says so, or
// when an operator asks.
//
// All or nothing: a folder with one mistake in it changes nothing. A set that
// would take much away waits until an operator has confirmed its digest, on any
// broker of the fleet. The set in force is one pointer: an exchange that runs
// finishes on the set that it began with.
//
// A change that takes a grant away stops the renewal of its leases at once, since
// every renewal is decided by the set in force ([broker.Broker.Renew]). Whether
// the leases themselves are revoked, the configuration says.
package reloader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
)

// Config of a Reloader. Every field is required, unless it says otherwise.
type Config struct {
	// Load reads and compiles the policies.
	Load func(ctx context.Context) (*policies.Set, error)
	// Watch looks whether they changed; its zero value: nobody looks.
	Watch Watch
	// Revoke says that leases which a new set doesn't allow are taken back.
	Revoke bool
	Store  *leases.Store
	// Allowed says whether a set still allows a lease; see broker.StillAllowed.
	Allowed func(set *policies.Set, l *leases.Lease, session *leases.Session) (*policies.Grant, error)
	Notify  func(issuer string) // wakes the revoker; must not block
	Logger  *slog.Logger
	Now     func() time.Time
	Observe Observer
}

// Observer is told how the policies do.
type Observer interface {
	Loaded(digest string, at time.Time)
	ReloadFailed(failed bool) // by the last try; each true counts as one failure
	Pending(waits bool)       // a set waits for its confirmation
	NoLongerAllowed(leases int)
}

// Reloader is safe for concurrent use. See [New].
type Reloader struct {
	config  Config
	current atomic.Pointer[policies.Set]
	state   atomic.Pointer[state]

	mu      sync.Mutex // one reload at a time; guards what follows
	failure string     // the last that was logged
	seen    string     // the watch's stamp of the folder that was last read
	polls   int
	sweep   sweep
}

// state is what /readyz shows.
type state struct {
	pending *ConfirmationError
	failed  int // mistakes of the last try; -1: it failed otherwise
}

// Trigger says who wants a reload.
type Trigger struct {
	Actor   string // as the audit log names them: "admin ID OWNER", "daypassd"
	By      string // start, watch, SIGHUP, api
	Confirm string // the digest that an operator confirms; "" for none
}

// Result is a reload that was done.
type Result struct {
	Digest   string
	Changed  bool // it was another set
	Policies int
	Grants   int
	Warnings []lint.Finding
	// NoLongerAllowed are leases that the set would not allow, maxShown at the most,
	// and Count is how many there are.
	NoLongerAllowed []string
	Count           int
}

// maxShown is how many leases are named.
const maxShown = 100

// ConfirmationError is a set that waits for an operator's confirmation. It is
// not in force.
type ConfirmationError struct {
	Digest  string
	Why     string
	Removes []string // policies
	Leases  []string // that would be revoked, maxShown at the most
	Count   int      // how many
}

// Error implements error.
func (e *ConfirmationError) Error() string {
	return fmt.Sprintf("the set %s waits for a confirmation: %s", e.Digest, e.Why)
}

const (
	// A set that takes more than this away waits for a confirmation.
	revokeFreely  = 10
	revokePercent = 5
	// confirmationLife is how long a confirmation is good for: until the slowest
	// broker of a fleet has seen the folder, and no longer.
	confirmationLife = 24 * time.Hour
)

// New loads the policies. There is nothing to compare them with: they are in force.
func New(ctx context.Context, config Config) (*Reloader, error) {
	if config.Load == nil || config.Store == nil || config.Allowed == nil || config.Notify == nil || config.Logger == nil || config.Now == nil || config.Observe == nil {
		return nil, errors.New("making reloader: a required field of its configuration is missing")
	}
	r := &Reloader{config: config}
	r.state.Store(&state{})
	stamp, err := r.stamp(ctx)
	if err != nil {
		return nil, err
	}
	set, err := config.Load(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.enforce(ctx, Trigger{Actor: "daypassd", By: "start"}, set, nil); err != nil {
		return nil, err
	}
	r.seen = stamp
	// What another set allowed is counted once, beside the requests.
	r.sweep = sweep{due: config.Now(), countOnly: true}
	return r, nil
}

// Set is the one in force.
func (r *Reloader) Set() *policies.Set { return r.current.Load() }

// Status says in words how the policies do, for /readyz. It names no policy.
func (r *Reloader) Status() string {
	text := "ok, digest " + r.Set().Digest()
	switch s := r.state.Load(); {
	case s.pending != nil:
		text += "; the set " + s.pending.Digest + " waits for an operator's confirmation"
	case s.failed != 0:
		text += "; a newer set does not load, see the log"
	}
	return text
}

// Reload reads the folder and puts its set in force. Errors are a
// *policies.LoadError with every mistake, a *ConfirmationError, or wrap
// policies.ErrChanging or leases.ErrUnavailable; then nothing has changed.
func (r *Reloader) Reload(ctx context.Context, trigger Trigger) (*Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stamp, err := r.stamp(ctx)
	if err != nil {
		return nil, r.failed(ctx, trigger, err)
	}
	result, err := r.reload(ctx, trigger)
	if _, waits := errors.AsType[*ConfirmationError](err); err == nil || waits || isMistake(err) {
		r.seen = stamp // nothing more comes of reading the same again
	}
	return result, err
}

func isMistake(err error) bool {
	_, mistake := errors.AsType[*policies.LoadError](err)
	return mistake
}

func (r *Reloader) reload(ctx context.Context, trigger Trigger) (*Result, error) {
	set, err := r.config.Load(ctx)
	if errors.Is(err, policies.ErrChanging) {
		return nil, err
	}
	if err != nil {
		return nil, r.failed(ctx, trigger, err)
	}
	result := &Result{Digest: set.Digest(), Warnings: set.Findings()}
	result.Policies, result.Grants = set.Size()
	before := r.Set()
	if set.Digest() == before.Digest() {
		r.settled()
		return result, nil
	}
	changes := before.Compare(set)
	lost, err := r.lost(ctx, set, append(slices.Clone(changes.Changed), changes.Removed...))
	if err != nil {
		return nil, r.failed(ctx, trigger, err)
	}
	result.NoLongerAllowed, result.Count, result.Changed = lost.shown, lost.count, true
	if err := r.permit(ctx, trigger, set, changes, lost); err != nil {
		return nil, err
	}
	if err := r.enforce(ctx, trigger, set, result); err != nil {
		return nil, r.failed(ctx, trigger, err)
	}
	r.settled()
	r.config.Observe.NoLongerAllowed(lost.count)
	if lost.count > 0 {
		r.config.Logger.WarnContext(ctx, "leases are alive that the policies no longer allow; they can't be renewed", "digest", set.Digest(), "leases", lost.count, "revoked", r.config.Revoke, "some", lost.shown)
	}
	r.sweepLater(ctx, changes)
	return result, nil
}

// permit says whether a set may come into force: not when it takes much away,
// unless an operator has confirmed its digest.
func (r *Reloader) permit(ctx context.Context, trigger Trigger, set *policies.Set, changes policies.Changes, lost lost) error {
	waiting := &ConfirmationError{Digest: set.Digest(), Removes: changes.Removed}
	if r.config.Revoke {
		waiting.Leases, waiting.Count = lost.shown, lost.count
	}
	switch {
	case trigger.Confirm != "" && trigger.Confirm != set.Digest():
		waiting.Why = "the folder holds another set than the one that was confirmed"
		return waiting // whatever it would do: somebody looked at something else
	case trigger.Confirm != "":
		return r.confirm(ctx, trigger)
	}
	why, err := r.takesMuch(ctx, changes, lost)
	if err != nil || why == "" {
		return err
	}
	waiting.Why = why
	who, err := r.config.Store.PoliciesConfirmed(ctx, set.Digest(), r.config.Store.Now().Add(-confirmationLife))
	if err != nil {
		return r.failed(ctx, trigger, err)
	}
	if who != "" {
		r.config.Logger.InfoContext(ctx, "this set of policies was confirmed", "digest", set.Digest(), "by", who)
		return nil
	}
	if s := r.state.Load(); s.pending == nil || s.pending.Digest != waiting.Digest {
		r.config.Logger.WarnContext(ctx, `a set of policies waits for an operator's confirmation; the former one stays in force (hint: POST /v1/policies/reload {"confirm": "DIGEST"})`,
			"digest", waiting.Digest, "in_force", r.Set().Digest(), "why", why, "removes", waiting.Removes, "revokes", waiting.Count)
	}
	r.failure = ""
	r.state.Store(&state{pending: waiting})
	r.config.Observe.ReloadFailed(false)
	r.config.Observe.Pending(true)
	return waiting
}

// takesMuch says what of a change has to be confirmed; "" for nothing.
func (r *Reloader) takesMuch(ctx context.Context, changes policies.Changes, lost lost) (string, error) {
	var why []string
	if n := len(changes.Removed); n > 0 {
		why = append(why, fmt.Sprintf("it removes %d policies: %s", n, strings.Join(changes.Removed[:min(n, maxShown)], ", ")))
	}
	if r.config.Revoke && lost.count > 0 {
		live, err := r.config.Store.CountLive(ctx)
		if err != nil {
			return "", err
		}
		if lost.count > revokeFreely || lost.count*100 > live*revokePercent {
			why = append(why, fmt.Sprintf("it would revoke %d of %d live leases", lost.count, live))
		}
	}
	return strings.Join(why, "; "), nil
}

func (r *Reloader) confirm(ctx context.Context, trigger Trigger) error {
	now := r.config.Store.Now()
	return r.config.Store.ConfirmPolicies(ctx, trigger.Confirm, audit.Entry{
		At: now, Type: audit.PoliciesConfirmed, Subject: ids.New(ids.PolicyLoad, now), Count: 1, Actor: trigger.Actor,
		Data: map[string]any{"digest": trigger.Confirm, "in_force": r.Set().Digest()},
	})
}

// enforce puts a set in force, once that is on record.
func (r *Reloader) enforce(ctx context.Context, trigger Trigger, set *policies.Set, result *Result) error {
	now := r.config.Store.Now()
	count, grants := set.Size()
	data := map[string]any{"digest": set.Digest(), "trigger": trigger.By, "policies": count, "grants": grants}
	if before := r.Set(); before != nil {
		data["previous"] = before.Digest()
	}
	if result != nil {
		data["no_longer_allowed"] = result.Count
	}
	if err := r.config.Store.Record(ctx, audit.Entry{
		At: now, Type: audit.PoliciesLoaded, Subject: ids.New(ids.PolicyLoad, now), Count: 1, Actor: trigger.Actor, Data: data,
	}); err != nil {
		return err
	}
	r.current.Store(set)
	r.config.Observe.Loaded(set.Digest(), r.config.Now())
	r.config.Logger.InfoContext(ctx, "policies are in force", "digest", set.Digest(), "previous", data["previous"], "policies", count, "grants", grants, "trigger", trigger.By, "actor", trigger.Actor)
	return nil
}

// settled: what the folder holds is in force.
func (r *Reloader) settled() {
	r.failure = ""
	r.state.Store(&state{})
	r.config.Observe.ReloadFailed(false)
	r.config.Observe.Pending(false)
}

// failed takes a failure down, and says it in the log unless the last one was
// the same.
func (r *Reloader) failed(ctx context.Context, trigger Trigger, err error) error {
	if ctx.Err() != nil {
		return err // whoever asked went away: it says nothing of the policies
	}
	r.config.Observe.ReloadFailed(true)
	r.config.Observe.Pending(false)
	s := &state{failed: -1}
	load, mistakes := errors.AsType[*policies.LoadError](err)
	if mistakes {
		s.failed = len(load.Mistakes)
	}
	r.state.Store(s)
	if err.Error() == r.failure {
		return err
	}
	r.failure = err.Error()
	r.config.Logger.ErrorContext(ctx, "the policies were not loaded; the former set stays in force", "in_force", r.Set().Digest(), "trigger", trigger.By, "actor", trigger.Actor, "error", short(err))
	if mistakes {
		for _, m := range load.Mistakes[:min(len(load.Mistakes), maxShown)] {
			r.config.Logger.ErrorContext(ctx, "a mistake in the policies", "file", m.File, "line", m.Line, "col", m.Col, "text", m.Text, "hint", m.Hint)
		}
	}
	return err
}

// short is an error without the mistakes, of which each has a line of its own.
func short(err error) string {
	if load, ok := errors.AsType[*policies.LoadError](err); ok {
		return fmt.Sprintf("%d mistakes", len(load.Mistakes))
	}
	return err.Error()
}
