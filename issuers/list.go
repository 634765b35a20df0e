package issuers

import (
	"context"
	"time"
)

// Lister is an Issuer that can say which credentials stand on its target, so
// that a reconciler finds those that no lease knows, and leases whose credential
// is gone.
type Lister interface {
	// List returns one page of what stands on the target and was made in the name
	// of one installation, by whichever of its issuers, and nothing else. What is
	// made or taken away while pages are read may be on one of them or on none;
	// all else is on exactly one. It changes no credential. Errors wrap
	// [ErrUnavailable], [ErrRejected] or [ErrUnsupported].
	List(ctx context.Context, req *ListRequest) (*ListResponse, error)
}

// ListRequest asks for one page.
type ListRequest struct {
	Installation string
	After        string // Next of the page before; "" for the first
	Limit        int    // how many at the most; at least 1
}

// ListResponse is one page. It may be empty and have a next one.
type ListResponse struct {
	Found []Existing
	Next  string // what the next page is asked for with; "" on the last
}

// Existing is a credential as the target knows it. There is no handle: [Issuer].Revoke
// works from a lease's id alone, and what is listed here is to be taken back by
// somebody who knows nothing else.
type Existing struct {
	// Installation is what the target has on record, or what the name says: not a
	// copy of the request's. Whoever asked touches nothing that isn't its own.
	Installation string
	LeaseID      string    // "" where nothing tells which lease it was made for
	Name         string    // by which an admin of the target finds it; never a secret
	CreatedAt    time.Time // by the target's clock; zero where it doesn't know
}
