package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/daypass/daypass/broker/api"
)

// Secrets reads one page of static secrets, by name, with an admin's token. Cursor
// is the Next of the page before, and empty for the first.
func (c *Client) Secrets(ctx context.Context, token, cursor string, limit int) (*api.SecretList, error) {
	query := url.Values{}
	set(query, "cursor", cursor)
	setLimit(query, limit)
	var answer api.SecretList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathSecrets, token: token, query: query}, &answer); err != nil {
		return nil, fmt.Errorf("listing secrets: %w", err)
	}
	return &answer, nil
}

// Secret reads what is known of a static secret and its versions: never a value.
func (c *Client) Secret(ctx context.Context, token, name string) (*api.Secret, error) {
	return c.secret(ctx, call{method: http.MethodGet, token: token}, name, "")
}

// PutSecret makes a static secret, changes its settings, or makes a pending version.
func (c *Client) PutSecret(ctx context.Context, token, name string, put api.SecretPut) (*api.Secret, error) {
	return c.secret(ctx, call{method: http.MethodPut, token: token, body: put}, name, "")
}

// ChangeSecret does what a verb says with a version: api.SecretVerify and the like.
func (c *Client) ChangeSecret(ctx context.Context, token, name, verb string, change api.SecretChange) (*api.Secret, error) {
	return c.secret(ctx, call{method: http.MethodPost, token: token, body: change}, name, verb)
}

func (c *Client) secret(ctx context.Context, k call, name, verb string) (*api.Secret, error) {
	var err error
	if k.path, err = secretPath(name, verb); err != nil {
		return nil, err
	}
	var answer api.Secret
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	return &answer, nil
}

// SecretReads reads one page of the leases that read a secret, newest first:
// version 0 stands for all of its versions.
func (c *Client) SecretReads(ctx context.Context, token, name string, page SecretReadsPage) (*api.SecretReadList, error) {
	path, err := secretPath(name, api.SecretReads)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	set(query, "cursor", page.Cursor)
	setLimit(query, page.Limit)
	if page.Version > 0 {
		query.Set("version", strconv.Itoa(page.Version))
	}
	var answer api.SecretReadList
	if err := c.json(ctx, call{method: http.MethodGet, path: path, token: token, query: query}, &answer); err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	return &answer, nil
}

// SecretReadsPage chooses reads.
type SecretReadsPage struct {
	Version int    // all when 0
	Cursor  string // the Next of the page before; empty for the first
	Limit   int    // of one page; the broker's own when 0
}

// secretPath refuses what can't be a name and would lead to another path.
func secretPath(name, verb string) (string, error) {
	bad := name == ""
	for word := range strings.SplitSeq(name, "/") {
		bad = bad || word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz0123456789-") != ""
	}
	if bad {
		return "", errors.New("not the name of a secret (hint: it looks like payments/stripe-key; `daypass secret ls` shows them)")
	}
	path := api.PathSecrets + "/" + name
	if verb != "" {
		path += ":" + verb
	}
	return path, nil
}
