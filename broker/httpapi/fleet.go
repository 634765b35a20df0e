package httpapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/switches"
)

// retryWhenOn is when to ask again for what an operator turned off.
const retryWhenOn = 30 * time.Second

func (s *Server) fleetRoutes(e *echo.Echo) {
	e.GET(api.PathSwitches, s.listSwitches)
	e.POST(api.PathSwitches, s.turn)
	e.GET(api.PathBrokers, s.brokers)
}

// switchProblem is the part of the table that speaks of switches.
//
// What is off is 503 and no 403: nothing is wrong with the job or its policy, its
// token stays as it was, and a pipeline that tries again later will have it.
func switchProblem(err error) *problem {
	var off *switches.OffError
	var change *switches.ChangeError
	switch {
	case errors.As(err, &off):
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, off.Error()+": no credential was made, and the token may be sent again once it is on")
		p.retryAfter = retryWhenOn
		if off.Kind == switches.Grant {
			p.Grant = off.Name
		}
		return p
	case errors.As(err, &change):
		return newProblem(http.StatusBadRequest, api.CodeInvalidRequest, change.Detail)
	case errors.Is(err, switches.ErrTooMany):
		return newProblem(http.StatusBadRequest, api.CodeInvalidRequest, err.Error())
	}
	return nil
}

// listSwitches is GET /v1/switches.
func (s *Server) listSwitches(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	all, err := s.config.Switches.List(c.Request().Context(), switches.MaxOff)
	if err != nil {
		return err
	}
	body := api.SwitchList{Switches: []api.Switch{}}
	for _, w := range all {
		body.Switches = append(body.Switches, wireSwitch(w))
	}
	return writeJSON(c, http.StatusOK, body)
}

// turn is POST /v1/switches.
func (s *Server) turn(c echo.Context) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	body, err := readBody(c.Request())
	if err != nil {
		return err
	}
	change := switches.Change{Actor: caller.Actor()}
	var off *bool
	if err := decodeObject(body, map[string]any{
		"kind": &change.Kind, "name": &change.Name, "off": &off, "revoke": &change.Revoke, "reason": &change.Reason,
	}); err != nil {
		return err
	}
	if off == nil {
		return &broker.RequestError{Detail: "off is missing: true, or false to turn it on again"}
	}
	change.Off = *off
	note(c, slog.String("switch", clip(string(change.Kind)+" "+change.Name)), slog.Bool("off", change.Off), slog.Bool("revoke", change.Revoke))
	if err := s.knows(c, &change); err != nil {
		return err
	}
	changed, err := s.config.Switches.Set(c.Request().Context(), change)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, wireSwitch(changed))
}

// knows refuses a name that was mistyped: who turns something off must not
// believe that it is off when it isn't. What was off can always be turned on,
// configured or not.
func (s *Server) knows(c echo.Context, change *switches.Change) error {
	if err := change.Check(); err != nil {
		return err
	}
	if s.config.Broker.Switchable(change.Kind, change.Name) {
		return nil
	}
	known, err := s.config.Switches.Known(c.Request().Context(), change.Kind, change.Name)
	if err != nil || known {
		return err
	}
	return newProblem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no %s %q here, so nothing was turned", change.Kind, clip(change.Name)))
}

func wireSwitch(w *switches.Switch) api.Switch {
	return api.Switch{
		Kind: string(w.Kind), Name: w.Name, Off: w.Off, Reason: w.Reason, Actor: w.Actor, ChangedAt: w.ChangedAt.UTC(),
		Sweeping: w.SweepUntil != nil, Swept: w.Swept,
	}
}

// brokers is GET /v1/brokers.
func (s *Server) brokers(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	members, err := s.config.Members(c.Request().Context())
	if err != nil {
		return fmt.Errorf("%w: %w", leases.ErrUnavailable, err)
	}
	body := api.BrokerList{Brokers: []api.Broker{}}
	for _, m := range members {
		body.Brokers = append(body.Brokers, api.Broker{ID: m.ID, Host: m.Host, Version: m.Version, StartedAt: m.StartedAt.UTC(), SeenAt: m.SeenAt.UTC(), Tasks: m.Tasks})
	}
	return writeJSON(c, http.StatusOK, body)
}
