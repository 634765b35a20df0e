package oidc

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/daypass/daypass/broker/jose"
)

// Algorithms lists those that a provider may be allowed.
func Algorithms() []string { return jose.Algorithms() }

const maxKeys = 100

// key is one public key of a provider, checked and ready for use.
type key struct {
	id     string // may be empty
	alg    string // empty: whatever fits the key's type
	public crypto.PublicKey
}

// fits says whether alg may be used with this key. A key made for one algorithm
// is never used with another.
func (k *key) fits(alg string) bool {
	return (k.alg == "" || k.alg == alg) && jose.Fits(alg, k.public)
}

// verify checks t's signature; the algorithm is one that fits.
func (k *key) verify(t *token) bool {
	signature := jose.Signature{Algorithm: t.alg, Signed: t.signed, Digest: t.digest, Value: t.sig}
	return signature.By(k.public)
}

// jwk holds the members of a JSON Web Key (RFC 7517, RFC 7518 §6) that are read.
// Certificates (`x5c`) are not: the set comes over TLS from the provider itself.
type jwk struct {
	jose.PublicKey

	ID  string   `json:"kid"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	Alg string   `json:"alg"`
	D   string   `json:"d"`
	K   string   `json:"k"`
}

var (
	errNotForSigning = errors.New("not for signatures")
	errPrivate       = errors.New("private or symmetric key published")
)

// parseKeys reads a JWK Set. Keys that are not understood or too weak are left
// out (RFC 7517 §5), and so are keys that share a `kid` without being the same:
// a name that means two keys means none. skipped has one error for each.
func parseKeys(body []byte) (keys []*key, skipped []error, err error) {
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, nil, fmt.Errorf("parsing JWKS: %w", err)
	}
	if document.Keys == nil {
		return nil, nil, errors.New("parsing JWKS: no member keys")
	}
	if len(document.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("parsing JWKS: %d keys, more than %d", len(document.Keys), maxKeys)
	}
	ambiguous := map[string]bool{}
	for i, raw := range document.Keys {
		parsed, err := parseKey(raw)
		if err != nil {
			if !errors.Is(err, errNotForSigning) {
				skipped = append(skipped, fmt.Errorf("key %d: %w", i, err))
			}
			continue
		}
		same := slices.IndexFunc(keys, func(k *key) bool { return k.id != "" && k.id == parsed.id })
		if same < 0 {
			keys = append(keys, parsed)
			continue
		}
		if other := keys[same]; other.alg != parsed.alg || !equalKeys(other.public, parsed.public) {
			ambiguous[parsed.id] = true
			skipped = append(skipped, fmt.Errorf("key %d: its kid stands for another key too", i))
		}
	}
	keys = slices.DeleteFunc(keys, func(k *key) bool { return ambiguous[k.id] })
	return keys, skipped, nil
}

func equalKeys(a, b crypto.PublicKey) bool {
	key, ok := a.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && key.Equal(b)
}

func parseKey(raw []byte) (*key, error) {
	var j jwk
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", jose.ErrBadKey, err)
	}
	if j.D != "" || j.K != "" || j.KeyType == "oct" {
		return nil, errPrivate
	}
	if j.Use != "" && j.Use != "sig" || j.Ops != nil && !slices.Contains(j.Ops, "verify") {
		return nil, errNotForSigning
	}
	if len(j.ID) > maxKeyID {
		return nil, jose.ErrBadKey
	}
	public, err := j.Key()
	if err != nil {
		return nil, err
	}
	k := &key{id: j.ID, alg: j.Alg, public: public}
	if j.Alg != "" && !k.fits(j.Alg) {
		return nil, jose.ErrUnsupported
	}
	return k, nil
}
