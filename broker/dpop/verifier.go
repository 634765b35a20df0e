package dpop

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Window is how far a proof's iat may be from the verifier's clock, before it and
// behind it. Proofs are made for one request, so seconds would do on good clocks; a
// minute lets a runner's be off as far as CI machines without NTP are found to be,
// and is how long a proof that somebody took could be of use where its first use
// wasn't seen (another broker of the fleet).
const Window = time.Minute

const (
	// maxSeen bounds the memory of proofs, in each of two halves: 20 MB, if ever full.
	maxSeen = 1 << 17
	// maxSeenOfKey is how many proofs of one key are remembered. It is what one job
	// can take of the room of all: it may make as many requests in one to two minutes.
	maxSeenOfKey = 1 << 12
)

// ErrCrowded says that more proofs came than can be remembered: by this key, or
// altogether. The same request may come again later, with a new proof.
var ErrCrowded = errors.New("too many requests with a proof in a short time")

// Verifier checks proofs, and takes each once. It remembers them in its own memory: two
// verifiers don't know of each other's. Its zero value is ready. Safe for concurrent use.
type Verifier struct {
	mu         sync.Mutex
	young, old half
	turned     time.Time
}

// half is what was seen in a span of two windows: the time in which one proof can be
// good. So what is in neither half was never seen, or is too old by now.
type half struct {
	proofs map[[16]byte]struct{}
	of     map[Thumbprint]int
}

// Request is what a proof has to be for.
type Request struct {
	Method string
	URL    string // query and fragment don't matter
	// Token is the access token that the request presents; "" where it presents none.
	Token string
	// HashOptional lets a proof say nothing of the token, where the token is none that
	// is bound: what it says has to be true all the same.
	HashOptional bool
}

// Read takes the one proof of a request and checks all of RFC 9449, section 4.3, but
// what it says of the request, the time, and whether it came before. Errors are an [Error].
func Read(header http.Header) (*Proof, error) {
	values := header.Values(Header)
	switch len(values) {
	case 1:
		return parse(values[0])
	case 0:
		return nil, refuse("there is none: send one in the header DPoP")
	}
	return nil, refuse("there are several headers DPoP: send one")
}

// Check says whether a proof is for a request, and made now. It doesn't remember it:
// see Use. Errors are an [Error].
func (p *Proof) Check(request Request, now time.Time) error {
	if p.method != request.Method {
		return refuse("htm is not the method of the request, %s", request.Method)
	}
	want, err := Normalize(request.URL)
	if err != nil {
		return fmt.Errorf("the URL that a proof is compared with: %w", err)
	}
	if got, err := Normalize(p.url); err != nil || got != want {
		return refuse("htu is not the URL of the request, %s", want)
	}
	if off := now.Sub(p.IssuedAt).Truncate(time.Second); off > Window || off < -Window {
		return refuse("iat is %s off the clock here, and %s is the most: make one for each request, and look at the clocks", off.Abs(), Window)
	}
	if request.Token == "" || p.hash == "" && request.HashOptional {
		return nil
	}
	if subtle.ConstantTimeCompare([]byte(p.hash), []byte(Hash(request.Token))) != 1 {
		return refuse("ath is missing, or not the hash of the token")
	}
	return nil
}

// Use takes a proof that was checked, once: a second time is an [Error]. Call it last,
// when the token is known to be good, so that strangers can't fill its memory. It
// returns ErrCrowded where there is no room left.
func (v *Verifier) Use(p *Proof, now time.Time) error {
	sum := sha256.Sum256(append(p.Thumbprint[:], p.ID...))
	name := [16]byte(sum[:])
	v.mu.Lock()
	defer v.mu.Unlock()
	v.turn(now)
	_, young := v.young.proofs[name]
	_, old := v.old.proofs[name]
	switch {
	case young || old:
		return refuse("it was used before: make one for each request")
	case len(v.young.proofs) >= maxSeen || v.young.of[p.Thumbprint] >= maxSeenOfKey:
		return ErrCrowded
	}
	v.young.proofs[name] = struct{}{}
	v.young.of[p.Thumbprint]++
	return nil
}

// turn forgets what can't come again.
func (v *Verifier) turn(now time.Time) {
	const span = 2 * Window
	// A second more, since iat has no fractions and Check cuts them.
	passed := now.Sub(v.turned)
	switch {
	case v.young.proofs == nil:
		v.turned = now
	case passed < 0: // a clock that was set back: nothing is forgotten for a whole span
		v.turned = now
		return
	case passed < span+time.Second:
		return
	case passed < 2*(span+time.Second):
		v.old, v.turned = v.young, now
	default:
		v.old, v.turned = half{}, now
	}
	v.young = half{proofs: map[[16]byte]struct{}{}, of: map[Thumbprint]int{}}
}
