package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/daypass/daypass/broker/api"
)

// RevokeMany revokes all leases that a selector fits, in the background: the
// answer names the job to watch.
func (c *Client) RevokeMany(ctx context.Context, token string, request api.MassRevokeRequest) (*api.MassRevokeResponse, error) {
	var answer api.MassRevokeResponse
	if err := c.json(ctx, call{method: http.MethodPost, path: api.PathLeasesRevoke, token: token, body: request}, &answer); err != nil {
		return nil, fmt.Errorf("revoking leases: %w", err)
	}
	return &answer, nil
}

// Jobs reads one page of jobs, newest first. Cursor is the Next of the page
// before, and empty for the first.
func (c *Client) Jobs(ctx context.Context, token, cursor string, limit int) (*api.JobList, error) {
	query := url.Values{}
	set(query, "cursor", cursor)
	setLimit(query, limit)
	var answer api.JobList
	if err := c.json(ctx, call{method: http.MethodGet, path: api.PathJobs, token: token, query: query}, &answer); err != nil {
		return nil, fmt.Errorf("listing jobs: %w", err)
	}
	return &answer, nil
}

// Job reads how far a job is.
func (c *Client) Job(ctx context.Context, token, id string) (*api.Job, error) {
	return c.job(ctx, call{method: http.MethodGet, token: token}, id, "")
}

// PauseJob lets a job rest.
func (c *Client) PauseJob(ctx context.Context, token, id string) (*api.Job, error) {
	return c.job(ctx, call{method: http.MethodPost, token: token}, id, "/pause")
}

// ResumeJob lets a job go on.
func (c *Client) ResumeJob(ctx context.Context, token, id string) (*api.Job, error) {
	return c.job(ctx, call{method: http.MethodPost, token: token}, id, "/resume")
}

func (c *Client) job(ctx context.Context, k call, id, verb string) (*api.Job, error) {
	path, err := leasePath(id, verb)
	if err != nil {
		return nil, errors.New("not the id of a job (hint: it looks like job_01J…; `daypass lease job ls` shows them)")
	}
	k.path = api.PathJobs + path[len(api.PathLeases):]
	var answer api.Job
	if err := c.json(ctx, k, &answer); err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	return &answer, nil
}
