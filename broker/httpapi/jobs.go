package httpapi

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/jobs"
	"github.com/daypass/daypass/broker/leases"
)

func (s *Server) jobRoutes(e *echo.Echo) {
	e.POST(api.PathLeasesRevoke, s.revokeMany)
	e.GET(api.PathJobs, s.listJobs)
	e.GET(api.PathJobs+"/:id", s.job)
	e.POST(api.PathJobs+"/:id/pause", s.pauseJob)
	e.POST(api.PathJobs+"/:id/resume", s.resumeJob)
}

func jobProblem(err error) *problem {
	switch {
	case errors.Is(err, jobs.ErrNotFound):
		return newProblem(http.StatusNotFound, api.CodeNotFound, "no such job")
	case errors.Is(err, jobs.ErrDone):
		return newProblem(http.StatusConflict, api.CodeWrongState, "the job is done: there is nothing to pause or resume")
	case errors.Is(err, jobs.ErrBusy):
		p := newProblem(http.StatusTooManyRequests, api.CodeRateLimited, "a hundred jobs are at work or paused: wait until some are done (hint: `daypass lease job ls`)")
		p.retryAfter = retryWhenFree
		return p
	}
	return nil
}

// selector is jobs.Selector as it is sent.
type selector struct {
	jobs.Selector

	expires string
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *selector) UnmarshalJSON(data []byte) error {
	return decodeObject(data, map[string]any{
		"policy": &s.Policy, "grant": &s.Grant, "issuer": &s.Issuer, "session": &s.Session, "subject": &s.Subject, "provider": &s.Provider,
		"state": &s.State, "target": &s.Target, "expires_before": &s.expires,
	})
}

func (s *selector) check() (err error) {
	for _, text := range []string{s.Policy, s.Grant, s.Issuer, s.Session, s.Subject, s.Provider, s.Target} {
		if len(text) > 512 || strings.ContainsRune(text, 0) {
			return &broker.RequestError{Detail: "a value of the selector is too long, or no text"}
		}
	}
	if s.State != "" && s.State != string(leases.Active) && s.State != string(leases.Issuing) {
		return &broker.RequestError{Detail: "state is active or issuing: others have been revoked already"}
	}
	if s.expires != "" {
		if s.ExpiresBefore, err = time.Parse(time.RFC3339, s.expires); err != nil {
			return &broker.RequestError{Detail: "expires_before is a time such as 2026-11-23T10:00:00Z (RFC 3339)"}
		}
		s.ExpiresBefore = s.ExpiresBefore.UTC()
	}
	if policy, grant, both := strings.Cut(s.Grant, "/"); both {
		if s.Policy != "" && s.Policy != policy {
			return &broker.RequestError{Detail: "the selector's grant is of another policy than its policy"}
		}
		s.Policy, s.Grant = policy, grant
	}
	return nil
}

// revokeMany is POST /v1/leases/revoke.
func (s *Server) revokeMany(c echo.Context) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	body, err := readBody(c.Request())
	if err != nil {
		return err
	}
	var wanted selector
	var raw json.RawMessage
	var reason string
	var dry, all bool
	if err := decodeObject(body, map[string]any{"selector": &raw, "reason": &reason, "dry_run": &dry, "all": &all}); err != nil {
		return err
	}
	if len(raw) > 0 {
		if err := wanted.UnmarshalJSON(raw); err != nil {
			return err
		}
	}
	if err := wanted.check(); err != nil {
		return err
	}
	if err := checkReason(reason); err != nil {
		return err
	}
	empty := wanted.Selector == jobs.Selector{}
	switch {
	case empty && !all:
		return &broker.RequestError{Detail: `an empty selector fits every lease there is: say "all": true if that is meant`}
	case !empty && all:
		return &broker.RequestError{Detail: `"all": true goes with an empty selector: leave one of them out`}
	case strings.TrimSpace(reason) == "" && !dry:
		return &broker.RequestError{Detail: `revoking many leases needs a reason: {"reason": "…"}`}
	}
	ctx := c.Request().Context()
	if dry {
		n, atLeast, err := s.config.Jobs.Count(ctx, wanted.Selector)
		if err != nil {
			return err
		}
		return writeJSON(c, http.StatusOK, api.MassRevokeResponse{Matched: n, AtLeast: atLeast, DryRun: true})
	}
	job, err := s.config.Jobs.Create(ctx, wanted.Selector, leases.Why{Actor: caller.Actor(), Reason: reason})
	if err != nil {
		return err
	}
	note(c, slog.String("job", job.ID))
	s.config.Logger.WarnContext(ctx, "many leases are being revoked", "job", job.ID, "matched", job.Matched, "actor", caller.Actor(), "why", reason)
	return writeJSON(c, http.StatusAccepted, api.MassRevokeResponse{Matched: job.Matched, AtLeast: job.AtLeast, Job: job.ID})
}

// listJobs is GET /v1/jobs.
func (s *Server) listJobs(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	var cursor string
	limit, err := readQuery(c, map[string]*string{"cursor": &cursor})
	if err != nil {
		return err
	}
	if cursor != "" && !ids.Valid(ids.Job, cursor) {
		return &broker.RequestError{Detail: "cursor is the next of the page before"}
	}
	list, err := s.config.Jobs.List(c.Request().Context(), cursor, limit+1)
	if err != nil {
		return err
	}
	body := api.JobList{Jobs: []api.Job{}}
	if len(list) > limit {
		list = list[:limit]
		body.Next = list[limit-1].ID
	}
	for _, job := range list {
		body.Jobs = append(body.Jobs, wireJob(job))
	}
	return writeJSON(c, http.StatusOK, body)
}

func jobID(c echo.Context) (string, error) {
	id := c.Param("id")
	if !ids.Valid(ids.Job, id) {
		return "", jobs.ErrNotFound
	}
	note(c, slog.String("job", id))
	return id, nil
}

// job is GET /v1/jobs/{id}.
func (s *Server) job(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	id, err := jobID(c)
	if err != nil {
		return err
	}
	job, err := s.config.Jobs.Get(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, wireJob(job))
}

// pauseJob is POST /v1/jobs/{id}/pause.
func (s *Server) pauseJob(c echo.Context) error {
	return s.turnJob(c, false)
}

// resumeJob is POST /v1/jobs/{id}/resume.
func (s *Server) resumeJob(c echo.Context) error {
	return s.turnJob(c, true)
}

func (s *Server) turnJob(c echo.Context, on bool) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	id, err := jobID(c)
	if err != nil {
		return err
	}
	if err := decodeOptional(c, map[string]any{}); err != nil {
		return err
	}
	turn := s.config.Jobs.Pause
	if on {
		turn = s.config.Jobs.Resume
	}
	job, err := turn(c.Request().Context(), id, caller.Actor())
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, wireJob(job))
}

func wireJob(job *jobs.Job) api.Job {
	w := api.Job{
		ID: job.ID, State: string(job.State), Actor: job.Actor, Reason: job.Reason, CreatedAt: job.CreatedAt, EndedAt: job.EndedAt,
		Selector: api.LeaseSelector{
			Policy: job.Selector.Policy, Grant: job.Selector.Grant, Issuer: job.Selector.Issuer, Session: job.Selector.Session, Subject: job.Selector.Subject,
			Provider: job.Selector.Provider, State: job.Selector.State, Target: job.Selector.Target,
		},
		Matched: job.Matched, AtLeast: job.AtLeast, Begun: job.Begun, Revoked: job.Ended, Failed: job.Failed, Stuck: job.Stuck,
	}
	if !job.Selector.ExpiresBefore.IsZero() {
		w.Selector.ExpiresBefore = &job.Selector.ExpiresBefore
	}
	return w
}
