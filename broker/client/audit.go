package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/daypass/daypass/broker/api"
)

// AuditCheckpoint reads the last checkpoint of the audit log: a signed note.
func (c *Client) AuditCheckpoint(ctx context.Context, token string) (string, error) {
	answer, err := c.do(ctx, call{method: http.MethodGet, path: api.PathAuditCheckpoint, token: token})
	if err != nil {
		return "", fmt.Errorf("reading the last checkpoint: %w", err)
	}
	return string(answer.body), nil
}

// ExportAudit reads a part of the audit log, from a number on: the JSON lines of
// broker/audit/log, as they come. The broker chooses where the part ends; to is the number
// behind the last that is asked for, and negative for as much as is signed. The stream has no
// bound but its reader's patience; it ends with an error when nothing comes for a minute.
func (c *Client) ExportAudit(ctx context.Context, token string, from, to int64) (io.ReadCloser, error) {
	query := url.Values{"from": {strconv.FormatInt(from, 10)}}
	if to >= 0 {
		query.Set("to", strconv.FormatInt(to, 10))
	}
	stream, err := c.stream(ctx, call{method: http.MethodGet, path: api.PathAuditExport, token: token, query: query}, nil)
	if err != nil {
		return nil, fmt.Errorf("exporting the audit log: %w", err)
	}
	return stream, nil
}
