package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/issuers"
)

// listed is a row of list_page.
type listed struct {
	LeaseID   string
	UserName  string
	CreatedAt *time.Time
	Stands    bool // the server has the user; false: somebody dropped it by hand
	More      bool // there are rows behind this page's
}

// List implements [issuers.Lister]: the users on record that the server has, under
// whatever name, and those that carry the installation's name and are not on
// record. Pages go by the lease's id. The first page also ends sessions that
// outlived their user.
func (i *Issuer) List(ctx context.Context, req *issuers.ListRequest) (*issuers.ListResponse, error) {
	if req.Installation != i.config.Installation {
		return nil, errorf(issuers.ErrRejected, "listing users: installation %q was asked for, and this is %q", req.Installation, i.config.Installation)
	}
	if req.Limit < 1 {
		return nil, errorf(issuers.ErrRejected, "listing users: a page has at least 1")
	}
	rows, err := i.home.Query(ctx, i.sql.list, req.Installation, req.After, req.Limit)
	if err != nil {
		return nil, listError(classify(ctx, "listing users", err))
	}
	page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[listed])
	if err != nil {
		return nil, listError(classify(ctx, "listing users", err))
	}
	res := &issuers.ListResponse{}
	for _, r := range page {
		if r.More {
			res.Next = r.LeaseID // the last one's stays
		}
		if !r.Stands {
			continue
		}
		e := issuers.Existing{Installation: req.Installation, LeaseID: r.LeaseID, Name: r.UserName}
		if r.CreatedAt != nil {
			e.CreatedAt = r.CreatedAt.UTC()
		}
		res.Found = append(res.Found, e)
	}
	return res, nil
}

// listError tells a target that was set up by an earlier version from one that
// was never set up, which nothing works on.
func listError(err error) error {
	if e, ok := errors.AsType[*targetError](err); ok && e.code == "42883" { // undefined_function
		return &targetError{kind: issuers.ErrUnsupported, code: e.code, text: e.text}
	}
	return err
}
