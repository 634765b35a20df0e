package reconciler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// comparison is one run under way.
type comparison struct {
	*Reconciler

	run    *Run
	lister issuers.Lister
	force  bool
	active active // before the listing
	marks  bool   // some leases of the issuer are marked as missing
}

// active are the ids of active leases and whether they were listed: 17 bytes a
// lease, so that a million takes 17 MB.
type active struct {
	ids    []ulid.ULID // sorted
	listed []bool
}

const maxActive = 1 << 20

func (a *active) see(id ulid.ULID) {
	if i, found := slices.BinarySearchFunc(a.ids, id, compareIDs); found {
		a.listed[i] = true
	}
}

func compareIDs(a, b ulid.ULID) int { return bytes.Compare(a[:], b[:]) }

// work compares and writes down what came of it, also when ctx ends.
func (c *comparison) work(ctx context.Context) error {
	working, cancel := context.WithTimeoutCause(ctx, runTime, fmt.Errorf("it took longer than %s", runTime))
	defer cancel()
	err := c.compare(working)
	if working.Err() != nil {
		if cause := context.Cause(working); !errors.Is(cause, context.Canceled) {
			err = cause
		} else {
			err = errStopped
		}
	}
	finishing, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), writeTime, errors.New("recording a reconciliation took too long"))
	defer cancel()
	if finish := c.finish(finishing, err); finish != nil {
		return errors.Join(err, finish)
	}
	log := c.config.Logger.With("issuer", c.run.Issuer, "run", c.run.ID, "listed", c.run.Listed, "orphans", c.run.Orphans, "revoked", c.run.Revoked,
		"young", c.run.Young, "alien", c.run.Alien, "missing", c.run.Missing, "dry_run", c.run.DryRun)
	switch {
	case err != nil:
		if c.config.Observe != nil {
			c.config.Observe.ReconcileFailed(c.run.Issuer)
		}
		log.WarnContext(ctx, "a target was not compared with the leases to the end", "error", err)
	case c.run.Orphans+c.run.Alien+c.run.Missing > 0:
		log.WarnContext(ctx, "a target and the leases differ")
	default:
		log.InfoContext(ctx, "a target was compared with the leases")
	}
	return err
}

func (c *comparison) compare(ctx context.Context) (err error) {
	if err := c.original(ctx); err != nil {
		return err
	}
	if err := c.loadActive(ctx); err != nil {
		return err
	}
	if _, total, err := c.config.Store.MissingOf(ctx, c.run.Issuer, 1); err != nil {
		return err
	} else if total > 0 {
		c.marks = true
	}
	if err := c.list(ctx); err != nil {
		return err
	}
	if err := c.keepClaim(ctx); err != nil { // what follows speaks of what wasn't listed
		return err
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if err := c.missing(ctx); err != nil {
		return err
	}
	return c.revokeAll(ctx)
}

// loadActive reads which leases are active before the first page is asked for.
func (c *comparison) loadActive(ctx context.Context) error {
	after := leases.ActiveLease{DueAt: time.Unix(0, 0)}
	for {
		page, err := c.config.Store.ActiveOf(ctx, c.run.Issuer, after, c.config.PageSize*10)
		if err != nil {
			return err
		}
		for _, l := range page {
			if id, err := ulid.ParseStrict(l.ID[min(len(l.ID), len(ids.Lease)):]); err == nil {
				c.active.ids = append(c.active.ids, id)
			}
		}
		if len(page) < c.config.PageSize*10 || len(c.active.ids) >= maxActive {
			break
		}
		after = page[len(page)-1]
	}
	slices.SortFunc(c.active.ids, compareIDs)
	c.active.ids = slices.Compact(c.active.ids)
	c.active.listed = make([]bool, len(c.active.ids))
	return nil
}

// list goes through all pages, and puts the candidates on record.
func (c *comparison) list(ctx context.Context) error {
	req := &issuers.ListRequest{Installation: c.config.Installation, Limit: c.config.PageSize}
	maxPages := 100 + 2*c.config.MaxListed/c.config.PageSize // some are empty
	for range maxPages {
		if err := c.keepClaim(ctx); err != nil {
			return err
		}
		res, err := c.ask(ctx, req)
		switch {
		case err != nil:
			return err
		case len(res.Found) > req.Limit:
			return fmt.Errorf("the issuer lists %d where %d were asked for", len(res.Found), req.Limit)
		}
		if err := c.page(ctx, res.Found); err != nil {
			return err
		}
		switch {
		case res.Next == "":
			return nil
		case res.Next == req.After:
			return errors.New("the issuer's list goes in circles")
		case c.run.Listed+c.run.Alien > c.config.MaxListed:
			return fmt.Errorf("the issuer lists more than %d: it is taken for a list without an end", c.config.MaxListed)
		}
		req = &issuers.ListRequest{Installation: req.Installation, Limit: req.Limit, After: res.Next}
	}
	return fmt.Errorf("the issuer's list has more than %d pages: it is taken for one without an end", maxPages)
}

// ask is the call of the issuer. One that panics has failed like any other.
func (c *comparison) ask(ctx context.Context, req *issuers.ListRequest) (res *issuers.ListResponse, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errors.New("listing took too long"))
	defer cancel()
	defer func() {
		if recover() != nil { // its value may hold anything: it is not repeated
			res, err = nil, errors.New("the issuer panicked")
		}
	}()
	if res, err = c.lister.List(ctx, req); err == nil && res == nil {
		err = errors.New("the issuer gave neither a page nor an error")
	}
	return res, err
}

// page looks up what one page names, after it was listed.
func (c *comparison) page(ctx context.Context, found []issuers.Existing) error {
	var asked []string
	ours := found[:0:0]
	for _, e := range found {
		if e.Installation != c.config.Installation {
			if c.run.Alien++; c.run.Alien == 1 {
				c.config.Logger.WarnContext(ctx, "an issuer lists what isn't this installation's; it is left alone", "issuer", c.run.Issuer, "name", clean(e.Name))
			}
			continue
		}
		c.run.Listed++
		if e.Name = clean(e.Name); e.Name == "" {
			e.Name = clean(e.LeaseID)
		}
		if !ids.Valid(ids.Lease, e.LeaseID) {
			e.LeaseID = ""
		} else {
			asked = append(asked, e.LeaseID)
			c.active.see(ulid.MustParseStrict(e.LeaseID[len(ids.Lease):]))
		}
		ours = append(ours, e)
	}
	if c.marks && len(asked) > 0 {
		if err := c.config.Store.UnmarkMissing(ctx, asked); err != nil {
			return err
		}
	}
	standing, err := c.config.Store.StandingOf(ctx, asked)
	if err != nil {
		return err
	}
	var candidates []candidate
	for _, e := range ours {
		lease, known := standing[e.LeaseID]
		if known && lease.Live() {
			continue
		}
		candidates = append(candidates, c.candidate(e, lease, known))
	}
	return c.recordCandidates(ctx, candidates)
}

// candidate is a credential without a live lease.
type candidate struct {
	issuers.Existing

	why   string
	state string // young or found
	since bool   // it is known since when it has no live lease
}

func (c *comparison) candidate(e issuers.Existing, lease leases.Standing, known bool) candidate {
	x := candidate{Existing: e, state: stateYoung}
	since := e.CreatedAt
	switch {
	case known && lease.EndedAt != nil:
		since = *lease.EndedAt
		x.why = fmt.Sprintf("its lease is %s since %s", lease.State, since.UTC().Format(time.RFC3339))
	case e.LeaseID == "":
		x.why = "nothing tells which lease it was made for"
	default:
		x.why = "there is no such lease"
	}
	// A time that is still to come is no time.
	if x.since = !since.IsZero() && since.Before(c.run.StartedAt.Add(c.config.Grace)); x.since && c.run.StartedAt.Sub(since) >= c.config.Grace {
		x.state = stateFound
	}
	return x
}

// missing marks the leases that were active before the listing began and after its
// end, and whose credential it doesn't have.
func (c *comparison) missing(ctx context.Context) error {
	gone := make([]string, 0, c.config.PageSize)
	flush := func() error {
		if len(gone) == 0 {
			return nil
		}
		if err := c.keepClaim(ctx); err != nil {
			return err
		}
		_, err := c.config.Store.MarkMissing(ctx, c.run.Issuer, gone)
		gone = gone[:0]
		return err
	}
	for i, id := range c.active.ids {
		if c.active.listed[i] {
			continue
		}
		if gone = append(gone, ids.Lease+id.String()); len(gone) == c.config.PageSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	var err error
	c.run.Missing, err = c.config.Store.TidyMissing(ctx, c.run.Issuer)
	return err
}
