package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/daypass/daypass/broker/outbound"
	"github.com/daypass/daypass/issuers"
)

// Stage is what a hook is called for.
type Stage string

// The stages, in their order.
const (
	StageSet    Stage = "set"    // put the new values into the target
	StageVerify Stage = "verify" // try whether they work there
)

// HookTimeout is how long a hook has to answer.
const HookTimeout = 10 * time.Second

// Hook changes a secret where it opens something. The same call may come more than
// once, and must come to the same: a broker that crashed doesn't know whether its
// call arrived.
type Hook interface {
	// Call returns nil when the stage is done. Its error holds no value.
	Call(ctx context.Context, call *HookCall) error
}

// HookCall is one call of a hook.
type HookCall struct {
	Stage    Stage
	Secret   string // its name
	SecretID string
	Version  int
	Values   Values // of that version
	Current  Values // of the version that is current, with which the target can be entered; nil: none
}

// key is the same for all calls of one stage of one version.
func (c *HookCall) key() string {
	return c.SecretID + "-" + strconv.Itoa(c.Version) + "-" + string(c.Stage)
}

// HTTPHook is a hook behind a URL.
type HTTPHook struct {
	url    string
	token  func() (issuers.Secret, error)
	client *http.Client
}

// HTTPHookConfig says where a hook is.
type HTTPHookConfig struct {
	URL string // https; http on a loopback address alone
	// Token gives the bearer token that is sent, anew for each call; nil: none is.
	Token               func() (issuers.Secret, error)
	CAFile              string // "": the system's authorities
	AllowPrivateAddress bool   // it stands in our own network
}

// NewHTTPHook checks the configuration. It calls nobody.
func NewHTTPHook(config HTTPHookConfig) (*HTTPHook, error) {
	u, err := url.Parse(config.URL)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("a hook needs an https URL without user and fragment")
	}
	ip, _ := netip.ParseAddr(u.Hostname())
	plain := u.Scheme == "http" && (u.Hostname() == "localhost" || ip.Unmap().IsLoopback())
	if u.Scheme != "https" && !plain {
		return nil, errors.New("a hook needs an https URL: what is sent to it is secret")
	}
	h := &HTTPHook{url: config.URL, token: config.Token}
	reach := outbound.Reach{Private: config.AllowPrivateAddress, Loopback: plain}
	if config.CAFile == "" {
		h.client = outbound.New(reach, nil, HookTimeout)
		return h, nil
	}
	roots, err := outbound.Roots(config.CAFile)
	if err != nil {
		return nil, err
	}
	h.client = outbound.New(reach, roots, HookTimeout)
	return h, nil
}

// Call implements Hook. Of the answer only its status counts: what it says is not
// repeated, since it may hold what it was sent.
func (h *HTTPHook) Call(ctx context.Context, call *HookCall) error {
	ctx, cancel := context.WithTimeoutCause(ctx, HookTimeout, fmt.Errorf("the hook took longer than %s", HookTimeout))
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"secret": call.Secret, "version": call.Version, "stage": call.Stage, "values": revealed(call.Values), "current": revealed(call.Current),
	})
	if err != nil {
		return errors.New("encoding the call of a hook failed") // json's error may quote
	}
	defer clear(body)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making the call of a hook: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "daypass")
	request.Header.Set("Idempotency-Key", call.key())
	if h.token != nil {
		token, err := h.token()
		if err != nil {
			return fmt.Errorf("reading the hook's token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	response, err := h.client.Do(request)
	if err != nil {
		return fmt.Errorf("calling the hook: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing of it is used
	_, _ = io.CopyN(io.Discard, response.Body, maxHookAnswer)
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("the hook answered with status %d (redirects are not followed)", response.StatusCode)
	}
	return nil
}

// maxHookAnswer is how much of an answer is read, so that its connection can be
// used again.
const maxHookAnswer = 16 << 10

func revealed(values Values) map[string]string {
	if values == nil {
		return nil
	}
	out := make(map[string]string, len(values))
	for field, value := range values {
		out[field] = value.Secret.Reveal()
	}
	return out
}
