package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxDocument bounds a discovery document or key set, in bytes as decoded.
	maxDocument = 1 << 20

	minLife     = time.Minute
	defaultLife = 10 * time.Minute
	maxLife     = time.Hour
)

// fetcher gets the keys of one provider. Only one goroutine uses it at a time: see
// keySet.
type fetcher struct {
	provider string
	issuer   string
	plain    bool // the issuer is http on a loopback address
	maxLife  time.Duration
	client   *http.Client
	now      func() time.Time
	logger   *slog.Logger
}

// discovered is what is kept of a discovery document.
type discovered struct {
	keysURL    string
	algorithms []string // empty: it doesn't say
}

// fetch returns a key set with its times filled in. It asks for the discovery
// document each time, so that keys and algorithms are of one moment: a provider
// that goes over to another algorithm changes both.
func (f *fetcher) fetch(ctx context.Context) (*snapshot, error) {
	now := f.now()
	found, err := f.discover(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetching discovery document: %w", err)
	}
	set, err := f.keys(ctx, found, now)
	if err != nil {
		return nil, fmt.Errorf("fetching keys: %w", err)
	}
	return set, nil
}

func (f *fetcher) discover(ctx context.Context) (*discovered, error) {
	body, _, err := f.get(ctx, strings.TrimSuffix(f.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	var document struct {
		Issuer     string   `json:"issuer"`
		KeysURL    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, fmt.Errorf("parsing: %w", err)
	}
	// OpenID Connect Discovery §4.3: the very same string.
	if document.Issuer != f.issuer {
		return nil, errors.New("its issuer is not the configured one\n" +
			"hint: compare them byte by byte, trailing slash included")
	}
	if err := checkKeysURL(document.KeysURL, f.plain); err != nil {
		return nil, fmt.Errorf("reading jwks_uri: %w", err)
	}
	return &discovered{keysURL: document.KeysURL, algorithms: document.Algorithms}, nil
}

func (f *fetcher) keys(ctx context.Context, found *discovered, now time.Time) (*snapshot, error) {
	body, header, err := f.get(ctx, found.keysURL)
	if err != nil {
		return nil, err
	}
	keys, skipped, err := parseKeys(body)
	if err != nil {
		return nil, err
	}
	for _, reason := range skipped {
		f.logger.WarnContext(ctx, "key of the provider left out", slog.String("provider", f.provider), slog.Any("error", reason))
	}
	life := min(lifetime(header), f.maxLife)
	return &snapshot{
		keys:        keys,
		algorithms:  found.algorithms,
		refreshAt:   now.Add(life - life/5),
		freshUntil:  now.Add(life),
		usableUntil: now.Add(life + staleLife),
	}, nil
}

func (f *fetcher) get(ctx context.Context, address string) (body []byte, header http.Header, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "daypass")
	response, err := f.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answered with status %d (redirects are not followed)", address, response.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading answer: %w", err)
	}
	if len(body) > maxDocument {
		return nil, nil, fmt.Errorf("%s answered with more than 1 MiB", address)
	}
	return body, response.Header, nil
}

// lifetime is how long the provider says its keys may be kept (RFC 9111 §5.2.2),
// within bounds: an answer never makes us ask more often than once a minute, nor
// keeps a withdrawn key alive for longer than an hour.
func lifetime(header http.Header) time.Duration {
	directives := strings.Split(strings.ToLower(strings.Join(header.Values("Cache-Control"), ",")), ",")
	for i := range directives {
		directives[i] = strings.TrimSpace(directives[i])
	}
	if slices.Contains(directives, "no-store") || slices.Contains(directives, "no-cache") {
		return minLife
	}
	for _, directive := range directives {
		value, found := strings.CutPrefix(directive, "max-age=")
		if !found {
			continue
		}
		seconds, err := strconv.Atoi(strings.Trim(value, `"`))
		if err != nil || seconds < 0 {
			return defaultLife
		}
		// Bounded before it is multiplied, which could overflow.
		seconds = min(seconds, int(maxLife/time.Second))
		return max(time.Duration(seconds)*time.Second, minLife)
	}
	return defaultLife
}
