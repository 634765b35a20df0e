package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/issuers"
)

// Waits between looks at sessions that were told to end. Most are gone at the second.
const (
	firstLook = time.Millisecond
	lastLook  = 100 * time.Millisecond
	// rounds is how often Revoke begins at the first step again within one call,
	// when a login that was under way showed itself between two steps.
	rounds = 3
)

// Revoke implements [issuers.Issuer]. It goes by the lease's id alone. Every step
// is a call and so a commit of its own: NOLOGIN and the end of sessions in one
// transaction would let a login in before the commit.
func (i *Issuer) Revoke(ctx context.Context, req *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	lease := req.Lease
	if err := i.own(lease); err != nil {
		return nil, errorf(issuers.ErrBlocked, "%v", err)
	}
	var existed bool
	var user string
	if err := i.home.QueryRow(ctx, i.sql.bar, lease.ID, lease.Installation).Scan(&existed, &user); err != nil {
		// Whatever the reason: the user may still log in, so this is never "blocked".
		return nil, unavailable(classify(ctx, "barring the user", err))
	}
	i.config.Checkpoint(StepRevokeAfterBar)
	if user == "" {
		return &issuers.RevokeResponse{Found: existed}, nil
	}
	for round := 1; ; round++ {
		err := i.takeAway(ctx, lease, user)
		if err == nil {
			return &issuers.RevokeResponse{Found: true}, nil
		}
		if e, ok := errors.AsType[*targetError](err); !ok || e.code != codeBusy || round == rounds {
			return nil, err
		}
	}
}

// takeAway is all after the bar.
func (i *Issuer) takeAway(ctx context.Context, lease issuers.Lease, user string) error {
	databases, err := i.cut(ctx, lease)
	if err != nil {
		return err
	}
	i.config.Checkpoint(StepRevokeAfterCut)
	for _, database := range databases {
		if err := i.handOver(ctx, database, lease, user); err != nil {
			return err
		}
	}
	i.config.Checkpoint(StepRevokeAfterHandOver)
	if _, err := i.home.Exec(ctx, i.sql.drop, lease.ID, lease.Installation); err != nil {
		return revokeError(classify(ctx, "dropping the user", err))
	}
	i.config.Checkpoint(StepRevokeAfterDrop)
	return nil
}

// cutResult is a look at what a user still has.
type cutResult struct {
	sessions             int
	prepared, preparedIn []string // transactions and their databases
	presentIn            []string // databases in which it owns things or holds rights
}

// cut ends the user's sessions and prepared transactions, and returns the
// databases in which something is to be handed over.
func (i *Issuer) cut(ctx context.Context, lease issuers.Lease) ([]string, error) {
	end := i.config.Now().Add(i.config.StatementTimeout)
	rolledBack := false
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		var r cutResult
		err := i.home.QueryRow(ctx, i.sql.cut, lease.ID, lease.Installation).Scan(&r.sessions, &r.prepared, &r.preparedIn, &r.presentIn)
		switch {
		case err != nil:
			return nil, unavailable(classify(ctx, "ending the user's sessions", err))
		case r.sessions == 0 && len(r.prepared) == 0:
			return r.presentIn, nil
		case r.sessions == 0 && !rolledBack:
			if err := i.rollBack(ctx, r); err != nil {
				return nil, err
			}
			rolledBack = true
			continue
		case !i.config.Now().Before(end):
			return nil, errorf(issuers.ErrUnavailable, "%d sessions of the user have not ended within %s", r.sessions, i.config.StatementTimeout)
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, classify(ctx, "waiting for the user's sessions to end", err)
		}
	}
}

// rollBack ends prepared transactions, whose locks outlive their session and
// would keep handing over waiting. A function can't do it, so it needs an account
// that may: the broker's may not, unless an admin chose so.
func (i *Issuer) rollBack(ctx context.Context, r cutResult) error {
	for n, gid := range r.prepared {
		database := r.preparedIn[n]
		pool, ok := i.pools[database]
		if !ok {
			return errorf(issuers.ErrBlocked, "prepared transaction %s stands in database %s, which is not listed\nhint: an admin ends it there with ROLLBACK PREPARED",
				plain(quoteText(gid)), plain(database))
		}
		_, err := pool.Exec(ctx, "ROLLBACK PREPARED "+quoteText(gid))
		if answer, isAnswer := errors.AsType[*pgconn.PgError](err); isAnswer && answer.Code == "42501" { // insufficient_privilege
			return errorf(issuers.ErrBlocked, "prepared transaction %s of the user stands in database %s, and the broker's account may not end it\nhint: an admin ends it there with ROLLBACK PREPARED",
				plain(quoteText(gid)), plain(database))
		}
		if err != nil {
			return revokeError(classify(ctx, "rolling back a prepared transaction", err))
		}
	}
	return nil
}

// quoteText writes a literal that reads the same whatever
// standard_conforming_strings says. PostgreSQL takes no parameter there.
func quoteText(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

func (i *Issuer) handOver(ctx context.Context, database string, lease issuers.Lease, user string) error {
	pool, ok := i.pools[database]
	if !ok {
		return errorf(issuers.ErrBlocked, "the user has things or rights in database %s, which is not listed for this target (listed: %s)\nhint: add it to the target's databases and run the set-up there, or have an admin drop them",
			plain(database), strings.Join(slices.Clone(i.config.Target.Databases), ", "))
	}
	if _, err := pool.Exec(ctx, i.sql.handOver, lease.ID, lease.Installation, user); err != nil {
		return revokeError(classify(ctx, "handing over in database "+database, err))
	}
	return nil
}

// revokeError fits an error of the later steps to the contract: what the target
// refuses once the user is barred and cut is for a person to mend.
func revokeError(err error) error {
	if e, ok := errors.AsType[*targetError](err); ok && !errors.Is(e.kind, issuers.ErrUnavailable) {
		return &targetError{kind: issuers.ErrBlocked, code: e.code, text: e.text}
	}
	return err
}

// unavailable is for the first steps, where the credential may still work.
func unavailable(err error) error {
	if e, ok := errors.AsType[*targetError](err); ok {
		return &targetError{kind: issuers.ErrUnavailable, code: e.code, text: e.text}
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
