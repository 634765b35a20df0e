package dpop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"time"
)

// Key makes proofs. It lives in memory alone: there is no way to have its private
// part out. Safe for concurrent use.
type Key struct {
	private    *ecdsa.PrivateKey
	header     string // of all its proofs, base64url
	thumbprint Thumbprint
}

// NewKey makes a key of P-256, for ES256.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for proofs: %w", err)
	}
	members := membersOf(&private.PublicKey)
	header := `{"typ":"` + typ + `","alg":"ES256","jwk":` + string(object(members)) + `}`
	return &Key{private: private, header: base64.RawURLEncoding.EncodeToString([]byte(header)), thumbprint: thumbprint(members)}, nil
}

// Thumbprint is what tokens are bound to.
func (k *Key) Thumbprint() Thumbprint { return k.thumbprint }

// Claims are what a proof says.
type Claims struct {
	ID       string `json:"jti"`
	Method   string `json:"htm"`
	URL      string `json:"htu"`
	IssuedAt int64  `json:"iat"`
	Hash     string `json:"ath,omitempty"`
}

// Prove makes a proof for one request, which is good once and for a minute. Token is
// the access token that goes with it; "" where there is none yet. Query and fragment
// of the URL are left out.
func (k *Key) Prove(method string, target *url.URL, token string, now time.Time) (string, error) {
	to := *target
	to.User, to.RawQuery, to.ForceQuery, to.Fragment, to.RawFragment = nil, "", false, "", ""
	claims := Claims{ID: rand.Text(), Method: method, URL: to.String(), IssuedAt: now.Unix()}
	if token != "" {
		claims.Hash = Hash(token)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("making a proof: %w", err)
	}
	signed := k.header + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, digest[:])
	if err != nil {
		return "", fmt.Errorf("making a proof: %w", err)
	}
	var signature [64]byte // RFC 7518 §3.4: both numbers at full length
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature[:]), nil
}
