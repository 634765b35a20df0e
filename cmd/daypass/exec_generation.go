package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

// sessionMargin is by how much a session has to outlive credentials, that others got
// with its token can outlive them too.
const sessionMargin = 2 * time.Second

// generation is one set of credentials of a command: those that it began with, or
// some that were got in place of others. It is what has to be given back, with the
// session token in answer.
type generation struct {
	answer *api.ExchangeResponse
	job    string    // the job token that its session was opened with
	since  time.Time // when it was got

	mu       sync.Mutex
	renewed  map[string]renewal // by lease
	released map[string]bool    // leases that were given back
}

type renewal struct{ at, end time.Time }

// extend notes that a lease was renewed.
func (g *generation) extend(credential api.Credential) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renewed[credential.LeaseID] = renewal{time.Now(), credential.ExpiresAt}
}

// lasting is a credential that lasts until ExpiresAt, as was known from since on.
type lasting struct {
	api.Credential
	since time.Time
}

// first is the credential that ends first, of those that of chooses; the zero one
// where none ends.
func (g *generation) first(of func(grant string) bool) (first lasting) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, credential := range g.answer.Credentials {
		now := lasting{credential, g.since}
		if r, ok := g.renewed[credential.LeaseID]; ok {
			now.ExpiresAt, now.since = r.end, r.at
		}
		if of(credential.Grant) && !now.ExpiresAt.IsZero() && (first.ExpiresAt.IsZero() || now.ExpiresAt.Before(first.ExpiresAt)) {
			first = now
		}
	}
	return first
}

// part is the answer with the credentials alone that of chooses.
func (g *generation) part(of func(grant string) bool) *api.ExchangeResponse {
	part := *g.answer
	part.Credentials = slices.DeleteFunc(slices.Clone(part.Credentials), func(c api.Credential) bool { return !of(c.Grant) })
	return &part
}

func everyGrant(string) bool { return true }

// holdings are all generations that have not been given back. It is the one place
// where a session token of exec's comes up, and goes.
type holdings struct {
	p       *program
	c       *client.Client
	request api.ExchangeRequest

	mu     sync.Mutex
	live   []*generation
	watch  *watchdog // is told of each; nil before the first
	forget func()    // removes what keepSession left; nil before there was any
}

// begin gets the first generation.
func (h *holdings) begin(ctx context.Context) (*generation, error) {
	token, err := h.p.jobToken(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := h.c.Exchange(ctx, token, h.request)
	if err != nil {
		return nil, err
	}
	return h.add(answer, token), nil
}

// add takes a generation on, from the moment that it is there.
func (h *holdings) add(answer *api.ExchangeResponse, job string) *generation {
	g := &generation{answer: answer, job: job, since: time.Now(), renewed: map[string]renewal{}, released: map[string]bool{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live = append(h.live, g)
	if h.watch == nil {
		h.watch = h.p.startWatchdog(answer.Session)
	} else {
		h.watch.watch(answer.Session)
	}
	h.forget = h.p.keepSession(answer.Session)
	return g
}

// drop is for a generation of which all was given back.
func (h *holdings) drop(g *generation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live = slices.DeleteFunc(h.live, func(other *generation) bool { return other == g })
	h.watch.forget(g.answer.Session)
}

// alone says whether no other generation was got in the same session.
func (h *holdings) alone(g *generation) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !slices.ContainsFunc(h.live, func(other *generation) bool { return other != g && other.answer.Session.ID == g.answer.Session.ID })
}

// fresh gets the credentials of some grants anew: with the session token of those
// that end, and where that leads no further, with another token of the job.
func (h *holdings) fresh(ctx context.Context, old *generation, of func(grant string) bool) (*generation, error) {
	end := old.first(of).ExpiresAt
	request := api.ExchangeRequest{Grants: slices.DeleteFunc(slices.Clone(h.request.Grants), func(g api.GrantRequest) bool { return !of(g.Name) })}
	session := old.answer.Session
	over := fmt.Errorf("their session ends at %s", stamp(session.ExpiresAt))
	if session.ExpiresAt.Sub(end) > sessionMargin {
		g, err := h.later(ctx, exchange{token: session.Token, job: old.job, request: request, end: end})
		if problem, refused := errors.AsType[*api.Problem](err); err == nil || !errors.Is(err, errNoLater) && (!refused || problem.Code != api.CodeInvalidToken) {
			return g, err
		}
		over = err
	}
	token, err := h.p.anotherJobToken(ctx, old.job)
	if err != nil {
		return nil, fmt.Errorf("%w, and %w", over, err)
	}
	return h.later(ctx, exchange{token: token, job: token, request: request, end: end})
}

// exchange is one that has to bring credentials that end later than others.
type exchange struct {
	token, job string
	request    api.ExchangeRequest
	end        time.Time
}

var errNoLater = errors.New("fresh credentials would end no later")

func (h *holdings) later(ctx context.Context, e exchange) (*generation, error) {
	answer, err := h.c.Exchange(ctx, e.token, e.request)
	if err != nil {
		return nil, err
	}
	g := h.add(answer, e.job)
	if got := g.first(everyGrant); !got.ExpiresAt.After(e.end) {
		h.release(ctx, g, everyGrant)
		return nil, fmt.Errorf("%w: %s at %s", errNoLater, got.Grant, stamp(got.ExpiresAt))
	}
	return g, nil
}

// anotherJobToken finds a job token that isn't the one used.
func (p *program) anotherJobToken(ctx context.Context, used string) (string, error) {
	if p.tokenFile == "-" || p.tokenFile == "" && p.tokenEnv == "" && os.Getenv("DAYPASS_TOKEN_FILE") == "-" {
		return "", errors.New("the job's token came from standard input, once")
	}
	token, err := p.jobToken(ctx)
	if err == nil && token == used {
		err = errors.New("this job has no token but the one that it began with (hint: a longer session_ttl of the provider in the broker's configuration, or several shorter jobs)")
	}
	return token, err
}

// release gives back, of a generation, what nobody uses any more. It leaves the
// session to the others that were got in it. What fails is tried again at the end.
func (h *holdings) release(ctx context.Context, g *generation, of func(grant string) bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	rest := 0
	for _, credential := range g.answer.Credentials {
		switch {
		case g.released[credential.LeaseID]:
		case !of(credential.Grant):
			rest++
		}
	}
	if rest == 0 && h.alone(g) {
		if _, err := h.c.RevokeSession(ctx, g.answer.Session.Token, "replaced"); err == nil {
			h.drop(g)
		}
		return
	}
	for _, credential := range g.answer.Credentials {
		if g.released[credential.LeaseID] || !of(credential.Grant) {
			continue
		}
		if _, err := h.c.Revoke(ctx, g.answer.Session.Token, credential.LeaseID, api.RevokeRequest{Reason: "replaced"}); err != nil {
			return
		}
		g.released[credential.LeaseID] = true
	}
	if rest == 0 {
		h.drop(g)
	}
}

// giveAllBack revokes the sessions of all generations. That it failed is a warning,
// not an error: the command's work is done, the watchdog tries on, and the credentials
// end by themselves.
func (h *holdings) giveAllBack(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	well := true
	for _, g := range h.live {
		well = h.p.giveBack(ctx, h.c, g) && well
	}
	h.watch.end(well)
	if h.forget != nil {
		h.forget()
	}
}

// giveBack revokes one session token's part.
func (p *program) giveBack(ctx context.Context, c *client.Client, g *generation) (given bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, revokeTimeout, fmt.Errorf("no answer within %v", revokeTimeout))
	defer cancel()
	_, err := c.RevokeSession(ctx, g.answer.Session.Token, "command ended")
	if err == nil {
		return true
	}
	var end time.Time
	for _, credential := range g.answer.Credentials {
		if renewed := g.renewed[credential.LeaseID]; renewed.end.After(credential.ExpiresAt) {
			credential.ExpiresAt = renewed.end
		}
		if credential.ExpiresAt.After(end) {
			end = credential.ExpiresAt
		}
	}
	p.say("warning: the credentials could not be given back: %v; they end by themselves at %s", err, stamp(end))
	return false
}
