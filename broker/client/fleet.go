package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/daypass/daypass/broker/api"
)

// Turn turns a provider, policy, grant or issuer off or on, for the whole fleet,
// with an operator's token.
func (c *Client) Turn(ctx context.Context, token string, request api.SwitchRequest) (*api.Switch, error) {
	var answer api.Switch
	if err := c.json(ctx, call{method: http.MethodPost, path: api.PathSwitches, token: token, body: request}, &answer); err != nil {
		return nil, fmt.Errorf("turning %s %s: %w", request.Kind, request.Name, err)
	}
	return &answer, nil
}

// Switches lists what is turned off, and what was, with an admin's token.
func (c *Client) Switches(ctx context.Context, token string) (*api.SwitchList, error) {
	var answer api.SwitchList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathSwitches, token: token}, &answer); err != nil {
		return nil, fmt.Errorf("listing switches: %w", err)
	}
	return &answer, nil
}

// Brokers lists the brokers of the fleet, with an admin's token.
func (c *Client) Brokers(ctx context.Context, token string) (*api.BrokerList, error) {
	var answer api.BrokerList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathBrokers, token: token}, &answer); err != nil {
		return nil, fmt.Errorf("listing brokers: %w", err)
	}
	return &answer, nil
}
