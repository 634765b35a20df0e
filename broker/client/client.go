// Package client speaks the broker's native HTTP API. It needs the standard
// library, the wire types of broker/api and the proofs of broker/dpop, and nothing else.
//
// Every call takes the token that it is made with: a job token for an exchange,
// a session or admin token for the rest. The client keeps none of them, and no
// error ever holds one.
//
// A refusal by the broker comes back as an [*api.Problem], as it was sent. Any
// other answer that is no success (a proxy's page, a redirect) becomes a Problem
// too, with code [CodeUnexpected], so that one errors.As is enough:
//
//	var problem *api.Problem
//	if errors.As(err, &problem) && problem.Code == api.CodeNotAllowed { … }
//
// Calls are tried up to [MaxTries] times when the broker answers 429, 502 or 503
// or can't be reached. That is safe for every call, exchanges included: such an
// answer means that no credential was delivered and none stays alive. Where an
// answer may have been lost on its way, exchanges alone are repeated: all tries of
// one share an Idempotency-Key, by which a broker takes back what an earlier try
// issued. Pauses grow, are spread out, and are no shorter than Retry-After.
//
// [Client.KeepAlive] renews leases while they are used, and tells of those that end:
//
//	answer, err := c.Exchange(ctx, jobToken, request)
//	…
//	defer c.RevokeSession(context.WithoutCancel(ctx), answer.Session.Token, "done")
//	go c.KeepAlive(ctx, answer, client.Told{Ended: func(lease api.Credential, err error) { … }})
package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/dpop"
)

const (
	// MaxAnswer is the largest answer that is read, in bytes.
	MaxAnswer = 1 << 20
	// MaxTries is how many times one call is sent at most.
	MaxTries = 4
	// MaxRetryAfter is the longest pause that a broker can ask for. A call that is
	// to be repeated later than that fails with what the broker answered.
	MaxRetryAfter = time.Minute

	tryTimeout  = time.Minute // of one try, when Config.HTTP is nil
	dialTimeout = 10 * time.Second
)

var (
	// ErrURL says that the broker's URL can't be used.
	ErrURL = errors.New("unusable URL of the broker")
	// ErrToken says that a token can't be one: it is empty, too long, or has bytes
	// that no header may hold. The error says nothing of what it is.
	ErrToken = errors.New("unusable token")
	// ErrTooLarge says that an answer has more than [MaxAnswer] bytes.
	ErrTooLarge = errors.New("answer too large")
)

// Config says where the broker is and how to reach it.
type Config struct {
	// URL of the broker: https://daypass.example.com, with a path where it stands
	// under one. Plain http is accepted for loopback addresses alone.
	URL string
	// InsecureHTTP accepts plain http for every host: tokens and credentials then
	// cross the network in the clear.
	InsecureHTTP bool
	// CAFile is a PEM file of certificates that are trusted besides the system's.
	// Not together with HTTP. None when empty.
	CAFile string
	// HTTP sends the requests. When nil: a client of its own that obeys the
	// proxy variables of the environment, TLS 1.2 at least, one minute a try.
	// Redirects are never followed, whatever it says: they would carry the token
	// to somebody else.
	HTTP *http.Client
	// UserAgent is sent as it is; "daypass" when empty.
	UserAgent string
	// DPoP has the client make a key in its memory, and bind to it what exchanges bring:
	// session tokens, API tokens and access tokens that are JWTs (RFC 9449). Each call
	// with a session token then comes with a proof of the key, so the session token of
	// another client is of no use here, and this one's nowhere else, but to be revoked.
	// The URL has to be the broker's external_url, which stands in the proofs.
	DPoP bool
	// Now is the clock that dates in Retry-After are compared with; the system's when nil.
	Now func() time.Time
}

// Client is safe for concurrent use.
type Client struct {
	base      *url.URL
	http      *http.Client
	userAgent string
	now       func() time.Time
	key       *dpop.Key // nil: session tokens are bearers'
}

// New makes a client. It sends nothing. Errors wrap [ErrURL], or say what is
// wrong with the CA file.
func New(config Config) (*Client, error) {
	base, err := parseURL(config.URL, config.InsecureHTTP)
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, userAgent: config.UserAgent, now: config.Now}
	if c.userAgent == "" {
		c.userAgent = "daypass"
	}
	if c.now == nil {
		c.now = time.Now //nolint:forbidigo // the default of Config.Now
	}
	if config.DPoP {
		if c.key, err = dpop.NewKey(); err != nil {
			return nil, err
		}
	}
	switch {
	case config.HTTP == nil:
		transport, err := newTransport(config.CAFile)
		if err != nil {
			return nil, err
		}
		c.http = &http.Client{Transport: transport, Timeout: tryTimeout}
	case config.CAFile != "":
		return nil, errors.New("CAFile and HTTP are both set: put the certificates into HTTP's transport")
	default:
		own := *config.HTTP
		c.http = &own
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func parseURL(text string, insecure bool) (*url.URL, error) {
	if text == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrURL)
	}
	u, err := url.Parse(text)
	if err != nil {
		// The error of url.Parse repeats the text, which may hold a password.
		return nil, fmt.Errorf("%w: it can't be parsed", ErrURL)
	}
	switch {
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%w: it doesn't begin with https://HOST", ErrURL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%w: user, query or fragment have no place in it", ErrURL)
	case u.Scheme == "http" && !insecure && !IsLoopback(u.Hostname()):
		return nil, fmt.Errorf("%w: plain http is for loopback addresses only (hint: use https://%s)", ErrURL, u.Host)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// IsLoopback says whether host can only be this machine: "localhost" or a
// loopback address, without a port.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func newTransport(caFile string) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile) //nolint:gosec // the file that the caller names is the one to read
		if err != nil {
			return nil, fmt.Errorf("reading CA certificates: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a machine without any: the file alone then
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading CA certificates: no PEM certificate in %s", caFile)
		}
		config.RootCAs = pool
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        90 * time.Second,
	}, nil
}
