package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/issuers"
)

// Reporters are who may report what leaked, in formats of their own. Its zero value:
// nobody.
type Reporters struct {
	GitHub *disclosures.GitHubKeys // nil: GitHub doesn't
	// GitLab gives the token that GitLab sends, anew for each report; nil: GitLab doesn't.
	GitLab      func() (issuers.Secret, error)
	GitLabTypes []string // of tokens, as GitLab calls them
}

// maxReport bounds a report, in bytes.
const maxReport = 1 << 20

// The names of reporters in the audit log.
const (
	actorGitHub = "github secret scanning"
	actorGitLab = "gitlab secret detection"
)

// The headers of GitHub's secret scanning partner program.
const (
	headerKeyID     = "Github-Public-Key-Identifier"
	headerSignature = "Github-Public-Key-Signature"
)

// reported counts what became of a report.
func (s *Server) reported(from string, handler echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		err := handler(c)
		outcome := "taken"
		if err != nil {
			switch p := problemOf(err); {
			case p.Status == http.StatusNotFound:
				return err // it isn't taken here
			case p.Status >= http.StatusInternalServerError:
				outcome = "failed"
			default:
				outcome = "refused"
			}
		}
		s.metrics.reports.WithLabelValues(from, outcome).Inc()
		return err
	}
}

func errNoReports() error { return echo.NewHTTPError(http.StatusNotFound) }

func readReport(c echo.Context) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(c.Request().Body, maxReport+1))
	switch {
	case err != nil:
		return nil, &broker.RequestError{Detail: "the body could not be read to its end"}
	case len(body) > maxReport:
		return nil, newProblem(http.StatusRequestEntityTooLarge, api.CodeTooLarge, "the report is larger than 1 MiB")
	}
	return body, nil
}

// takeReport takes tokens back, and says which were given out here.
func (s *Server) takeReport(c echo.Context, actor string, tokens []disclosures.Token) (known []bool, err error) {
	for part := range slices.Chunk(tokens, disclosures.MaxTokens) {
		of, err := s.config.Disclosures.Report(c.Request().Context(), actor, part)
		if err != nil {
			return nil, err
		}
		known = append(known, of...)
	}
	found := 0
	for _, is := range known {
		if is {
			found++
		}
	}
	note(c, slog.Int("tokens", len(tokens)), slog.Int("known", found))
	return known, nil
}

// gitHubReport is POST /v1/leaks/github: the format of GitHub's secret scanning
// partner program.
func (s *Server) gitHubReport(c echo.Context) error {
	keys := s.config.Reporters.GitHub
	if keys == nil {
		return errNoReports()
	}
	body, err := readReport(c)
	if err != nil {
		return err
	}
	header := c.Request().Header
	err = s.config.Gate.Check(c.Request().Context(), c.RealIP(), func(bool) error {
		return keys.Verify(c.Request().Context(), body, header.Get(headerKeyID), header.Get(headerSignature))
	}, func(err error) bool { return errors.Is(err, disclosures.ErrSignature) })
	if errors.Is(err, disclosures.ErrSignature) {
		return invalidToken(api.ReasonSignature, "the report is not signed by a key of GitHub's secret scanning")
	}
	if err != nil {
		return err
	}
	var reported []struct{ Token, Type, URL, Source string }
	if err := json.Unmarshal(body, &reported); err != nil {
		return &broker.RequestError{Detail: "the report is no JSON array of objects with token, type, url and source"}
	}
	tokens := make([]disclosures.Token, len(reported))
	for i, r := range reported {
		tokens[i] = disclosures.Token{Value: r.Token, Source: strings.TrimSpace("github " + r.Source + " " + r.URL)}
	}
	known, err := s.takeReport(c, actorGitHub, tokens)
	if err != nil {
		return err
	}
	type verdict struct {
		Hash  string `json:"token_hash"`
		Type  string `json:"token_type"`
		Label string `json:"label"`
	}
	answer := make([]verdict, len(reported))
	for i, r := range reported {
		sum := sha256.Sum256([]byte(r.Token))
		answer[i] = verdict{hex.EncodeToString(sum[:]), r.Type, "false_positive"}
		if known[i] {
			answer[i].Label = "true_positive"
		}
	}
	return writeJSON(c, http.StatusOK, answer)
}

// gitLab lets GitLab in, which sends its token as it is.
func (s *Server) gitLab(c echo.Context) error {
	if s.config.Reporters.GitLab == nil {
		return errNoReports()
	}
	want, err := s.config.Reporters.GitLab()
	if err != nil {
		return fmt.Errorf("reading leaks.gitlab.token_file: %w", err)
	}
	return s.config.Gate.Check(c.Request().Context(), c.RealIP(), func(bool) error {
		sent := c.Request().Header.Get(echo.HeaderAuthorization)
		if scheme, token, ok := strings.Cut(sent, " "); ok && strings.EqualFold(scheme, "Bearer") {
			sent = strings.TrimSpace(token)
		}
		a, b := sha256.Sum256([]byte(sent)), sha256.Sum256([]byte(want.Reveal()))
		if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || sent == "" {
			return &oidc.Error{Reason: oidc.ReasonSignature, Detail: "the header Authorization doesn't hold the token of leaks.gitlab.token_file"}
		}
		return nil
	}, func(err error) bool {
		_, wrong := errors.AsType[*oidc.Error](err)
		return wrong
	})
}

// gitLabTypes is GET /v1/leaks/gitlab/revocable_token_types.
func (s *Server) gitLabTypes(c echo.Context) error {
	if err := s.gitLab(c); err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, map[string][]string{"types": s.config.Reporters.GitLabTypes})
}

// gitLabReport is POST /v1/leaks/gitlab/revoke_tokens: the format of GitLab's token
// revocation API.
func (s *Server) gitLabReport(c echo.Context) error {
	if err := s.gitLab(c); err != nil {
		return err
	}
	body, err := readReport(c)
	if err != nil {
		return err
	}
	var reported []struct{ Type, Token, Location string }
	if err := json.Unmarshal(body, &reported); err != nil {
		return &broker.RequestError{Detail: "the report is no JSON array of objects with type, token and location"}
	}
	tokens := make([]disclosures.Token, len(reported))
	for i, r := range reported {
		if !slices.Contains(s.config.Reporters.GitLabTypes, r.Type) {
			return &broker.RequestError{Detail: "a type of token that is not among those of leaks.gitlab.types: " + clip(r.Type)}
		}
		tokens[i] = disclosures.Token{Value: r.Token, Source: "gitlab " + r.Location}
	}
	if _, err := s.takeReport(c, actorGitLab, tokens); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
