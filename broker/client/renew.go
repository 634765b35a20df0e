package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/api"
)

const (
	// renewAtParts is when of what is left of a lease it is renewed: early enough for
	// several tries.
	renewAtParts = 2
	renewOfParts = 3
	// renewPause is the least time between two renewals of one lease.
	renewPause = time.Second
	// renewTimeout is the least time that one renewal is given, with its tries.
	renewTimeout = 5 * time.Second
)

// Told is who hears what becomes of leases that are kept alive. Neither is called
// by two goroutines at once.
type Told struct {
	// Renewed is told of a lease that got a later end, which ExpiresAt is. Nobody
	// when nil.
	Renewed func(credential api.Credential)
	// Ended is told of a lease that can't be counted on beyond its end, and why: of
	// one that can't be renewed, or not any further, when two thirds of what is left
	// of it have passed; of one whose renewals fail, at the second failure in a row;
	// of one that was revoked, or whose session was, at once. Who needs more has to
	// exchange anew. It is told once, and again only of a lease that was renewed in
	// the meantime, after failures.
	Ended func(credential api.Credential, err error)
}

var (
	errLastEnd   = errors.New("the lease can't be renewed any further: it has its latest end")
	errRenewable = errors.New("the lease can't be renewed: its kind or its policy allows no later end")
)

// KeepAlive renews the renewable leases of an answer until ctx ends, each when two
// thirds of what is left of it have passed, and tells of those that end. It returns
// when there is nothing left to renew or to tell. Failures that may pass are tried
// again until the lease's end.
func (c *Client) KeepAlive(ctx context.Context, answer *api.ExchangeResponse, told Told) {
	var mu sync.Mutex
	keeper := &leaseKeeper{Client: c, token: answer.Session.Token, renewed: func(credential api.Credential) {
		mu.Lock()
		defer mu.Unlock()
		if told.Renewed != nil && ctx.Err() == nil {
			told.Renewed(credential)
		}
	}, ended: func(credential api.Credential, err error) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil {
			told.Ended(credential, err)
		}
	}}
	var running sync.WaitGroup
	for _, credential := range answer.Credentials {
		if !credential.ExpiresAt.IsZero() {
			running.Go(func() { keeper.keep(ctx, credential) })
		}
	}
	running.Wait()
}

// leaseKeeper keeps the leases of one session token, each by itself: a broker that
// is slow for one must not cost another its end.
type leaseKeeper struct {
	*Client
	token   string
	renewed func(api.Credential)
	ended   func(api.Credential, error)
}

func (k *leaseKeeper) keep(ctx context.Context, credential api.Credential) {
	reason, failures := errRenewable, 0
	for credential.Renewable {
		if !sleep(ctx, k.renewIn(credential.ExpiresAt)) {
			return
		}
		lease, err := k.renew(ctx, credential)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
			credential.Renewable, reason = lease.Renewable, errLastEnd
			if lease.ExpiresAt.After(credential.ExpiresAt) {
				credential.ExpiresAt = lease.ExpiresAt
				k.renewed(credential)
			}
		case Ended(err) || !k.now().Before(credential.ExpiresAt):
			if failures < 2 { // of the second it was told
				k.ended(credential, err)
			}
			return
		case inVain(err):
			credential.Renewable, reason = false, err
		default:
			if failures++; failures == 2 {
				k.ended(credential, err)
			}
		}
	}
	if sleep(ctx, k.renewIn(credential.ExpiresAt)) {
		k.ended(credential, reason)
	}
}

// renew renews once, and waits for it no longer than leaves time for another try.
func (k *leaseKeeper) renew(ctx context.Context, credential api.Credential) (*api.Lease, error) {
	left := max(renewTimeout, credential.ExpiresAt.Sub(k.now())/renewOfParts)
	ctx, cancel := context.WithTimeoutCause(ctx, left, fmt.Errorf("no answer within %v", left.Round(time.Second)))
	defer cancel()
	lease, err := k.Renew(ctx, k.token, credential.LeaseID, "")
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("renewing lease: %w", context.Cause(ctx))
	}
	return lease, err
}

// renewIn is how long to wait before something is done about a lease.
func (c *Client) renewIn(end time.Time) time.Duration {
	return max(renewPause, end.Sub(c.now())*renewAtParts/renewOfParts)
}

// inVain says that asking again is in vain.
func inVain(err error) bool {
	problem, refused := errors.AsType[*api.Problem](err)
	return refused && final(problem)
}

// Ended says, of an error that [Told] was told with, that the lease doesn't live on
// until its end: it has ended, or was revoked, or the session that it is of.
func Ended(err error) bool {
	problem, refused := errors.AsType[*api.Problem](err)
	return refused && (problem.Code == api.CodeAlreadyRevoked || problem.Code == api.CodeInvalidToken || problem.Code == api.CodeNotFound)
}
