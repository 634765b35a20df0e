package vaultapi

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

// leases is sys/leases/{renew,revoke,lookup}, with the lease's id in the body or
// behind the path.
func (s *Server) leases(c *call, rest string) error {
	c.visit.Route = routeLeases
	name, inPath, _ := strings.Cut(rest, "/")
	var act func(c *call, held *leases.Held, id string, body fields) error
	switch name {
	case "renew":
		act = s.renewLease
	case "revoke":
		act = s.revokeLease
	case "lookup":
		act = s.lookupLease
	default:
		return s.nothing(c)
	}
	if err := takes(c, http.MethodPost); err != nil {
		return err
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	// Who has lost its session may still give back.
	held, err := s.held(c, name == "revoke")
	if err != nil {
		return err
	}
	id, err := body.text("lease_id")
	if err != nil {
		return err
	}
	if id == "" {
		id = inPath
	}
	if id == "" {
		return badRequest("lease_id is missing")
	}
	return act(c, held, id, body)
}

// lease finds a lease of the caller's own by its id here, PATH/lse_….
func (s *Server) lease(c *call, held *leases.Held, id string) (*leases.Lease, error) {
	own := id[strings.LastIndexByte(id, '/')+1:]
	if !ids.Valid(ids.Lease, own) {
		return nil, leases.ErrNotFound
	}
	c.visit.Note(slog.String("lease", own))
	return s.config.Broker.Lease(c.r.Context(), broker.Caller{Session: held}, own)
}

// foreign tells another token's lease from one that isn't there.
func foreign(err error) error {
	switch {
	case errors.Is(err, broker.ErrForeign):
		return denied("the lease is another token's")
	case errors.Is(err, leases.ErrNotFound):
		return noLease()
	}
	return err
}

func (s *Server) renewLease(c *call, held *leases.Held, id string, body fields) error {
	asked, err := body.increment()
	if err != nil {
		return err
	}
	l, err := s.lease(c, held, id)
	if err != nil {
		return foreign(err)
	}
	now := s.config.Broker.Now()
	if l.State != leases.Active || !now.Before(l.ExpiresAt) {
		return noLease()
	}
	var warnings []string
	if l.Renewable && !l.ExpiresAt.Before(l.MaxExpiresAt) {
		// As Vault does at a lease's maximum: it says what is left.
		warnings = []string{"the lease has reached the latest end that its policy and session allow"}
	} else if l, err = s.config.Broker.Renew(c.r.Context(), broker.Caller{Session: held}, l.ID, asked); err != nil {
		return foreign(err)
	}
	return c.answer(&envelope{
		LeaseID: id, Renewable: l.Renewable && l.ExpiresAt.Before(l.MaxExpiresAt), LeaseDuration: seconds(s.config.Broker.Now(), l.ExpiresAt), Warnings: warnings,
	})
}

// revokeLease is idempotent: what isn't there is revoked.
func (s *Server) revokeLease(c *call, held *leases.Held, id string, _ fields) error {
	l, err := s.lease(c, held, id)
	if err == nil {
		_, err = s.config.Broker.Revoke(c.r.Context(), broker.Caller{Session: held}, l.ID, "sys/leases/revoke")
	}
	if err != nil && (errors.Is(err, broker.ErrForeign) || !errors.Is(err, leases.ErrNotFound)) {
		return foreign(err)
	}
	return c.done()
}

func (s *Server) lookupLease(c *call, held *leases.Held, id string, _ fields) error {
	l, err := s.lease(c, held, id)
	if err != nil {
		return foreign(err)
	}
	now := s.config.Broker.Now()
	if l.State != leases.Active || !now.Before(l.ExpiresAt) {
		return noLease()
	}
	return c.answer(&envelope{Data: map[string]any{
		"id": id, "issue_time": l.IssuedAt.UTC().Format(time.RFC3339Nano), "expire_time": l.ExpiresAt.UTC().Format(time.RFC3339),
		"last_renewal": nil, "renewable": l.Renewable && l.ExpiresAt.Before(l.MaxExpiresAt), "ttl": seconds(now, l.ExpiresAt),
	}})
}
