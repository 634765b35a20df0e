package admin_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

type fixture struct {
	*admin.Tokens
	pool     *pgxpool.Pool
	recorder *audit.Recorder
	now      time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	if f.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.pool.Close)
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	if f.recorder, err = audit.New(audit.Config{Installation: "0123456789ab", Tenant: "main", MAC: root.Hasher(keys.AuditMACs)}); err != nil {
		t.Fatal(err)
	}
	f.Tokens, err = admin.New(admin.Config{Pool: f.pool, Hasher: root.Hasher(keys.AdminTokens), Audit: f.recorder, Tenant: "main", Now: func() time.Time { return f.now }})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func request(role admin.Role) admin.Request {
	return admin.Request{Role: role, Owner: "ada@example.com", OSUser: "root", TTL: time.Hour}
}

func (f *fixture) create(t *testing.T, role admin.Role) (string, *admin.Token) {
	t.Helper()
	secret, token, err := f.Create(t.Context(), request(role))
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal(), token
}

func TestLifeOfAToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	value, token := f.create(t, admin.Operator)
	if kind, ok := issuers.IsGenerated(value); !ok || kind != issuers.AdminToken || !ids.Valid(ids.AdminToken, token.ID) || !token.ExpiresAt.Equal(f.now.Add(time.Hour)) {
		t.Errorf("token %+v", token)
	}
	f.now = f.now.Add(time.Second)
	_, other := f.create(t, admin.Viewer)
	found, err := f.Authenticate(t.Context(), value)
	if err != nil || found.ID != token.ID || found.Role != admin.Operator || found.Owner != "ada@example.com" || found.OSUser != "root" {
		t.Errorf("%+v %v", found, err)
	}
	list, err := f.List(t.Context())
	if err != nil || len(list) != 2 || list[0].ID < list[1].ID {
		t.Errorf("newest first: %+v %v", list, err)
	}
	for range 2 { // idempotent
		if err := f.Revoke(t.Context(), token.ID, "root"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Authenticate(t.Context(), value); !errors.Is(err, admin.ErrUnknown) {
		t.Errorf("a revoked token is accepted: %v", err)
	}
	events, err := audit.List(t.Context(), f.pool, audit.Page{Tenant: "main", Subject: token.ID, Limit: 10})
	if err != nil || len(events) != 2 || events[0].Type != audit.AdminTokenRevoked || events[0].Count != 2 || events[1].Type != audit.AdminTokenCreated {
		t.Fatalf("events %+v: %v", events, err)
	}
	for _, e := range events {
		if err := f.recorder.Verify(e); err != nil {
			t.Error(err)
		}
		if strings.Contains(e.Body, value) {
			t.Error("the token's value is on record")
		}
		if actor, _ := e.Details(); actor != "os user root" {
			t.Errorf("done by %q", actor)
		}
	}
	if err := f.Revoke(t.Context(), "adm_01JAAAAAAAAAAAAAAAAAAAAAAA", "root"); !errors.Is(err, admin.ErrUnknown) {
		t.Errorf("revoking what isn't: %v", err)
	}
	list, err = f.List(t.Context())
	if err != nil || len(list) != 2 || list[0].ID != other.ID || list[0].RevokedAt != nil || list[1].RevokedAt == nil {
		t.Errorf("after it: %+v %v", list, err)
	}
}

func TestTokenEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	value, _ := f.create(t, admin.Viewer)
	f.now = f.now.Add(time.Hour - time.Microsecond)
	if _, err := f.Authenticate(t.Context(), value); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	f.now = f.now.Add(time.Microsecond)
	if _, err := f.Authenticate(t.Context(), value); !errors.Is(err, admin.ErrUnknown) {
		t.Errorf("at its end: %v", err)
	}
	for _, wrong := range []string{"", value[:len(value)-1], value + "x", strings.ToUpper(value), issuers.Generate(issuers.AdminToken).Reveal()} {
		if _, err := f.Authenticate(t.Context(), wrong); !errors.Is(err, admin.ErrUnknown) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestWhatATokenNeeds(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, change := range map[string]func(*admin.Request){
		"no role":        func(r *admin.Request) { r.Role = "" },
		"unknown role":   func(r *admin.Request) { r.Role = "root" },
		"no owner":       func(r *admin.Request) { r.Owner = "" },
		"a long owner":   func(r *admin.Request) { r.Owner = strings.Repeat("a", 201) },
		"no end":         func(r *admin.Request) { r.TTL = 0 },
		"too short":      func(r *admin.Request) { r.TTL = time.Minute - 1 },
		"for ever":       func(r *admin.Request) { r.TTL = admin.MaxTTL + 1 },
		"in the past":    func(r *admin.Request) { r.TTL = -time.Hour },
		"owner of bytes": func(r *admin.Request) { r.Owner = "a\x00b" },
	} {
		r := request(admin.Viewer)
		change(&r)
		if secret, _, err := f.Create(t.Context(), r); err == nil || !secret.IsZero() {
			t.Errorf("%s: a token was made: %v", name, err)
		}
	}
	if list, err := f.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if _, err := admin.New(admin.Config{}); err == nil {
		t.Error("tokens of nothing were made")
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		has, wants admin.Role
		may        bool
	}{
		{admin.Viewer, admin.Viewer, true},
		{admin.Viewer, admin.Operator, false},
		{admin.Viewer, admin.Redactor, false},
		{admin.Operator, admin.Viewer, true},
		{admin.Operator, admin.Operator, true},
		{admin.Operator, admin.Redactor, false},
		{admin.Redactor, admin.Viewer, false},
		{admin.Redactor, admin.Operator, false},
		{admin.Redactor, admin.Redactor, true},
	} {
		if got := (&admin.Token{Role: c.has}).Can(c.wants); got != c.may {
			t.Errorf("%s may what %s may: %v", c.has, c.wants, got)
		}
	}
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	value, _ := f.create(t, admin.Viewer)
	f.pool.Close()
	if _, err := f.Authenticate(t.Context(), value); !errors.Is(err, admin.ErrUnavailable) || errors.Is(err, admin.ErrUnknown) {
		t.Errorf("without a database: %v", err)
	}
}
