package disclosures

import (
	"context"
	"errors"
	"time"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

// identify says whose what was found is, and leaves out what the caller isn't told of.
func (r *run) identify(ctx context.Context, batch []*Finding) ([]*Finding, error) {
	if err := r.identifyValues(ctx, batch); err != nil {
		return nil, err
	}
	if err := r.identifySessions(ctx, batch); err != nil {
		return nil, err
	}
	if err := r.identifyAdmins(ctx, batch); err != nil {
		return nil, err
	}
	var found []*Finding
	for _, f := range batch {
		switch {
		case f.identified():
			found = append(found, f)
		case r.search.Session != nil, !f.shaped:
			// Nobody's business, or a candidate that only looked like a value.
		case r.unknown >= maxUnknown:
			r.report.Truncated = true
		default:
			r.unknown++
			f.Kind = KindUnknownToken
			found = append(found, f)
		}
	}
	return found, nil
}

// identified says that it is known whose it is.
func (f *Finding) identified() bool { return f.LeaseID != "" || f.token != nil || f.Admin != nil }

func of(batch []*Finding, kind string) (sums [][32]byte, by map[[32]byte]*Finding) {
	by = map[[32]byte]*Finding{}
	for _, f := range batch {
		if f.Kind == kind {
			sums, by[f.value] = append(sums, f.value), f
		}
	}
	return sums, by
}

func (r *run) identifyValues(ctx context.Context, batch []*Finding) error {
	sums, by := of(batch, KindLease)
	if len(sums) == 0 {
		return nil
	}
	store := r.service.config.Store
	printed, err := store.FindPrints(ctx, sums, r.among)
	if err != nil || len(printed) == 0 {
		return err
	}
	wanted := make([]string, len(printed))
	for i, p := range printed {
		wanted[i] = p.LeaseID
	}
	list, err := store.ByID(ctx, wanted)
	if err != nil {
		return err
	}
	onRecord := map[string]*leases.Lease{}
	for _, l := range list {
		onRecord[l.ID] = l
	}
	for _, p := range printed { // of each value the latest first
		f := by[p.Sum]
		if f.LeaseID == "" {
			f.LeaseID, f.Field, f.Lease = p.LeaseID, p.Field, onRecord[p.LeaseID]
		}
		f.Leases++
		if l := onRecord[p.LeaseID]; l != nil {
			f.holders = append(f.holders, l)
			f.Live = f.Live || live(l, store.Now())
		}
	}
	sessions := map[string]*leases.Session{}
	for _, f := range by {
		if f.LeaseID == "" {
			continue
		}
		if err := r.service.tellJob(ctx, f, sessions); err != nil {
			return err
		}
	}
	return nil
}

// live says whether a lease's credential works somewhere.
func live(l *leases.Lease, now time.Time) bool {
	if !l.State.Ended() {
		return true
	}
	until := l.ValidElsewhereUntil()
	return until != nil && now.Before(*until)
}

// tellJob finds the job of a lease.
func (s *Service) tellJob(ctx context.Context, f *Finding, sessions map[string]*leases.Session) error {
	if f.Lease == nil {
		l, err := s.config.Store.Remembered(ctx, f.LeaseID)
		if errors.Is(err, leases.ErrNotFound) {
			l, err = &leases.Lease{ID: f.LeaseID, IssuedAt: ids.Time(ids.Lease, f.LeaseID)}, nil
		}
		f.Lease = l
		return err
	}
	session, read := sessions[f.Lease.SessionID]
	if !read {
		var err error
		session, err = s.config.Store.Session(ctx, f.Lease.SessionID)
		if err != nil && !errors.Is(err, leases.ErrNotFound) && !errors.Is(err, leases.ErrForged) {
			return err
		}
		sessions[f.Lease.SessionID] = session // nil where it is gone, or can't be believed
	}
	if f.Session = session; session != nil {
		f.Run = s.config.Run(session)
	}
	return nil
}

func (r *run) identifySessions(ctx context.Context, batch []*Finding) error {
	sums, by := of(batch, KindSessionToken)
	if held := r.search.Session; held != nil {
		// Its own token, and no other.
		if f := by[held.TokenHash]; f != nil {
			r.tellSession(f, held)
		}
		return nil
	}
	if len(sums) == 0 {
		return nil
	}
	tokens, err := r.service.config.Store.FindTokens(ctx, sums)
	for _, held := range tokens {
		r.tellSession(by[held.TokenHash], held)
	}
	return err
}

func (r *run) tellSession(f *Finding, held *leases.Held) {
	f.token, f.Session = held, &held.Session
	f.Live = !held.TokenRevoked && held.RevokedAt == nil && r.service.config.Store.Now().Before(held.ExpiresAt)
	f.Run = r.service.config.Run(f.Session)
}

func (r *run) identifyAdmins(ctx context.Context, batch []*Finding) error {
	sums, by := of(batch, KindAdminToken)
	if len(sums) == 0 || r.search.Session != nil {
		return nil
	}
	tokens, err := r.service.config.Admins.Find(ctx, sums)
	for sum, token := range tokens {
		f := by[sum]
		f.Admin = token
		f.Live = token.RevokedAt == nil && r.service.config.Now().Before(token.ExpiresAt)
	}
	return err
}
