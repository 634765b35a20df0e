package postgres

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/issuers"
)

const (
	// cheapIterations is up to where the server spends more on the commit than on
	// hashing: such users are made together. The others want a core each.
	cheapIterations = 256
	maxTogether     = 64 // as the function takes
	// patience is how long users wait for the one call that is under way before
	// another one begins beside it: what holds that one up is no matter of theirs.
	patience = 20 * time.Millisecond
	// noFunction is a target whose set-up was printed by an earlier version; it is
	// asked again after a while.
	noFunction   = "42883"
	askAgainTime = time.Minute
)

// creation is one user that is to be made.
type creation struct {
	lease    issuers.Lease
	verifier string
	user     string
	err      error
	done     chan struct{} // closed when user or err is known
	taken    bool          // somebody makes it; guarded by creations.mu
}

// creations are users that wait to be made. One that comes while no call is under
// way goes at once; those that come meanwhile go together with the next call, one
// commit for all.
type creations struct {
	mu      sync.Mutex
	waiting []*creation
	callers int
	alone   atomic.Int64 // until when the target is taken to know one at a time only; Unix nanoseconds
}

// create makes a user, and returns its name. When ctx ends first it may be made
// all the same, as after any call that was given up.
func (i *Issuer) create(ctx context.Context, c *creation) (string, error) {
	all := &i.creating
	if i.config.Roles[c.lease.Role].SCRAMIterations > cheapIterations || i.config.Now().UnixNano() < all.alone.Load() {
		i.createOne(ctx, c)
		return c.user, c.err
	}
	c.done = make(chan struct{})
	all.mu.Lock()
	all.waiting = append(all.waiting, c)
	all.mu.Unlock()
	i.callForAll(ctx, c, 1)
	impatient := time.NewTimer(patience)
	defer impatient.Stop()
	for {
		select {
		case <-c.done:
			return c.user, c.err
		case <-impatient.C:
			i.callForAll(ctx, c, i.config.MaxConnections)
			impatient.Reset(patience)
		case <-ctx.Done():
			all.forget(c)
			return "", ctx.Err()
		}
	}
}

// forget takes away what nobody waits for any more, if nobody has begun with it.
func (all *creations) forget(c *creation) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.waiting = slices.DeleteFunc(all.waiting, func(w *creation) bool { return w == c })
}

// callForAll begins to make what waits, unless c is being made already or there
// are as many callers as there may be.
func (i *Issuer) callForAll(ctx context.Context, c *creation, most int) {
	all := &i.creating
	all.mu.Lock()
	defer all.mu.Unlock()
	if c.taken || all.callers >= most {
		return
	}
	all.callers++
	// Whose caller gives up must not keep the others from their users.
	go i.makeWaiting(context.WithoutCancel(ctx))
}

func (i *Issuer) makeWaiting(ctx context.Context) {
	all := &i.creating
	for {
		runtime.Gosched() // who was woken together comes together
		all.mu.Lock()
		n := min(len(all.waiting), maxTogether)
		if n == 0 {
			all.waiting = nil
			all.callers--
			all.mu.Unlock()
			return
		}
		batch := all.waiting[:n:n]
		all.waiting = all.waiting[n:]
		for _, c := range batch {
			c.taken = true
		}
		all.mu.Unlock()
		i.createAll(ctx, batch)
		for _, c := range batch {
			close(c.done)
		}
	}
}

// createAll makes a batch with one call. What the target refuses is tried one by
// one: a user that can't be made must not keep the others.
func (i *Issuer) createAll(ctx context.Context, batch []*creation) {
	ctx, cancel := context.WithTimeout(ctx, i.config.StatementTimeout+commitSlack)
	defer cancel()
	if len(batch) == 1 {
		i.createOne(ctx, batch[0])
		return
	}
	err := i.createTogether(ctx, batch)
	answer, refused := errors.AsType[*pgconn.PgError](err)
	if refused && answer.Code == noFunction {
		i.creating.alone.Store(i.config.Now().Add(askAgainTime).UnixNano())
	}
	for _, c := range batch {
		// An ERROR is an answer: all of it was rolled back, whoever it was about.
		if c.err = err; refused && answer.Severity == "ERROR" {
			i.createOne(ctx, c)
		}
	}
}

func (i *Issuer) createTogether(ctx context.Context, batch []*creation) error {
	leaseIDs, roles, verifiers := make([]string, len(batch)), make([]string, len(batch)), make([]string, len(batch))
	ends, deadlines := make([]time.Time, len(batch)), make([]time.Time, len(batch))
	for n, c := range batch {
		leaseIDs[n], roles[n], verifiers[n], ends[n], deadlines[n] = c.lease.ID, c.lease.Role, c.verifier, c.lease.ExpiresAt, c.lease.IssueDeadline
	}
	var users []string
	// All are of one installation: see own.
	err := i.home.QueryRow(ctx, i.sql.createAll, leaseIDs, i.config.Installation, roles, verifiers, ends, deadlines).Scan(&users)
	if err != nil {
		return err
	}
	if len(users) != len(batch) {
		return errorf(issuers.ErrUnavailable, "creating users: the target's function made %d of %d", len(users), len(batch))
	}
	for n, c := range batch {
		c.user = users[n]
	}
	return nil
}

func (i *Issuer) createOne(ctx context.Context, c *creation) {
	lease := c.lease
	var user *string
	c.err = i.home.QueryRow(ctx, i.sql.create, lease.ID, lease.Installation, lease.Role, c.verifier, lease.ExpiresAt, lease.IssueDeadline).Scan(&user)
	switch {
	case c.err != nil:
	case user == nil:
		c.err = errorf(issuers.ErrRejected, "creating the user: the target's function was given nothing")
	default:
		c.user = *user
	}
}
