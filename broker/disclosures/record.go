package disclosures

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

// maxSources is how many places of one value are on record.
const maxSources = 100

const insertLeak = `
INSERT INTO leaks AS k (id, tenant, value, source, subject, live, actor, seen_at, events)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, 1
WHERE (SELECT count(*) FROM (SELECT FROM leaks WHERE tenant = $2 AND value = $3 LIMIT $9) AS places) < $9
    OR EXISTS (SELECT FROM leaks WHERE tenant = $2 AND value = $3 AND source = $4)
ON CONFLICT (tenant, value, source) DO UPDATE SET seen_at = excluded.seen_at WHERE k.seen_at < excluded.seen_at - interval '1 hour'`

// place is where a value was found.
type place struct {
	*Finding

	source string
}

// record puts what was found on record, with the event of each value that is new at
// this place. Tokens that nobody knows are not: anybody can make them up.
func (s *Service) record(ctx context.Context, search *Search, found []*Finding) error {
	now := s.config.Store.Now().UTC().Truncate(time.Microsecond)
	batch := &pgx.Batch{}
	var events []audit.Event
	by := map[string]place{}
	for _, f := range found {
		if f.Kind == KindUnknownToken {
			continue
		}
		for _, source := range f.sources {
			id := ids.New(ids.Leak, now)
			event, err := s.config.Audit.Event(audit.Entry{At: now, Type: audit.LeakFound, Subject: id, Count: 1, Actor: search.Actor, Data: about(f, source)})
			if err != nil {
				return err
			}
			batch.Queue(insertLeak, id, s.config.Tenant, f.value[:], source, f.subject(), f.Live, search.Actor, now, maxSources)
			events, by[id] = append(events, event), place{f, source}
		}
	}
	if len(events) == 0 {
		return nil
	}
	var fresh []string
	audit.InsertIf(batch, events, `EXISTS (SELECT FROM leaks k WHERE k.id = e.subject)`)
	batch.Queue(`SELECT id FROM leaks WHERE id = ANY ($1)`, subjects(events)).Query(func(rows pgx.Rows) (err error) {
		fresh, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err := s.config.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return leases.Unavailable("recording what was found", err)
	}
	for _, id := range fresh {
		f := by[id]
		s.config.Observe.Found(f.Kind, f.Live)
		s.config.Logger.WarnContext(ctx, "a secret was found where it doesn't belong", "leak", id, "kind", f.Kind, "subject", f.subject(), "live", f.Live, "source", f.source, "actor", search.Actor)
	}
	return nil
}

func subjects(events []audit.Event) []string {
	list := make([]string, len(events))
	for i := range events {
		list[i] = events[i].Subject
	}
	return list
}

// subject is what a finding is about.
func (f *Finding) subject() string {
	switch f.Kind {
	case KindSessionToken:
		return f.Session.ID
	case KindAdminToken:
		return f.Admin.ID
	}
	return f.LeaseID
}

// about is what the audit log says of a finding: never the value.
func about(f *Finding, source string) map[string]any {
	data := map[string]any{"kind": f.Kind, "source": source, "live": f.Live}
	if f.Form != "" {
		data["form"] = f.Form
	}
	switch f.Kind {
	case KindSessionToken:
		data["session"], data["provider"], data["subject"] = f.Session.ID, f.Session.Provider, f.Session.Subject
	case KindAdminToken:
		data["admin"], data["owner"] = f.Admin.ID, f.Admin.Owner
	default:
		data["lease"], data["field"], data["leases"] = f.LeaseID, f.Field, f.Leases
		if l := f.Lease; l.Policy != "" {
			data["grant"], data["provider"], data["subject"] = l.Policy+"/"+l.Grant, l.Provider, l.Subject
		}
	}
	if f.Run != "" {
		data["run"] = f.Run
	}
	return data
}

// takeBack ends what was found: leases, the sessions of session tokens, admin tokens.
// Whoever holds a secret that stood in a log could use it; that it can only be ended
// with it is no new power.
func (s *Service) takeBack(ctx context.Context, search *Search, found []*Finding) error {
	by := map[string][]*Finding{} // those of one place go together
	for _, f := range found {
		by[f.sources[0]] = append(by[f.sources[0]], f)
	}
	for source, at := range by {
		why := leases.Why{Actor: search.Actor, Reason: "its secret was found in a text"}
		if source != "" {
			why.Reason = "its secret was found: " + source
		}
		if err := s.takeBackLeases(ctx, at, why); err != nil {
			return err
		}
		if err := s.takeBackTokens(ctx, at, why); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) takeBackTokens(ctx context.Context, found []*Finding, why leases.Why) error {
	for _, f := range found {
		switch f.Kind {
		case KindSessionToken:
			ended, err := s.config.Store.RevokeSession(ctx, f.token.ID, f.token.TokenHash, why)
			if err != nil {
				return err
			}
			s.notify(ended)
		case KindAdminToken:
			if err := s.config.Admins.RevokeFor(ctx, f.Admin.ID, why.Actor, why.Reason); err != nil {
				return err
			}
		default:
			continue
		}
		if f.Live {
			s.config.Observe.TakenBack(f.Kind)
		}
		f.Revoked, f.Live = true, false
	}
	return nil
}

func (s *Service) takeBackLeases(ctx context.Context, found []*Finding, why leases.Why) error {
	begun := map[string]bool{} // were live
	var wanted []string
	for _, f := range found {
		for _, l := range f.holders {
			if !l.State.Ended() && !begun[l.ID] {
				begun[l.ID] = l.State != leases.Revoking
				wanted = append(wanted, l.ID)
			}
		}
	}
	now := map[string]*leases.Lease{}
	if len(wanted) > 0 {
		ended, err := s.config.Store.BeginRevoke(ctx, wanted, why)
		if err != nil {
			return err
		}
		s.notify(ended)
		for _, l := range ended {
			now[l.ID] = l
			if begun[l.ID] {
				s.config.Observe.TakenBack(KindLease)
			}
		}
	}
	for _, f := range found {
		if f.Kind != KindLease {
			continue
		}
		f.Revoked, f.Live = true, false
		for _, l := range f.holders {
			if after := now[l.ID]; after != nil {
				l = after
			}
			f.Live = f.Live || live(l, s.config.Store.Now())
			if f.Lease.ID == l.ID {
				f.Lease = l
			}
		}
	}
	return nil
}

// notify wakes the revoker for leases that it has to take back.
func (s *Service) notify(ended []*leases.Lease) {
	told := map[string]bool{}
	for _, l := range ended {
		if !l.State.Ended() && !told[l.Issuer] {
			told[l.Issuer] = true
			s.config.Notify(l.Issuer)
		}
	}
}
