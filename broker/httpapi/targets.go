package httpapi

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/reconciler"
)

// reconcileWait is how long a request waits for a comparison, which goes on
// without it.
const reconcileWait = 5 * time.Second

func (s *Server) targetRoutes(e *echo.Echo) {
	e.GET(api.PathTargets, s.listTargets)
	e.GET(api.PathTargets+"/:issuer", s.target)
	e.POST(api.PathTargets+"/:issuer/reconcile", s.reconcile)
}

// listTargets is GET /v1/targets.
func (s *Server) listTargets(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	if _, err := readQuery(c, nil); err != nil {
		return err
	}
	all, err := s.config.Targets.Targets(c.Request().Context())
	if err != nil {
		return err
	}
	body := api.TargetList{Targets: []api.Target{}}
	for _, status := range all {
		body.Targets = append(body.Targets, wireTarget(status))
	}
	return writeJSON(c, http.StatusOK, body)
}

// target is GET /v1/targets/{issuer}.
func (s *Server) target(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	if _, err := readQuery(c, nil); err != nil {
		return err
	}
	return s.report(c, http.StatusOK)
}

// reconcile is POST /v1/targets/{issuer}/reconcile.
func (s *Server) reconcile(c echo.Context) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	options := reconciler.Options{Actor: caller.Actor()}
	if err := decodeOptional(c, map[string]any{"dry_run": &options.DryRun, "force": &options.Force}); err != nil {
		return err
	}
	run, done, err := s.config.Targets.Start(c.Request().Context(), c.Param("issuer"), options)
	if err != nil {
		return err
	}
	note(c, slog.String("issuer", run.Issuer), slog.String("reconciliation", run.ID), slog.Bool("dry_run", run.DryRun), slog.Bool("force", run.Forced))
	wait := time.NewTimer(reconcileWait)
	defer wait.Stop()
	select {
	case <-done:
		return s.report(c, http.StatusOK)
	case <-wait.C:
	case <-c.Request().Context().Done():
	}
	return s.report(c, http.StatusAccepted)
}

func (s *Server) report(c echo.Context, status int) error {
	found, err := s.config.Targets.Report(c.Request().Context(), c.Param("issuer"), api.MaxDifferences)
	if err != nil {
		return err
	}
	body := api.TargetReport{
		Target: wireTarget(found.Status), Orphans: []api.Orphan{}, OrphansTotal: found.OrphansTotal, Missing: []api.MissingCredential{}, MissingTotal: found.MissingTotal,
	}
	for _, o := range found.Orphans {
		body.Orphans = append(body.Orphans, api.Orphan{
			ID: o.ID, Name: o.Name, LeaseID: o.LeaseID, Why: o.Why, CreatedAt: utc(o.CreatedAt), FoundAt: o.FoundAt.UTC(),
			Revoked: o.Revoked, Attempts: o.Attempts, LastError: o.LastError,
		})
	}
	for _, m := range found.Missing {
		body.Missing = append(body.Missing, api.MissingCredential{LeaseID: m.LeaseID, Since: m.Since.UTC()})
	}
	return writeJSON(c, status, body)
}

func wireTarget(status reconciler.Status) api.Target {
	out := api.Target{Issuer: status.Issuer, Address: status.Address, CanList: status.CanList}
	if r := status.Last; r != nil {
		out.Reconciliation = &api.Reconciliation{
			ID: r.ID, Actor: r.Actor, StartedAt: r.StartedAt.UTC(), EndedAt: utc(r.EndedAt), Epoch: r.Epoch, DryRun: r.DryRun, Forced: r.Forced,
			Listed: r.Listed, Young: r.Young, Alien: r.Alien, Orphans: r.Orphans, Revoked: r.Revoked, Missing: r.Missing, Error: r.Error,
		}
	}
	return out
}

// targetProblem is the part of problemOf that is about targets; nil: none.
func targetProblem(err error) *problem {
	switch {
	case errors.Is(err, reconciler.ErrUnknown):
		return newProblem(http.StatusNotFound, api.CodeNotFound, reconciler.ErrUnknown.Error()+" (hint: `daypass lease reconcile` lists them)")
	case errors.Is(err, reconciler.ErrCannotList):
		return newProblem(http.StatusConflict, api.CodeWrongState, reconciler.ErrCannotList.Error()+": what stands there is known to its admins alone")
	case errors.Is(err, reconciler.ErrBusy):
		return newProblem(http.StatusConflict, api.CodeWrongState, reconciler.ErrBusy.Error()+": GET "+api.PathTargets+"/{issuer} tells what comes of it")
	}
	return nil
}
