package oidc

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rotating is a provider with one key, and a verifier that has it already.
type rotating struct {
	clock    *clock
	key      *signer
	provider *fakeProvider
	verifier *Verifier
}

func newRotating(t *testing.T) *rotating {
	t.Helper()
	r := &rotating{clock: newClock(), key: newSigner(t, algES256, "a")}
	r.provider = newFakeProvider(t, r.key.jwk())
	r.verifier = newVerifier(t, r.provider.config(r.clock))
	if err := r.verify(t, r.key); err != nil {
		t.Fatal(err)
	}
	return r
}

// token is a new one, good for some hours, signed by s.
func (r *rotating) token(t testing.TB, s *signer) string {
	t.Helper()
	return s.token(t, r.provider.claims(r.clock, map[string]any{"exp": r.clock.Now().Unix() + 10*3600}))
}

func (r *rotating) verify(t *testing.T, s *signer) error {
	t.Helper()
	_, err := r.verifier.Verify(t.Context(), r.token(t, s))
	return err
}

// A key that a fetch didn't bring, and that the provider published right after it,
// is never taken for one that doesn't exist: unknown, then good.
func TestKeyPublishedAfterAFetch(t *testing.T) {
	r := newRotating(t)
	next := newSigner(t, algES256, "next")
	r.clock.Advance(cooldown)
	wantReason(t, r.verify(t, next), ReasonSignature) // asked just now: there is none
	r.provider.set(func(p *fakeProvider) { p.keys = append(p.keys, next.jwk()) })
	wantUnavailable(t, r.verify(t, next)) // not asked since
	r.clock.Advance(cooldown)
	if err := r.verify(t, next); err != nil {
		t.Errorf("the new key is refused: %v", err)
	}
}

// A fetch that had begun before a token came says nothing against it: the provider
// may have answered before it changed its keys.
func TestFetchThatBeganEarlierRefusesNobody(t *testing.T) {
	r := newRotating(t)
	next := newSigner(t, algES256, "next")
	asked, answer := make(chan struct{}), make(chan struct{})
	r.provider.set(func(p *fakeProvider) {
		p.jwks = func(w http.ResponseWriter, _ *http.Request) {
			close(asked)
			<-answer
			_, _ = w.Write([]byte(`{"keys":[]}`))
		}
	})
	r.clock.Advance(cooldown)
	made := newSigner(t, algES256, "made-up")
	results := make(chan error, 1)
	waiting := &signal{Context: t.Context(), looked: make(chan struct{})}
	go func() {
		_, err := r.verifier.Verify(t.Context(), r.token(t, made))
		results <- err
	}()
	<-asked
	go func() {
		<-waiting.looked // the token joins the fetch
		close(answer)
	}()
	_, err := r.verifier.Verify(waiting, r.token(t, next))
	wantUnavailable(t, err)
	wantReason(t, <-results, ReasonSignature) // the one that began it has its answer
}

// signal is a context that says when somebody begins to wait for its end.
type signal struct {
	context.Context //nolint:containedctx // it is one

	once   sync.Once
	looked chan struct{}
}

func (s *signal) Done() <-chan struct{} {
	s.once.Do(func() { close(s.looked) })
	return s.Context.Done()
}

// A provider whose only key has no name changes it: the first tokens under the new
// one are to come again, and are then good.
func TestRotationWithoutKeyIDs(t *testing.T) {
	c := newClock()
	first, second := newSigner(t, algES256, ""), newSigner(t, algES256, "")
	nameless := func(s *signer) map[string]any {
		j := s.jwk()
		delete(j, "kid")
		return j
	}
	p := newFakeProvider(t, nameless(first))
	v := newVerifier(t, p.config(c))
	verify := func(s *signer) error {
		payload := fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"x","exp":%d}`, p.issuer(), testAudience, c.Now().Unix()+60)
		_, err := v.Verify(t.Context(), s.raw(t, `{"alg":"ES256"}`, payload))
		return err
	}
	if err := verify(first); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *fakeProvider) { p.keys = []map[string]any{nameless(second)} })
	wantUnavailable(t, verify(second))
	c.Advance(cooldown)
	if err := verify(second); err != nil {
		t.Errorf("the new key is refused: %v", err)
	}
	c.Advance(cooldown)
	wantReason(t, verify(first), ReasonSignature) // withdrawn
}

// A provider that goes over to another algorithm changes what it declares with
// its keys, and is followed with the same fetch.
func TestRotationToAnotherAlgorithm(t *testing.T) {
	c := newClock()
	old, next := newSigner(t, algRS256, "old"), newSigner(t, algES256, "next")
	p := newFakeProvider(t, old.jwk())
	p.set(func(p *fakeProvider) { p.document["id_token_signing_alg_values_supported"] = []string{algRS256} })
	v := newVerifier(t, p.config(c))
	if _, err := v.Verify(t.Context(), old.token(t, p.claims(c, nil))); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *fakeProvider) {
		p.keys = append(p.keys, next.jwk())
		p.document["id_token_signing_alg_values_supported"] = []string{algRS256, algES256}
	})
	_, err := v.Verify(t.Context(), next.token(t, p.claims(c, nil)))
	wantUnavailable(t, err)
	c.Advance(cooldown)
	if _, err := v.Verify(t.Context(), next.token(t, p.claims(c, nil))); err != nil {
		t.Errorf("the new algorithm is refused: %v", err)
	}
}

// The provider changes its keys again and again while eight clients send made-up
// key ids. No good token is ever refused: it is accepted, or told to come again
// until the cooldown is over.
func TestRotationUnderAFlood(t *testing.T) {
	r := newRotating(t)
	stop := make(chan struct{})
	var flood sync.WaitGroup
	var sent atomic.Int64
	payload := r.token(t, r.key)
	payload = payload[strings.IndexByte(payload, '.'):]
	for client := range 8 {
		flood.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				header := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":"made-up-%d-%d"}`, client, i))
				if _, err := r.verifier.Verify(t.Context(), header+payload); err == nil {
					t.Error("a made-up key was accepted")
				}
				sent.Add(1)
			}
		})
	}
	before := r.provider.fetches.Load()
	const rotations = 20
	for i := range rotations {
		key := newSigner(t, algES256, fmt.Sprint("key-", i))
		r.provider.set(func(p *fakeProvider) { p.keys = []map[string]any{key.jwk()} })
		eventually(t, "the new key is good", func() bool {
			err := r.verify(t, key)
			if err != nil && !errors.Is(err, ErrUnavailable) {
				t.Fatalf("rotation %d: a good token was refused: %v", i, err)
			}
			if err != nil {
				r.clock.Advance(time.Second) // as the answer asks
			}
			return err == nil
		})
	}
	close(stop)
	flood.Wait()
	// One fetch per cooldown, however many tokens.
	if got := r.provider.fetches.Load() - before; got > 2*rotations {
		t.Errorf("%d fetches for %d rotations and %d tokens", got, rotations, sent.Load())
	}
}

// While the provider hangs and eight clients send made-up key ids, good tokens
// wait for nobody: before their keys' life is over, and after it too, once the
// provider is known to be down.
func TestGoodTokensWaitForNobody(t *testing.T) {
	r := newRotating(t)
	hanging := make(chan struct{}, 1)
	r.provider.set(func(p *fakeProvider) {
		p.discovery = func(_ http.ResponseWriter, request *http.Request) {
			select {
			case hanging <- struct{}{}:
			default:
			}
			<-request.Context().Done()
		}
	})
	keys := keySetOf(r.verifier, r.provider)
	var end context.CancelFunc
	keys.begin = func() (ctx context.Context, cancel context.CancelFunc) {
		ctx, end = context.WithCancel(t.Context()) // one at a time: its end is read after its beginning
		return ctx, end
	}
	r.clock.Advance(cooldown)
	flood, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	rest := r.token(t, r.key)
	rest = rest[strings.IndexByte(rest, '.'):]
	for client := range 8 {
		clients.Go(func() {
			for i := 0; flood.Err() == nil; i++ {
				header := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":"made-up-%d-%d"}`, client, i))
				if _, err := r.verifier.Verify(flood, header+rest); !errors.Is(err, ErrUnavailable) {
					t.Errorf("error is %v", err)
				}
			}
		})
	}
	<-hanging
	good := func(when string) {
		// Its context is over: a token that had to wait for anything would fail.
		over, cancel := context.WithCancel(t.Context())
		cancel()
		for range 200 {
			if _, err := r.verifier.Verify(over, r.token(t, r.key)); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		if idle(r.verifier, r.provider)() {
			t.Fatalf("%s: the fetch doesn't hang any more", when)
		}
	}
	good("while the keys are fresh")
	r.clock.Advance(defaultLife * 9 / 10)
	good("when they should be refreshed")
	end() // the fetch fails
	eventually(t, "the failure is known", keys.isFailing)
	r.clock.Advance(defaultLife)
	eventually(t, "the next fetch hangs", func() bool { return !idle(r.verifier, r.provider)() })
	<-hanging
	good("past their life, with the provider down")
	stop()
	clients.Wait()
	end()
	eventually(t, "the last fetch ends", idle(r.verifier, r.provider))
}

// What a provider can do on the wire, beyond what TestMisbehavingProvider says:
// bounded in size and time, answered with ErrUnavailable, and good keys that are at
// hand go on being used.
func TestProviderOnTheWire(t *testing.T) {
	for name, misbehave := range map[string]http.HandlerFunc{
		"a bomb of gzip": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			bomb := gzip.NewWriter(w)
			_, _ = bomb.Write([]byte(`{"keys":[],"x":"`))
			zeros := []byte(strings.Repeat("0", 1<<20))
			for range 64 {
				if _, err := bomb.Write(zeros); err != nil {
					return
				}
			}
		},
		"what is no gzip": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte(`{"keys":[]}`))
		},
		"large headers": func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1<<10))
			}
			_, _ = w.Write([]byte(`{"keys":[]}`))
		},
		"endless headers": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\n", "X: "+strings.Repeat("x", 1<<10)+"\r\n", r.Context().Done())
		},
		"endless early hints": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "", "HTTP/1.1 103 Early Hints\r\nX: x\r\n\r\n", r.Context().Done())
		},
		"endless body": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\n\r\n", strings.Repeat(" ", 1<<10), r.Context().Done())
		},
		"a drop at a time": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[`))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"no HTTP": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "SSH-2.0-OpenSSH\r\n", "\x00", r.Context().Done())
		},
		"very deep JSON": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":` + strings.Repeat("[", 1<<19)))
		},
		"keys of another type": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":{"a":1}}`)) },
		"a page for people": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte(`<!doctype html><title>Sign in</title>`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRotating(t)
			keys := keySetOf(r.verifier, r.provider)
			keys.begin = func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), 300*time.Millisecond) // what is 5 s otherwise
			}
			r.provider.set(func(p *fakeProvider) { p.jwks = misbehave })
			r.clock.Advance(defaultLife) // asked anew before use
			if err := r.verify(t, r.key); err != nil {
				t.Errorf("the keys at hand are not used: %v", err)
			}
			if !keys.isFailing() {
				t.Error("the answer was taken")
			}
			r.clock.Advance(staleLife)
			wantUnavailable(t, r.verify(t, r.key))
		})
	}
}

// hijack answers with bytes of its own: first once, and then more for ever.
func hijack(w http.ResponseWriter, first, more string, done <-chan struct{}) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(first)); err != nil {
		return
	}
	for {
		select {
		case <-done:
			return
		default:
		}
		if _, err := conn.Write([]byte(more)); err != nil {
			return
		}
	}
}

// However many tokens wait for a fetch, the next one is sent away at once, and
// those whose key is at hand are good all the while.
func TestWaitingTokensAreBounded(t *testing.T) {
	r := newRotating(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	r.provider.set(func(p *fakeProvider) {
		p.jwks = func(w http.ResponseWriter, _ *http.Request) {
			close(asked)
			<-answer
			_, _ = w.Write([]byte(`{"keys":[]}`))
		}
	})
	r.clock.Advance(cooldown)
	made := newSigner(t, algES256, "made-up")
	first := make(chan error, 1)
	go func() {
		_, err := r.verifier.Verify(t.Context(), r.token(t, made))
		first <- err
	}()
	<-asked
	keys := r.verifier.byIssuer[r.provider.issuer()][0].keys
	keys.waiting.Add(maxWaiting - 1) // as many as may wait, with the first
	wantUnavailable(t, r.verify(t, made))
	if err := r.verify(t, r.key); err != nil {
		t.Errorf("a token whose key is at hand: %v", err)
	}
	keys.waiting.Add(1 - maxWaiting)
	close(answer)
	wantReason(t, <-first, ReasonSignature)
	if n := keys.waiting.Load(); n != 0 {
		t.Errorf("%d are said to wait", n)
	}
}
