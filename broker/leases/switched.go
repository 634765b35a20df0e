package leases

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// LiveOf asks for the live leases of one policy, grant (with its policy), issuer or
// provider.
type LiveOf struct {
	Policy, Grant, Issuer, Provider string

	After Place
	Limit int // how many are looked at
}

// LiveIDs reads the ids of one page of live leases, and where it ended; last says
// that there are no more. Of an issuer or a provider, all live leases are looked
// at: there is no index of them, and it is asked for when one is turned off.
func (s *Store) LiveIDs(ctx context.Context, of LiveOf) (found []string, end Place, last bool, err error) {
	which, policy := liveOfAll, of.After.policy
	if of.Policy != "" {
		which, policy = liveOfOne, of.Policy
	}
	end = of.After
	if of.Grant != "" && end.grant < of.Grant {
		end.grant = of.Grant // an empty id is before all of them
	}
	rows, err := s.config.Pool.Query(ctx, `
SELECT l.policy, l.grant_name, l.id, l.issuer, l.provider FROM leases l WHERE `+which+` ORDER BY l.policy, l.grant_name, l.id LIMIT $5`,
		s.config.Tenant, policy, end.grant, end.id, of.Limit)
	if err != nil {
		return nil, of.After, false, unavailable("reading live leases", err)
	}
	looked := 0
	var issuer, provider string
	if _, err := pgx.ForEachRow(rows, []any{&end.policy, &end.grant, &end.id, &issuer, &provider}, func() error {
		looked++
		if (of.Grant == "" || end.grant == of.Grant) && (of.Issuer == "" || issuer == of.Issuer) && (of.Provider == "" || provider == of.Provider) {
			found = append(found, end.id)
		}
		return nil
	}); err != nil {
		return nil, of.After, false, unavailable("reading live leases", err)
	}
	return found, end, looked < of.Limit || of.Grant != "" && end.grant > of.Grant, nil
}
