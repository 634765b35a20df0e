package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

func (s *Server) secretRoutes(e *echo.Echo) {
	e.GET(api.PathSecrets, s.listSecrets)
	e.GET(api.PathSecrets+"/*", s.secret)
	e.PUT(api.PathSecrets+"/*", s.putSecret)
	e.POST(api.PathSecrets+"/*", s.changeSecret)
}

// secretName takes the name and the verb behind its colon from the path.
func secretName(c echo.Context) (name, verb string, err error) {
	name, verb, _ = strings.Cut(c.Param("*"), ":")
	if sealed.CheckName(name) != nil {
		return "", "", secrets.ErrNotFound
	}
	note(c, slog.String("secret", name))
	return name, verb, nil
}

// listSecrets is GET /v1/secrets.
func (s *Server) listSecrets(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	var cursor string
	limit, err := readQuery(c, map[string]*string{"cursor": &cursor})
	if err != nil {
		return err
	}
	list, err := s.config.Secrets.List(c.Request().Context(), cursor, limit+1)
	if err != nil {
		return err
	}
	body := api.SecretList{Secrets: []api.Secret{}}
	if len(list) > limit {
		list = list[:limit]
		body.Next = list[limit-1].Name
	}
	for _, secret := range list {
		body.Secrets = append(body.Secrets, wireSecret(secret))
	}
	return writeJSON(c, http.StatusOK, body)
}

// secret is GET /v1/secrets/NAME and GET /v1/secrets/NAME:reads.
func (s *Server) secret(c echo.Context) error {
	if _, err := s.adminOnly(c, admin.Viewer); err != nil {
		return err
	}
	name, verb, err := secretName(c)
	if err != nil {
		return err
	}
	switch verb {
	case "":
		secret, versions, err := s.config.Secrets.Get(c.Request().Context(), name)
		if err != nil {
			return err
		}
		body := wireSecret(secret)
		for _, v := range versions {
			body.Versions = append(body.Versions, wireVersion(v))
		}
		return writeJSON(c, http.StatusOK, body)
	case api.SecretReads:
		return s.secretReads(c, name)
	}
	return secrets.ErrNotFound
}

func (s *Server) secretReads(c echo.Context, name string) error {
	page := secrets.ReadsPage{Name: name}
	var version string
	limit, err := readQuery(c, map[string]*string{"cursor": &page.Before, "version": &version})
	if err != nil {
		return err
	}
	if page.Before != "" && !ids.Valid(ids.SecretRead, page.Before) {
		return &broker.RequestError{Detail: "cursor is the next of the page before"}
	}
	if version != "" {
		if page.Version, err = strconv.Atoi(version); err != nil || page.Version < 1 || page.Version > maxVersion {
			return &broker.RequestError{Detail: "version is the number of one"}
		}
	}
	page.Limit = limit + 1
	reads, err := s.config.Secrets.Reads(c.Request().Context(), page)
	if err != nil {
		return err
	}
	body := api.SecretReadList{Reads: []api.SecretRead{}}
	if len(reads) > limit {
		reads = reads[:limit]
		body.Next = reads[limit-1].ID
	}
	for _, r := range reads {
		body.Reads = append(body.Reads, api.SecretRead{
			ID: r.ID, Version: r.Version, At: r.At.UTC(), LeaseID: r.LeaseID, State: r.State, Grant: r.Policy + "/" + r.Grant,
			Provider: r.Provider, Subject: r.Subject, Session: r.Session,
		})
	}
	return writeJSON(c, http.StatusOK, body)
}

// putSecret is PUT /v1/secrets/NAME.
func (s *Server) putSecret(c echo.Context) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	name, verb, err := secretName(c)
	if err != nil {
		return err
	}
	if verb != "" {
		return secrets.ErrNotFound
	}
	request, err := decodeSecretPut(c.Request())
	if err != nil {
		return err
	}
	request.Name, request.Actor = name, caller.Actor()
	secret, err := s.config.Secrets.Put(c.Request().Context(), *request)
	if err != nil {
		return err
	}
	if request.Values != nil {
		note(c, slog.Int("version", secret.Pending))
	}
	return writeJSON(c, http.StatusOK, wireSecret(secret))
}

// fields are the values of a SecretPut by their names, each once.
type fields[T any] map[string]T

// UnmarshalJSON implements json.Unmarshaler. No error of it holds a value.
func (f *fields[T]) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return &broker.RequestError{Detail: "values and random_bits are objects: field by field"}
	}
	*f = fields[T]{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return badJSON(err)
		}
		name, _ := key.(string)
		var value *T
		if err := decoder.Decode(&value); err != nil || value == nil {
			return &broker.RequestError{Detail: fmt.Sprintf("field %q has a value of the wrong type", clip(name))}
		}
		if _, twice := (*f)[name]; twice {
			return &broker.RequestError{Detail: fmt.Sprintf("field %q stands twice", clip(name))}
		}
		(*f)[name] = *value
	}
	return nil
}

func decodeSecretPut(r *http.Request) (*secrets.PutRequest, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	var values fields[string]
	var bits fields[int]
	var every *string
	request := &secrets.PutRequest{}
	n := &request.Settings
	if err := decodeObject(body, map[string]any{
		"description": &n.Description, "owner": &n.Owner, "rotate_every": &every, "rotate_fields": &n.RotateFields, "hook": &n.Hook,
		"values": &values, "random_bits": &bits, "replace": &request.Replace,
	}); err != nil {
		return nil, err
	}
	if every != nil {
		d, err := time.ParseDuration(*every)
		if err != nil {
			return nil, &broker.RequestError{Detail: fmt.Sprintf("rotate_every %q is no duration: write 720h, or 0s for never", clip(*every))}
		}
		n.RotateEvery = &d
	}
	for _, text := range []*string{n.Description, n.Owner} {
		if text != nil && strings.ContainsRune(*text, 0) {
			return nil, &broker.RequestError{Detail: "description and owner are text"}
		}
	}
	if values != nil {
		request.Values = secrets.Values{}
	}
	for name, value := range values {
		request.Values[name] = sealed.Value{Secret: issuers.NewSecret(value), RandomBits: bits[name]}
	}
	for name := range bits {
		if _, there := values[name]; !there {
			return nil, &broker.RequestError{Detail: fmt.Sprintf("random_bits: there is no value %q", clip(name))}
		}
	}
	return request, nil
}

// maxVersion is the largest number of a version.
const maxVersion = 1<<31 - 1

// changeSecret is POST /v1/secrets/NAME:VERB.
func (s *Server) changeSecret(c echo.Context) error {
	caller, err := s.adminOnly(c, admin.Operator)
	if err != nil {
		return err
	}
	name, verb, err := secretName(c)
	if err != nil {
		return err
	}
	var version int
	var force bool
	known := map[string]any{"version": &version}
	switch verb {
	case api.SecretDestroy:
		known["force"] = &force
	case api.SecretRotate:
		known = map[string]any{}
	case api.SecretVerify, api.SecretPromote, api.SecretRollback:
	default:
		return newProblem(http.StatusNotFound, api.CodeNotFound, "write /v1/secrets/NAME:VERB, with verify, promote, rollback, destroy or rotate")
	}
	if err := decodeOptional(c, known); err != nil {
		return err
	}
	if verb != api.SecretRotate && (version < 1 || version > maxVersion) {
		return &broker.RequestError{Detail: `name the version that is meant: {"version": 3}`}
	}
	note(c, slog.String("verb", verb), slog.Int("version", version))
	secret, err := s.doSecret(c.Request().Context(), verb, secrets.Change{Name: name, Version: version, Actor: caller.Actor()}, force)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, wireSecret(secret))
}

func (s *Server) doSecret(ctx context.Context, verb string, change secrets.Change, force bool) (*secrets.Secret, error) {
	switch verb {
	case api.SecretVerify:
		return s.config.Secrets.Verify(ctx, change)
	case api.SecretPromote:
		return s.config.Secrets.Promote(ctx, change)
	case api.SecretRollback:
		return s.config.Secrets.Rollback(ctx, change)
	case api.SecretDestroy:
		return s.config.Secrets.Destroy(ctx, change, force)
	}
	return s.config.Secrets.Rotate(ctx, change.Name, change.Actor)
}

// secretProblem is the part of problemOf that is about static secrets; nil: none.
func secretProblem(err error) *problem {
	var invalid *secrets.InvalidError
	var state *secrets.StateError
	var used *secrets.InUseError
	switch {
	case errors.As(err, &invalid):
		return newProblem(http.StatusBadRequest, api.CodeInvalidRequest, invalid.Detail)
	case errors.As(err, &state):
		return newProblem(http.StatusConflict, api.CodeWrongState, state.Detail)
	case errors.Is(err, secrets.ErrNoHook):
		return newProblem(http.StatusConflict, api.CodeWrongState, secrets.ErrNoHook.Error())
	case errors.As(err, &used):
		p := newProblem(http.StatusConflict, api.CodeInUse, used.Error())
		p.Leases, p.Count = used.Leases, used.Count
		return p
	case errors.Is(err, secrets.ErrNotFound):
		return newProblem(http.StatusNotFound, api.CodeNotFound, secrets.ErrNotFound.Error())
	}
	return nil
}

func wireSecret(x *secrets.Secret) api.Secret {
	out := api.Secret{
		ID: x.ID, Name: x.Name, Description: x.Description, Owner: x.Owner, RotateFields: x.RotateFields, Hook: x.Hook,
		DueAt: utc(x.DueAt), RotateAt: utc(x.RotateAt), Attempts: x.Attempts, LastError: x.LastError, CreatedAt: x.CreatedAt.UTC(), Current: x.Current, Pending: x.Pending,
	}
	if x.RotateEvery > 0 {
		out.RotateEvery = x.RotateEvery.String()
	}
	return out
}

func wireVersion(v *secrets.Version) api.SecretVersion {
	return api.SecretVersion{
		Version: v.Number, State: string(v.State), Origin: v.Origin, Fields: v.Fields, CreatedAt: v.CreatedAt.UTC(), CreatedBy: v.CreatedBy,
		SetAt: utc(v.SetAt), VerifiedAt: utc(v.VerifiedAt), PromotedAt: utc(v.PromotedAt), RetiredAt: utc(v.RetiredAt), DestroyedAt: utc(v.DestroyedAt),
	}
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
