package oidc

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// cooldown is the least time between the starts of two fetches from one
	// provider, whatever tokens ask for.
	cooldown = 10 * time.Second
	// staleLife is for how long keys are used past their life while the provider
	// can't be reached.
	staleLife = time.Hour
	// maxWaiting is how many tokens wait for a fetch at most; the others are to come
	// again. A token whose key is at hand doesn't wait.
	maxWaiting = 1024
)

// snapshot is a provider's key set as of one fetch. It never changes.
type snapshot struct {
	keys       []*key
	algorithms []string // what the provider says it signs with; empty: it doesn't say

	refreshAt   time.Time // from here on, fetched anew beside the work
	freshUntil  time.Time // from here on, fetched anew before use
	usableUntil time.Time // the end, even when the provider is down
}

// keySet has the keys of one provider. They have a life, and withdrawn ones die
// with the next good fetch; at most one fetch is under way, and at most one begins
// per cooldown; sizes, times and key strengths are bounded.
//
// A token whose key is at hand waits for nobody, whatever others send: it takes no
// lock that is held during a fetch.
//
// A token whose key is not at hand is refused only by a set that was asked for
// after the token had come. By an older one nothing is known of it, since the
// provider may have changed its keys meanwhile: such a token is to come again.
// Whoever floods the broker with made-up key ids thus can't bring it to refuse the
// first tokens under a new key.
type keySet struct {
	provider string
	now      func() time.Time
	logger   *slog.Logger
	// begin returns the context that a fetch runs under. A fetch serves all who
	// wait for it, so it doesn't end with the request that began it.
	begin func() (context.Context, context.CancelFunc)

	current atomic.Pointer[snapshot] // nil until the first good fetch

	mu        sync.Mutex
	fetcher   *fetcher  // used by the goroutine of running alone
	running   *fetching // nil: none under way
	notBefore time.Time // when the next fetch may start
	failing   bool      // the last fetch failed

	waiting atomic.Int32 // tokens, for the fetch under way
}

var (
	errAskedBefore = errors.New("asked a moment ago")
	errCrowd       = errors.New("many tokens wait for them already")
)

// fetching is one fetch under way. set and err may be read once done is closed.
type fetching struct {
	done chan struct{}
	set  *snapshot
	err  error
}

// verify checks t's signature, and that its key may make it. It asks the provider
// for its set where that is needed and allowed.
func (k *keySet) verify(ctx context.Context, t *token) error {
	now := k.now()
	set, own, err := k.usable(ctx, now)
	if err != nil {
		return err
	}
	unknown, err := set.check(t)
	if !unknown || own {
		return err
	}
	// Perhaps the provider has a new key: look, as often as the cooldown allows.
	if set, own, err = k.refresh(ctx, now); err != nil {
		return err
	}
	unknown, err = set.check(t)
	if unknown && !own {
		// The fetch had begun before the token came.
		return k.unavailable(k.pause(now), errAskedBefore)
	}
	return err
}

// usable returns a set that may be used now, and whether it was asked for on this
// token's behalf. Keys past their life are an answer only while the provider is down.
func (k *keySet) usable(ctx context.Context, now time.Time) (set *snapshot, own bool, err error) {
	set = k.current.Load()
	switch {
	case set == nil || !now.Before(set.usableUntil):
		return k.refresh(ctx, now)
	case now.Before(set.refreshAt):
		return set, false, nil
	case now.Before(set.freshUntil) || k.isFailing():
		// Nobody waits: the keys at hand are good, or waiting was tried.
		k.start(now)
		return set, false, nil
	}
	fresh, own, err := k.refresh(ctx, now)
	switch {
	case err == nil:
		return fresh, own, nil
	case ctx.Err() != nil:
		return nil, false, err
	default:
		return set, false, nil
	}
}

// check judges t by this set. unknown says that a newer set might have judged
// otherwise; err is the verdict if there is none.
func (s *snapshot) check(t *token) (unknown bool, err error) {
	found, err := s.pick(t)
	if err != nil {
		return true, err
	}
	if !found.fits(t.alg) {
		return false, refuse(ReasonAlgorithm, "the named key is not one for this algorithm")
	}
	if len(s.algorithms) > 0 && !slices.Contains(s.algorithms, t.alg) {
		return false, refuse(ReasonAlgorithm, "the provider doesn't declare this algorithm")
	}
	t.digest = sha256.Sum256([]byte(t.signed))
	if !found.verify(t) {
		// A key without a name may have been replaced by another.
		return t.kid == "", refuse(ReasonSignature, "the signature is not that of the provider's key")
	}
	return false, nil
}

// pick returns the key that t names.
func (s *snapshot) pick(t *token) (*key, error) {
	if t.kid != "" {
		for _, candidate := range s.keys {
			if candidate.id == t.kid {
				return candidate, nil
			}
		}
		return nil, refuse(ReasonSignature, "the provider publishes no key of that kid")
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

// refresh waits for a fetch: the one under way, or a new one, which is then its own.
func (k *keySet) refresh(ctx context.Context, now time.Time) (set *snapshot, own bool, err error) {
	f, own := k.start(now)
	if f == nil {
		return nil, false, k.unavailable(k.pause(now), errAskedBefore)
	}
	defer k.waiting.Add(-1)
	if k.waiting.Add(1) > maxWaiting {
		return nil, own, k.unavailable(0, errCrowd)
	}
	select {
	case <-f.done:
		if f.err != nil {
			return nil, own, k.unavailable(cooldown, f.err)
		}
		return f.set, own, nil
	case <-ctx.Done():
		return nil, own, k.unavailable(0, context.Cause(ctx))
	}
}

// start begins a fetch (own), or returns the one under way; during the cooldown
// neither.
func (k *keySet) start(now time.Time) (f *fetching, own bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.running != nil {
		return k.running, false
	}
	if now.Before(k.notBefore) {
		return nil, false
	}
	k.notBefore = now.Add(cooldown)
	k.running = &fetching{done: make(chan struct{})}
	go k.run(k.running)
	return k.running, true
}

// pause is how long the cooldown will still last.
func (k *keySet) pause(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.notBefore.Sub(now)
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

func (k *keySet) unavailable(wait time.Duration, cause error) error {
	return &UnavailableError{Provider: k.provider, RetryAfter: max(wait, time.Second), err: cause}
}
