package disclosures

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/outbound"
)

// ErrSignature says that a report was not signed by who it should be from.
var ErrSignature = errors.New("the report's signature is missing or wrong")

const (
	// keysLife is how long GitHub's keys are used without asking again, and keysStale
	// how long where it can't be asked.
	keysLife  = time.Hour
	keysStale = 24 * time.Hour
	// keysPause is how often it is asked at the most, whatever comes.
	keysPause   = time.Minute
	keysTimeout = 10 * time.Second
	maxKeys     = 1 << 20 // bytes of the answer
)

// GitHubKeysConfig says where the keys are that sign GitHub's reports.
type GitHubKeysConfig struct {
	URL                 string // https; http on a loopback address alone
	CAFile              string // "": the system's authorities
	AllowPrivateAddress bool
	Now                 func() time.Time
}

// GitHubKeys verifies what GitHub's secret scanning reports: the body is signed with
// ECDSA on P-256 over SHA-256, by one of the keys that it publishes. Safe for
// concurrent use.
type GitHubKeys struct {
	config GitHubKeysConfig
	client *http.Client

	mu    sync.Mutex
	keys  map[string]*ecdsa.PublicKey
	read  time.Time // when they were had
	asked time.Time
}

// NewGitHubKeys checks the configuration. It asks nobody.
func NewGitHubKeys(config GitHubKeysConfig) (*GitHubKeys, error) {
	u, err := url.Parse(config.URL)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("the keys of GitHub's secret scanning need a URL")
	}
	ip, _ := netip.ParseAddr(u.Hostname())
	plain := u.Scheme == "http" && (u.Hostname() == "localhost" || ip.Unmap().IsLoopback())
	if u.Scheme != "https" && !plain {
		return nil, errors.New("the keys of GitHub's secret scanning need an https URL: whoever could change them could report anything")
	}
	g := &GitHubKeys{config: config}
	reach := outbound.Reach{Private: config.AllowPrivateAddress, Loopback: plain}
	if config.CAFile == "" {
		g.client = outbound.New(reach, nil, keysTimeout)
		return g, nil
	}
	roots, err := outbound.Roots(config.CAFile)
	if err != nil {
		return nil, err
	}
	g.client = outbound.New(reach, roots, keysTimeout)
	return g, nil
}

// Verify returns nil for a body with a right signature, by the values of the headers
// Github-Public-Key-Identifier and Github-Public-Key-Signature; else ErrSignature, or
// leases.ErrUnavailable where the keys can't be had.
func (g *GitHubKeys) Verify(ctx context.Context, body []byte, keyID, signature string) error {
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || keyID == "" || len(sig) == 0 {
		return ErrSignature
	}
	key, err := g.key(ctx, keyID)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	if key == nil || !ecdsa.VerifyASN1(key, sum[:], sig) {
		return ErrSignature
	}
	return nil
}

// key finds a key by its id, nil where there is none. One that isn't known may be new.
func (g *GitHubKeys) key(ctx context.Context, id string) (*ecdsa.PublicKey, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.config.Now()
	key, fresh := g.keys[id], now.Sub(g.read) < keysLife
	if key != nil && fresh || now.Sub(g.asked) < keysPause {
		return key, g.usable(now)
	}
	g.asked = now
	keys, err := g.fetch(ctx)
	if err != nil {
		if g.usable(now) == nil {
			return key, nil
		}
		return nil, fmt.Errorf("fetching the keys of GitHub's secret scanning: %w: %w", leases.ErrUnavailable, err)
	}
	g.keys, g.read = keys, now
	return keys[id], nil
}

func (g *GitHubKeys) usable(now time.Time) error {
	if g.keys == nil || now.Sub(g.read) > keysStale {
		return fmt.Errorf("%w: the keys of GitHub's secret scanning could not be had; they are asked for again within a minute", leases.ErrUnavailable)
	}
	return nil
}

func (g *GitHubKeys) fetch(ctx context.Context) (map[string]*ecdsa.PublicKey, error) {
	// The sender may go away; others wait for the same keys.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.config.URL, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "daypass")
	response, err := g.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // it was read as far as it is used
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered with status %d (redirects are not followed)", response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxKeys+1))
	if err != nil || len(text) > maxKeys {
		return nil, errors.New("its answer could not be read, or is too long")
	}
	return parseGitHubKeys(text)
}

// parseGitHubKeys reads what GitHub publishes. A key of another kind is left out.
func parseGitHubKeys(text []byte) (map[string]*ecdsa.PublicKey, error) {
	var published struct {
		Keys []struct {
			ID  string `json:"key_identifier"`
			Key string `json:"key"`
		} `json:"public_keys"`
	}
	if err := json.Unmarshal(text, &published); err != nil {
		return nil, errors.New("its answer is not what was expected")
	}
	keys := map[string]*ecdsa.PublicKey{}
	for _, k := range published.Keys {
		block, _ := pem.Decode([]byte(k.Key))
		if block == nil {
			continue
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if key, ok := parsed.(*ecdsa.PublicKey); err == nil && ok && key.Curve == elliptic.P256() {
			keys[k.ID] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("its answer holds no key on P-256")
	}
	return keys, nil
}
