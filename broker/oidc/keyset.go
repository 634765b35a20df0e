package oidc

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
)

const (
	// cooldown is the least time between the starts of two fetches from one
	// provider, whatever tokens ask for.
	cooldown = 10 * time.Second
	// staleLife is for how long keys are used past their life while the provider
	// can't be reached.
	staleLife = time.Hour
	// missingLife is for how long a key id is remembered that the provider didn't
	// know, and maxMissing how many are. Tokens that name one are refused without
	// another fetch, until some fetch brings the key after all.
	missingLife = time.Minute
	maxMissing  = 256
)

// snapshot is a provider's key set as of one fetch. It never changes.
type snapshot struct {
	keys       []*key
	algorithms []string // what the provider says it signs with; empty: it doesn't say

	refreshAt   time.Time // from here on, fetched anew beside the work
	freshUntil  time.Time // from here on, fetched anew before use
	usableUntil time.Time // the end, even when the provider is down
}

// keySet is a gooidc.KeySet with what the library's own lacks: keys have a life
// and withdrawn ones die with the next fetch; unknown key ids cause one fetch per
// cooldown and are remembered; at most one fetch is under way; and sizes, times
// and key strengths are bounded.
type keySet struct {
	provider string
	declared bool // accept only algorithms that the discovery document names
	now      func() time.Time
	logger   *slog.Logger
	// begin returns the context that a fetch runs under. A fetch serves all who
	// wait for it, so it doesn't end with the request that began it.
	begin func() (context.Context, context.CancelFunc)

	current atomic.Pointer[snapshot] // nil until the first good fetch

	mu        sync.Mutex
	fetcher   *fetcher             // used by the goroutine of running alone
	running   *fetching            // nil: none under way
	notBefore time.Time            // when the next fetch may start
	failing   bool                 // the last fetch failed
	missing   map[string]time.Time // key ids that a fetch didn't bring, with the end of that knowledge
}

// fetching is one fetch under way. set and err may be read once done is closed.
type fetching struct {
	done chan struct{}
	set  *snapshot
	err  error
}

var _ gooidc.KeySet = (*keySet)(nil)

// tokenKey is the context key under which a *token travels through go-oidc.
type tokenKey struct{}

// VerifySignature implements gooidc.KeySet. The token comes taken apart in the
// context, and carries the outcome back; jwt is its detached form.
//
// What it returns is not the whole payload but the two claims of it that the
// verifier checks. The strict parser has read all of it once, and its reading is
// what policies see: a second and lenient one would cost as much and decide nothing.
func (k *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	t, ok := ctx.Value(tokenKey{}).(*token)
	if !ok || jwt != t.detached() {
		return nil, errors.New("checking signature: token was not read by this package")
	}
	if err := k.verify(ctx, t); err != nil {
		t.failure = err
		return nil, err
	}
	t.verified = true
	return json.Marshal(struct {
		Issuer   string   `json:"iss"`
		Audience []string `json:"aud"`
	}{t.iss, t.aud})
}

func (k *keySet) verify(ctx context.Context, t *token) error {
	found, err := k.find(ctx, t)
	if err != nil {
		return err
	}
	t.digest = sha256.Sum256(t.signed)
	if !found.verify(t) {
		return refuse(ReasonSignature, "the signature is not that of the named key")
	}
	return nil
}

// find returns the key for t, fetching the provider's set where that is needed
// and allowed.
func (k *keySet) find(ctx context.Context, t *token) (*key, error) {
	now := k.now()
	set, asked, err := k.usable(ctx, now)
	if err != nil {
		return nil, err
	}
	found, err := set.pick(t, k.declared)
	if found != nil || err != nil {
		return found, err
	}
	if k.isMissing(t.kid, now) {
		return nil, errUnknownKey()
	}
	if !asked {
		// Perhaps the provider has a new key: look, as often as the cooldown allows.
		if set, err = k.refresh(ctx, now); err != nil {
			return nil, err
		}
		found, err = set.pick(t, k.declared)
	}
	if found == nil && err == nil {
		k.remember(t.kid, now)
		err = errUnknownKey()
	}
	return found, err
}

func errUnknownKey() error {
	return refuse(ReasonSignature, "the provider publishes no key of that kid")
}

// usable returns a set that may be used now, and whether the provider was asked
// for it just now. Keys past their life are an answer only while it is down.
func (k *keySet) usable(ctx context.Context, now time.Time) (set *snapshot, asked bool, err error) {
	set = k.current.Load()
	switch {
	case set == nil || !now.Before(set.usableUntil):
		set, err = k.refresh(ctx, now)
		return set, true, err
	case now.Before(set.refreshAt):
		return set, false, nil
	case now.Before(set.freshUntil) || k.isFailing():
		// Nobody waits: the keys at hand are good, or waiting was tried.
		k.start(now)
		return set, false, nil
	}
	fresh, err := k.refresh(ctx, now)
	switch {
	case err == nil:
		return fresh, true, nil
	case ctx.Err() != nil:
		return nil, false, err
	default:
		return set, false, nil
	}
}

// pick returns the key that t names; nil without an error when there is none.
func (s *snapshot) pick(t *token, declared bool) (*key, error) {
	if declared && len(s.algorithms) > 0 && !slices.Contains(s.algorithms, t.alg) {
		return nil, refuse(ReasonAlgorithm, "the provider doesn't declare this algorithm")
	}
	if t.kid != "" {
		i := slices.IndexFunc(s.keys, func(k *key) bool { return k.id == t.kid })
		if i < 0 {
			return nil, nil // not an error yet: the caller may fetch
		}
		if !s.keys[i].fits(t.alg) {
			return nil, refuse(ReasonAlgorithm, "the named key is not one for this algorithm")
		}
		return s.keys[i], nil
	}
	// Without a kid nothing is guessed: a single key, or none.
	var only *key
	for _, candidate := range s.keys {
		if !candidate.fits(t.alg) {
			continue
		}
		if only != nil {
			return nil, refuse(ReasonSignature, "no kid, and the provider has several keys for the algorithm")
		}
		only = candidate
	}
	if only == nil {
		return nil, refuse(ReasonSignature, "no kid, and the provider has no key for the algorithm")
	}
	return only, nil
}

// refresh waits for a fetch: the one under way, or a new one.
func (k *keySet) refresh(ctx context.Context, now time.Time) (*snapshot, error) {
	f, wait := k.start(now)
	if f == nil {
		return nil, k.unavailable(wait, errors.New("asked a moment ago"))
	}
	select {
	case <-f.done:
		if f.err != nil {
			return nil, k.unavailable(cooldown, f.err)
		}
		return f.set, nil
	case <-ctx.Done():
		return nil, k.unavailable(0, context.Cause(ctx))
	}
}

// start begins a fetch, or returns the one under way. During the cooldown it
// returns nil and how long that will still last.
func (k *keySet) start(now time.Time) (f *fetching, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.running != nil {
		return k.running, 0
	}
	if now.Before(k.notBefore) {
		return nil, k.notBefore.Sub(now)
	}
	k.notBefore = now.Add(cooldown)
	f = &fetching{done: make(chan struct{})}
	k.running = f
	go k.run(f)
	return f, 0
}

func (k *keySet) run(f *fetching) {
	ctx, cancel := k.begin()
	defer cancel()
	set, err := k.fetcher.fetch(ctx)
	if err != nil {
		k.logger.WarnContext(ctx, "keys of the provider not fetched", slog.String("provider", k.provider), slog.Any("error", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.current.Store(set)
	}
	f.set, f.err = set, err
	k.failing = err != nil
	k.running = nil
	close(f.done)
}

func (k *keySet) isFailing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failing
}

func (k *keySet) isMissing(kid string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	until, ok := k.missing[kid]
	return ok && now.Before(until)
}

// remember notes that a fetch didn't bring kid. A full memory forgets all: it
// saves fetches, and the cooldown bounds these anyway.
func (k *keySet) remember(kid string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.missing == nil || len(k.missing) >= maxMissing {
		k.missing = make(map[string]time.Time)
	}
	k.missing[kid] = now.Add(missingLife)
}

func (k *keySet) unavailable(wait time.Duration, cause error) error {
	return &UnavailableError{Provider: k.provider, RetryAfter: max(wait, time.Second), err: cause}
}
