package broker

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/policies"
)

// How much is kept of what was refused. A stranger can send as many tokens as
// they like, and a job of ours may try for ever: neither may fill the database.
const (
	denialQueue     = 256 // waiting to be written; more are dropped
	denialBatch     = 64  // written at once
	ownPerMinute    = 600 // denials of our jobs that one broker keeps
	sampledPerMin   = 2   // and those of strangers
	keepDenials     = 35 * 24 * time.Hour
	keepSampled     = 7 * 24 * time.Hour
	deleteInterval  = 10 * time.Minute
	deleteBatch     = 1000
	conflictAgain   = time.Hour // until the same conflict is raised once more
	maxConflicts    = 4096      // remembered; more are counted, and not raised
	conflictsAtOnce = 10        // raised of one request
)

// Observer is told of what is refused. Its methods must not block.
type Observer interface {
	// Denied counts a refusal. ours says that the token's ids are those of a job
	// entry of the grant.
	Denied(ours bool)
	// DenialDropped counts one that was not kept though it should have been.
	DenialDropped()
	// Conflict counts a token with one half of a name and an id.
	Conflict()
}

// unobserved is the observer where there is none.
type unobserved struct{}

func (unobserved) Denied(bool)    {}
func (unobserved) DenialDropped() {}
func (unobserved) Conflict()      {}

// refusal is what there is to write of one refused request.
type refusal struct {
	denial *leases.Decision // nil: it isn't kept
	events []audit.Entry
}

// refusals takes down what was refused, beside the requests: an answer never
// waits for it, nor fails by it.
type refusals struct {
	queue chan refusal

	mu        sync.Mutex
	minute    time.Time // the one that is counted
	own       int
	sampled   int
	conflicts map[string]time.Time // grant, job, claim and sub → when it was raised
}

func newRefusals() *refusals {
	return &refusals{queue: make(chan refusal, denialQueue), conflicts: make(map[string]time.Time)}
}

// keeps says whether a denial of this minute is still to be kept.
func (r *refusals) keeps(ours bool, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if minute := now.Truncate(time.Minute); !minute.Equal(r.minute) {
		r.minute, r.own, r.sampled = minute, 0, 0
	}
	if ours {
		r.own++
		return r.own <= ownPerMinute
	}
	r.sampled++
	return r.sampled <= sampledPerMin
}

// raises says whether a conflict is to be raised: the same one once an hour, and
// of all only so many.
func (r *refusals) raises(conflict string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, known := r.conflicts[conflict]; known && now.Sub(at) < conflictAgain {
		return false
	}
	if len(r.conflicts) >= maxConflicts {
		for key, at := range r.conflicts {
			if now.Sub(at) >= conflictAgain {
				delete(r.conflicts, key)
			}
		}
	}
	if len(r.conflicts) >= maxConflicts {
		return false
	}
	r.conflicts[conflict] = now
	return true
}

// refused takes down a denial. It never blocks.
func (b *Broker) refused(ctx context.Context, caller *asking, asked policies.Request, denial *policies.Denial) {
	b.config.Observe.Denied(denial.Ours)
	now := b.config.Store.Now()
	r := refusal{events: b.conflicts(ctx, caller, denial, now)}
	if b.refusals.keeps(denial.Ours, now) {
		r.denial = &leases.Decision{
			ID: ids.New(ids.Denial, now), At: now, RequestID: caller.request, Provider: caller.identity.Provider, Issuer: caller.session.Issuer,
			Subject: caller.identity.Subject, Claims: caller.session.Claims, TokenExpiresAt: caller.session.TokenExpiresAt,
			Grant: asked.Grant, AskedTTL: asked.TTL, IP: shownIP(asked.IP), Digest: caller.digest, Detail: denial.Detail, Sampled: !denial.Ours,
		}
	} else if denial.Ours {
		b.config.Observe.DenialDropped()
	}
	if r.denial == nil && len(r.events) == 0 {
		return
	}
	select {
	case b.refusals.queue <- r:
	default:
		b.config.Observe.DenialDropped()
	}
}

func shownIP(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

// conflicts are the events of names and ids that don't belong together: somebody
// renamed something that a policy speaks of, or took its name.
func (b *Broker) conflicts(ctx context.Context, caller *asking, denial *policies.Denial, now time.Time) []audit.Entry {
	var entries []audit.Entry
	for _, c := range denial.Conflicts {
		b.config.Observe.Conflict()
		if len(entries) == conflictsAtOnce || !b.refusals.raises(fmt.Sprintf("%q %q %q %q", denial.Grant, c.Job, c.Claim, caller.identity.Subject), now) {
			continue
		}
		fits := "id"
		if c.NameFits {
			fits = "name"
		}
		b.config.Logger.WarnContext(ctx, "a token has one half of a name and an id: what the policy names was renamed, or taken over", "request_id", caller.request,
			"grant", denial.Grant, "job", c.Job, "claim", c.Claim, "fits", fits, "provider", caller.identity.Provider, "subject", caller.identity.Subject)
		entries = append(entries, audit.Entry{
			At: now, Type: audit.IdentityConflict, Subject: caller.request, Count: len(entries) + 1, Actor: leases.JobActor(caller.identity.Provider, caller.identity.Subject),
			Data: map[string]any{
				"provider": caller.identity.Provider, "iss": caller.session.Issuer, "subject": caller.identity.Subject,
				"grant": denial.Grant, "job": c.Job, "claim": c.Claim, "fits": fits,
			},
		})
	}
	return entries
}

// KeepDecisions writes down what is refused and deletes what is old, until ctx
// ends; then it writes what still waits.
func (b *Broker) KeepDecisions(ctx context.Context) {
	tick := time.NewTicker(deleteInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			for len(b.refusals.queue) > 0 && ending.Err() == nil {
				b.writeRefusals(ending, <-b.refusals.queue)
			}
			return
		case first := <-b.refusals.queue:
			b.writeRefusals(ctx, first)
		case <-tick.C:
			if _, err := b.DeleteOldDecisions(ctx); err != nil && ctx.Err() == nil {
				b.config.Logger.WarnContext(ctx, "old denials could not be deleted", "error", err)
			}
		}
	}
}

// writeRefusals writes one and whatever else waits.
func (b *Broker) writeRefusals(ctx context.Context, first refusal) {
	var denials []leases.Decision
	var entries []audit.Entry
	for r, n := first, 1; ; n++ {
		if r.denial != nil {
			denials = append(denials, *r.denial)
		}
		entries = append(entries, r.events...)
		if n == denialBatch || len(b.refusals.queue) == 0 {
			break
		}
		r = <-b.refusals.queue
	}
	if err := b.config.Store.SaveDenials(context.WithoutCancel(ctx), denials, entries); err != nil {
		for range denials {
			b.config.Observe.DenialDropped()
		}
		b.config.Logger.WarnContext(ctx, "denials could not be kept; their jobs were refused all the same", "error", err, "denials", len(denials), "events", len(entries))
	}
}

// DeleteOldDecisions deletes denials that are older than they are kept, in small
// steps, and returns how many.
func (b *Broker) DeleteOldDecisions(ctx context.Context) (int, error) {
	now, total := b.config.Store.Now(), 0
	for {
		n, err := b.config.Store.DeleteDenials(ctx, now.Add(-keepDenials), now.Add(-keepSampled), deleteBatch)
		total += n
		if err != nil || n < deleteBatch {
			return total, err
		}
	}
}
