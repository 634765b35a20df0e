package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// ErrNoDocument says that no issuer publishes that.
var ErrNoDocument = errors.New("no such document")

// published keeps the documents of issuers for a while: strangers ask for them,
// and making one takes a signature.
type published struct {
	mu   sync.Mutex
	kept map[string]*keptDocument // as many as issuers publish
}

type keptDocument struct {
	mu       sync.Mutex // held while it is made, so that it is made once
	document *issuers.Document
	err      error // of the last try, in place of a document
	until    time.Time
}

// maxKept bounds how old a document may be when it is handed out; it says itself
// for how long it may be kept after that.
const maxKept = 10 * time.Second

// keptError is how long one failure speaks for all who ask: they must not wait for
// a key that is away one after the other.
const keptError = time.Second

// Publish gives a document of an issuer: see [issuers.Publisher].
func (b *Broker) Publish(ctx context.Context, issuer, name string) (*issuers.Document, error) {
	publisher, ok := b.config.Issuers[issuer].Issuer.(issuers.Publisher)
	if !ok {
		return nil, fmt.Errorf("%w: issuer %q publishes nothing", ErrNoDocument, issuer)
	}
	kept := b.published.keep(issuer, name, publisher.Documents())
	if kept == nil {
		return nil, fmt.Errorf("%w: issuer %s has none called %q", ErrNoDocument, issuer, name)
	}
	kept.mu.Lock()
	defer kept.mu.Unlock()
	now := b.config.Store.Now()
	if now.Before(kept.until) {
		return kept.document, kept.err
	}
	// It is made for all who wait, whatever becomes of the one who asked first.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), b.config.IssueTime, fmt.Errorf("issuer %s took longer than %s", issuer, b.config.IssueTime))
	defer cancel()
	document, err := publisher.Publish(ctx, name, revocations{store: b.config.Store, issuer: issuer})
	if err != nil {
		kept.document, kept.err = nil, &IssueError{Grant: issuer + "/" + name, OwnKey: true, err: err}
		kept.until = b.config.Store.Now().Add(keptError)
		return nil, kept.err
	}
	kept.document, kept.err, kept.until = document, nil, now.Add(min(document.MaxAge, maxKept))
	return document, nil
}

func (p *published) keep(issuer, name string, names []string) *keptDocument {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range names {
		if known != name {
			continue
		}
		key := issuer + "/" + name
		if p.kept[key] == nil {
			if p.kept == nil {
				p.kept = map[string]*keptDocument{}
			}
			p.kept[key] = &keptDocument{}
		}
		return p.kept[key]
	}
	return nil
}

// ErrMediaType says that a question came as something else than the issuer reads.
var ErrMediaType = errors.New("wrong media type")

// Respond answers a question about an issuer's credentials: see
// [issuers.Responder]. kind is the media type of the question; "" where it came
// without one.
func (b *Broker) Respond(ctx context.Context, issuer, kind string, question []byte) (*issuers.Document, error) {
	responder, ok := b.config.Issuers[issuer].Issuer.(issuers.Responder)
	if !ok {
		return nil, fmt.Errorf("%w: issuer %q answers no questions", ErrNoDocument, issuer)
	}
	if kind != "" && kind != responder.RequestType() {
		return nil, fmt.Errorf("%w: it must be %s", ErrMediaType, responder.RequestType())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.config.IssueTime, fmt.Errorf("issuer %s took longer than %s", issuer, b.config.IssueTime))
	defer cancel()
	document, err := responder.Respond(ctx, question, revocations{store: b.config.Store, issuer: issuer})
	if errors.Is(err, issuers.ErrUnavailable) {
		return nil, &IssueError{Grant: issuer, OwnKey: true, err: err}
	}
	return document, err
}

// revocations is what the store knows of one issuer's leases.
type revocations struct {
	store  *leases.Store
	issuer string
}

// RevokedEarly implements issuers.Revocations.
func (r revocations) RevokedEarly(ctx context.Context, keyID string) ([]issuers.Revoked, error) {
	return r.store.RevokedEarly(ctx, r.issuer, keyID)
}

// Status implements issuers.Revocations.
func (r revocations) Status(ctx context.Context, leaseID string) (issuers.Status, error) {
	return r.store.Status(ctx, r.issuer, leaseID)
}

// Now implements issuers.Revocations.
func (r revocations) Now() time.Time { return r.store.Now() }
