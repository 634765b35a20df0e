package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/daypass/daypass/broker/api"
)

// Targets lists the issuers that make something on a target, and how each was
// compared with the leases the last time.
func (c *Client) Targets(ctx context.Context, token string) (*api.TargetList, error) {
	var answer api.TargetList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathTargets, token: token}, &answer); err != nil {
		return nil, fmt.Errorf("listing targets: %w", err)
	}
	return &answer, nil
}

// Target tells what differs between one target and the leases.
func (c *Client) Target(ctx context.Context, token, issuer string) (*api.TargetReport, error) {
	return c.target(ctx, call{method: http.MethodGet, token: token}, issuer, "")
}

// Reconcile compares a target with the leases. A Reconciliation without an end in
// the answer means that it goes on: [Client.Target] tells what comes of it.
func (c *Client) Reconcile(ctx context.Context, token, issuer string, how api.ReconcileRequest) (*api.TargetReport, error) {
	return c.target(ctx, call{method: http.MethodPost, token: token, body: how}, issuer, "/reconcile")
}

func (c *Client) target(ctx context.Context, k call, issuer, verb string) (*api.TargetReport, error) {
	// What can't be a name would lead to another path.
	if issuer == "" || strings.Trim(strings.ToLower(issuer), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, errors.New("not the name of an issuer (hint: it stands in the server's configuration, like payments-db)")
	}
	k.path = api.PathTargets + "/" + issuer + verb
	var answer api.TargetReport
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("target %s: %w", issuer, err)
	}
	return &answer, nil
}
