package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/disclosures"
)

func disclosureProblem(err error) *problem {
	if errors.Is(err, disclosures.ErrBusy) || errors.Is(err, disclosures.ErrWatchers) {
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "other streams are being masked, searched or watched on this broker")
		p.retryAfter = retrySoon
		return p
	}
	return nil
}

func scope(caller broker.Caller) disclosures.Scope {
	return disclosures.Scope{Session: caller.Session, Actor: caller.Actor()}
}

// leaks is POST /v1/leaks.
func (s *Server) leaks(c echo.Context) error {
	caller, err := s.callerWithRole(c, admin.Redactor, admin.Operator)
	if err != nil {
		return err
	}
	var revoke, source string
	if _, err := readQuery(c, map[string]*string{"revoke": &revoke, "source": &source}); err != nil {
		return err
	}
	if revoke != "" && revoke != "true" && revoke != "false" {
		return &broker.RequestError{Detail: "revoke is true, or left out"}
	}
	search := disclosures.Search{Scope: scope(caller), Source: disclosures.CleanSource(source), Revoke: revoke == "true"}
	ctx, cancel := s.stopping(c.Request().Context(), drainStreams)
	defer cancel()
	report, err := s.config.Disclosures.Search(ctx, search, s.streamReader(c))
	if report != nil {
		note(c, slog.Int("leaks", len(report.Findings)), slog.Int64("bytes", report.Bytes))
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	w := &streamWriter{c: c, control: http.NewResponseController(c.Response())}
	w.extend() // the search may have taken longer than an answer may
	noStore(c)
	return writeJSON(c, http.StatusOK, wireReport(report))
}

func wireReport(report *disclosures.Report) *api.LeaksResponse {
	body := &api.LeaksResponse{Leaks: make([]api.Leak, len(report.Findings)), Bytes: report.Bytes, Truncated: report.Truncated}
	for i, f := range report.Findings {
		body.Leaks[i] = wireLeak(f)
	}
	slices.SortStableFunc(body.Leaks, func(a, b api.Leak) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	return body
}

func wireLeak(f *disclosures.Finding) api.Leak {
	out := api.Leak{Kind: f.Kind, Offset: f.Offset, Length: f.Length, Form: f.Form, Live: f.Live, Revoked: f.Revoked, Run: f.Run}
	if session := f.Session; session != nil {
		out.SessionID, out.Provider, out.Subject = session.ID, session.Provider, session.Subject
	}
	switch f.Kind {
	case disclosures.KindLease:
		l := f.Lease
		out.LeaseID, out.Field, out.Kind, out.State = l.ID, f.Field, l.Kind, string(l.State)
		if out.Kind == "" {
			out.Kind = disclosures.KindLease
		}
		if l.Policy != "" {
			out.Grant, out.Provider, out.Subject = l.Policy+"/"+l.Grant, l.Provider, l.Subject
		}
		out.SessionID = l.SessionID
		out.IssuedAt, out.ExpiresAt = wireTime(l.IssuedAt), wireTime(l.ExpiresAt)
		if f.Leases > 1 {
			out.Leases = f.Leases
		}
	case disclosures.KindSessionToken:
		out.IssuedAt, out.ExpiresAt = wireTime(f.Session.OpenedAt), wireTime(f.Session.ExpiresAt)
	case disclosures.KindAdminToken:
		out.AdminID, out.IssuedAt, out.ExpiresAt = f.Admin.ID, wireTime(f.Admin.CreatedAt), wireTime(f.Admin.ExpiresAt)
	}
	return out
}

// wireTime is nil for a time that isn't known.
func wireTime(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &at
}
