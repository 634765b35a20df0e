package client

import (
	"context"
	"errors"
	"time"

	"github.com/daypass/daypass/broker/api"
)

const (
	// renewAt is when of what is left of a lease it is renewed: early enough for
	// several tries.
	renewAtParts = 2
	renewOfParts = 3
	// renewPause is the least time between two renewals of one lease.
	renewPause = time.Second
)

// KeepAlive renews the renewable leases of an answer until ctx ends, each when two
// thirds of what is left of it have passed. It returns when there is nothing left
// to renew. Ended is told of each lease that can't be renewed any further, with
// why, and once only: the lease lives on until its last end, and who needs more
// has to exchange anew. Failures that may pass are tried again.
func (c *Client) KeepAlive(ctx context.Context, answer *api.ExchangeResponse, ended func(credential api.Credential, err error)) {
	type held struct {
		credential api.Credential
		at         time.Time
	}
	var list []*held
	for _, credential := range answer.Credentials {
		if credential.Renewable {
			list = append(list, &held{credential, c.renewAt(credential.ExpiresAt)})
		}
	}
	for len(list) > 0 {
		next := 0
		for i, h := range list {
			if h.at.Before(list[next].at) {
				next = i
			}
		}
		h := list[next]
		if !sleep(ctx, max(0, h.at.Sub(c.now()))) {
			return
		}
		lease, err := c.Renew(ctx, answer.Session.Token, h.credential.LeaseID, "")
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && lease.Renewable && lease.ExpiresAt.After(h.credential.ExpiresAt):
			h.credential.ExpiresAt = lease.ExpiresAt
			h.at = c.renewAt(lease.ExpiresAt)
			continue
		case err != nil && !inVain(err) && c.now().Before(h.credential.ExpiresAt):
			h.at = c.renewAt(h.credential.ExpiresAt)
			continue
		case err == nil:
			h.credential.ExpiresAt = lease.ExpiresAt
			err = errLastEnd
		}
		list = append(list[:next], list[next+1:]...)
		ended(h.credential, err)
	}
}

// errLastEnd says that a lease has the latest end that its policy lets it have.
var errLastEnd = errors.New("the lease can't be renewed any further: it has its latest end")

func (c *Client) renewAt(end time.Time) time.Time {
	now := c.now()
	return now.Add(max(renewPause, end.Sub(now)*renewAtParts/renewOfParts))
}

// inVain says that asking again is in vain.
func inVain(err error) bool {
	problem, refused := errors.AsType[*api.Problem](err)
	return refused && final(problem)
}
