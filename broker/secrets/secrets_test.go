package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/sealed"
)

// issuer is the real issuer on the real vault.
func (f *fixture) issuer() issuers.Issuer {
	f.t.Helper()
	issuer, err := sealed.New(f.t.Context(), sealed.Config{Vault: f.Store, Roles: map[string]sealed.Role{"key": {Secret: name}, "next": {Secret: name, Pending: true}}})
	if err != nil {
		f.t.Fatal(err)
	}
	return issuer
}

// read issues a lease and returns the value that it got.
func (f *fixture) read(role string) (value, lease string, err error) {
	f.t.Helper()
	l := issuertest.NewLease(installation, role, time.Now())
	response, err := f.issuer().Issue(f.t.Context(), &issuers.IssueRequest{Lease: l})
	if err != nil {
		return "", l.ID, err
	}
	return response.Values[0].Value.Reveal(), l.ID, nil
}

func (f *fixture) wantRead(role, want string) {
	f.t.Helper()
	if got, _, err := f.read(role); err != nil || got != want {
		f.t.Errorf("role %s reads %q, %v; want %q", role, got, err, want)
	}
}

// TestConformance runs the suite of all issuers against the real vault.
func TestConformance(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put(value("sk_live_0123456789"))
	f.promote(1)
	issuertest.Exercise(t, func(*testing.T) issuers.Issuer { return f.issuer() }, issuertest.Options{Installation: installation, Role: "key", Static: true})
}

func TestStates(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	wantState := func(doing string, err error) {
		t.Helper()
		if _, ok := errors.AsType[*secrets.StateError](err); !ok {
			t.Errorf("%s: %v, want a StateError", doing, err)
		}
	}
	f.put(value("first-value"))
	if _, _, err := f.read("key"); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("a pending version was read: %v", err)
	}
	f.wantRead("next", "first-value")
	_, err := f.Promote(t.Context(), change(1))
	wantState("promoting what was not verified", err)
	f.promote(1)
	f.wantRead("key", "first-value")
	_, err = f.Verify(t.Context(), change(1))
	wantState("verifying what is current", err)

	f.put(value("second-value"))
	_, err = f.Put(t.Context(), secrets.PutRequest{Name: name, Values: value("third-value"), Actor: actor})
	wantState("putting beside a pending version", err)
	if _, err = f.Put(t.Context(), secrets.PutRequest{Name: name, Values: value("third-value"), Replace: true, Actor: actor}); err != nil {
		t.Fatal(err)
	}
	if got := f.states(); got != "current destroyed pending" {
		t.Errorf("states: %s", got)
	}
	f.promote(3)
	f.wantRead("key", "third-value")
	if _, err := f.Rollback(t.Context(), change(1)); err != nil {
		t.Fatal(err)
	}
	f.wantRead("key", "first-value")
	if got := f.states(); got != "current destroyed retired" {
		t.Errorf("states: %s", got)
	}
	_, err = f.Rollback(t.Context(), change(2))
	wantState("rolling back to what was destroyed", err)
	for _, c := range []secrets.Change{change(9), {Name: "no/such", Version: 1, Actor: actor}} {
		if _, err := f.Promote(t.Context(), c); !errors.Is(err, secrets.ErrNotFound) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, v := range []string{"first-value", "second-value", "third-value"} {
		if found := f.anywhere(v); found != "" {
			t.Errorf("%s stands in %s", v, found)
		}
	}
	for _, kind := range []string{"secret.created", "secret.put", "secret.verified", "secret.promoted", "secret.rolled_back", "secret.destroyed", "secret.read"} {
		if f.count(`SELECT count(*) FROM audit_events WHERE type = $1`, kind) == 0 {
			t.Errorf("no event %s", kind)
		}
	}
}

func TestDestroyedIsFinal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put(value("first-value"))
	f.promote(1)
	f.put(value("second-value"))
	f.promote(2)
	before := f.count(`SELECT length(value) FROM secret_versions WHERE version = 1`)
	if _, err := f.Destroy(t.Context(), change(1), false); err != nil {
		t.Fatal(err)
	}
	if before == 0 || f.count(`SELECT count(*) FROM secret_versions WHERE version = 1 AND value IS NULL AND destroyed_at IS NOT NULL`) != 1 {
		t.Error("something of the value stays in the row")
	}
	var state *secrets.StateError
	if _, err := f.Destroy(t.Context(), change(1), true); !errors.As(err, &state) {
		t.Errorf("destroyed twice: %v", err)
	}
	// Not even with the database's own password.
	for _, sql := range []string{
		`UPDATE secret_versions SET state = 'retired', value = 'x', destroyed_at = NULL WHERE version = 1`,
		`UPDATE secret_versions SET value = 'x' WHERE version = 1`,
		`UPDATE secret_versions SET created_by = 'x' WHERE version = 1`,
		`DELETE FROM secret_versions WHERE version = 1`,
		`DELETE FROM secret_versions WHERE version = 2`,
		`UPDATE secret_versions SET state = 'pending' WHERE version = 2`,
		`UPDATE secret_versions SET version = 7 WHERE version = 2`,
		`UPDATE secret_versions SET value = NULL WHERE version = 2`,
		`UPDATE secret_versions SET state = 'destroyed' WHERE version = 2`,
	} {
		if _, err := f.pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("the database takes: %s", sql)
		}
	}
	if got := f.states(); got != "destroyed current" {
		t.Errorf("states: %s", got)
	}
}

func TestDestroyWhatIsHeld(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put(value("first-value"))
	f.promote(1)
	_, lease, err := f.read("key")
	if err != nil {
		t.Fatal(err)
	}
	f.lease(lease)
	f.put(value("second-value"))
	f.promote(2)
	var used *secrets.InUseError
	if _, err := f.Destroy(t.Context(), change(1), false); !errors.As(err, &used) || used.Count != 1 || len(used.Leases) != 1 || used.Leases[0] != lease {
		t.Errorf("destroying what a live lease holds: %v", err)
	}
	reads, err := f.Reads(t.Context(), secrets.ReadsPage{Name: name, Version: 1, Limit: 10})
	if err != nil || len(reads) != 1 || reads[0].LeaseID != lease || reads[0].Subject != "repo:a/b" || reads[0].State != "active" || reads[0].Version != 1 {
		t.Errorf("%+v, %v", reads, err)
	}
	if got := f.count(`SELECT count(*) FROM leases WHERE state = 'active'`); got != 1 {
		t.Error("a promotion ended a lease")
	}
	f.exec(`UPDATE leases SET state = 'expired', due_at = NULL, ended_at = now()`)
	if _, err := f.Destroy(t.Context(), change(1), false); err != nil {
		t.Errorf("once its lease has ended: %v", err)
	}
	var state *secrets.StateError
	if _, err := f.Destroy(t.Context(), change(2), false); !errors.As(err, &state) {
		t.Errorf("destroying the current one without force: %v", err)
	}
	if _, err := f.Destroy(t.Context(), change(2), true); err != nil {
		t.Error(err)
	}
	if _, _, err := f.read("key"); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("reading what was destroyed: %v", err)
	}
}

// lease puts a live lease on record as the broker does.
func (f *fixture) lease(id string) {
	f.t.Helper()
	f.exec(`
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject, state,
    issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, events)
VALUES ($1, 'main', 'ses_1', '\x00', 'payments', 'key', 'release', 'd', 'vault', 'key', 'sealed', 't', 'expiry', 'github', 'repo:a/b', 'active',
    now(), now() + interval '1 hour', now() + interval '1 hour', 60, false, now() + interval '1 minute', now() + interval '1 minute', now() + interval '1 hour', '{}', 1)`, id)
}

// TestTamperedRow changes a sealed value at each byte, and moves it.
func TestTamperedRow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put(value("first-value"))
	f.promote(1)
	f.put(value("second-value"))
	f.promote(2)
	size := f.count(`SELECT length(value) FROM secret_versions WHERE version = 2`)
	refused := func(what string) {
		t.Helper()
		got, _, err := f.read("key")
		if !errors.Is(err, issuers.ErrRejected) || got != "" {
			t.Errorf("%s: read %q, %v", what, got, err)
		}
	}
	for i := range size {
		f.exec(`UPDATE secret_versions SET value = set_byte(value, $1, get_byte(value, $1) # 1) WHERE version = 2`, i)
		refused(fmt.Sprintf("byte %d changed", i))
		f.exec(`UPDATE secret_versions SET value = set_byte(value, $1, get_byte(value, $1) # 1) WHERE version = 2`, i)
	}
	f.wantRead("key", "second-value")
	f.exec(`CREATE TABLE kept AS SELECT version, value FROM secret_versions`)
	f.exec(`UPDATE secret_versions v SET value = k.value FROM kept k WHERE v.version = 2 AND k.version = 1`)
	refused("another version's value")
	f.exec(`UPDATE secret_versions SET value = '\x' WHERE version = 2`)
	refused("an empty value")
	if n := f.count(`SELECT count(*) FROM secret_reads`); n != 1 {
		t.Errorf("%d reads on record, of one that brought a value", n)
	}
}

func TestPromotionsAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put(value("first-value"))
	f.promote(1)
	f.put(value("second-value"))
	if _, err := f.Verify(t.Context(), change(2)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	reads := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = f.Promote(t.Context(), change(2)) })
		wg.Go(func() {
			var got string
			if got, _, reads[i] = f.read("key"); reads[i] == nil && got != "first-value" && got != "second-value" {
				reads[i] = errors.New("read " + got)
			}
		})
	}
	wg.Wait()
	won := 0
	var state *secrets.StateError
	for i, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.As(err, &state):
			t.Errorf("promoting at once: %v", err)
		}
		if reads[i] != nil {
			t.Errorf("reading meanwhile: %v", reads[i])
		}
	}
	if won != 1 || f.states() != "retired current" {
		t.Errorf("%d promotions won, states %s", won, f.states())
	}
	if n := f.count(`SELECT count(*) FROM audit_events WHERE type = 'secret.promoted'`); n != 2 {
		t.Errorf("%d events of two promotions", n)
	}
}

func TestPutAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = f.Put(t.Context(), secrets.PutRequest{Name: name, Settings: secrets.Settings{Owner: new("a@example.com")}, Values: value(fmt.Sprint("value-", i)), Actor: actor})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		}
	}
	if won != 1 || f.count(`SELECT count(*) FROM secret_versions`) != 1 {
		t.Errorf("%d made a pending version", won)
	}
}

func TestPutRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	owner := secrets.Settings{Owner: new("a@example.com")}
	many := secrets.Values{}
	for i := range 17 {
		many[fmt.Sprint("f", i)] = sealed.Value{Secret: issuers.NewSecret("confidential")}
	}
	for what, r := range map[string]secrets.PutRequest{
		"capital letters":   {Name: "Payments", Settings: owner},
		"an empty word":     {Name: "a//b", Settings: owner},
		"a long name":       {Name: strings.Repeat("a", 129), Settings: owner},
		"a colon":           {Name: "a:b", Settings: owner},
		"no owner":          {Name: name, Values: value("confidential")},
		"an empty owner":    {Name: name, Settings: secrets.Settings{Owner: new("")}},
		"no values":         {Name: name, Settings: owner, Values: secrets.Values{}},
		"an empty value":    {Name: name, Settings: owner, Values: value("")},
		"a zero byte":       {Name: name, Settings: owner, Values: value("confidential\x00")},
		"no text":           {Name: name, Settings: owner, Values: value("confidential\xff")},
		"too large":         {Name: name, Settings: owner, Values: value(strings.Repeat("x", secrets.MaxValue+1))},
		"too many":          {Name: name, Settings: owner, Values: many},
		"a field's name":    {Name: name, Settings: owner, Values: secrets.Values{"No": {Secret: issuers.NewSecret("confidential")}}},
		"too random":        {Name: name, Settings: owner, Values: secrets.Values{"a": {Secret: issuers.NewSecret("confidential"), RandomBits: 1000}}},
		"a hook of nowhere": {Name: name, Settings: secrets.Settings{Owner: owner.Owner, Hook: new("https://evil.example")}},
		"too often":         {Name: name, Settings: secrets.Settings{Owner: owner.Owner, RotateEvery: new(time.Minute)}},
	} {
		r.Actor = actor
		_, err := f.Put(t.Context(), r)
		var bad *secrets.InvalidError
		if !errors.As(err, &bad) || strings.Contains(err.Error(), "confidential") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := f.count(`SELECT count(*) FROM secrets`); n != 0 {
		t.Errorf("%d secrets were made", n)
	}
	largest := value(strings.Repeat("x", secrets.MaxValue))
	if _, err := f.Put(t.Context(), secrets.PutRequest{Name: strings.Repeat("a", 128), Settings: owner, Values: largest, Actor: actor}); err != nil {
		t.Error(err)
	}
}

func TestListPagesAndSettings(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, n := range []string{"b", "a/b", "a"} {
		if _, err := f.Put(t.Context(), secrets.PutRequest{Name: n, Settings: secrets.Settings{Owner: new("x"), RotateEvery: new(24 * time.Hour)}, Actor: actor}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for after := ""; ; {
		page, err := f.List(t.Context(), after, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		names, after = append(names, page[0].Name), page[0].Name
	}
	if got := strings.Join(names, " "); got != "a a/b b" {
		t.Errorf("listed %s", got)
	}
	// What doesn't change leaves no event.
	before := f.count(`SELECT count(*) FROM audit_events`)
	if _, err := f.Put(t.Context(), secrets.PutRequest{Name: "a", Settings: secrets.Settings{Owner: new("x")}, Actor: actor}); err != nil {
		t.Fatal(err)
	}
	if after := f.count(`SELECT count(*) FROM audit_events`); after != before {
		t.Errorf("%d events of nothing", after-before)
	}
	f.put(value("some-value"))
	every := 48 * time.Hour
	if _, err := f.Put(t.Context(), secrets.PutRequest{Name: name, Settings: secrets.Settings{RotateEvery: &every}, Actor: actor}); err != nil {
		t.Fatal(err)
	}
	f.promote(1)
	secret, versions, err := f.Get(t.Context(), name)
	if err != nil || secret.DueAt == nil || !secret.DueAt.Equal(versions[0].CreatedAt.Add(every)) || secret.RotateAt != nil || secret.Current != 1 {
		t.Errorf("%+v, %v", secret, err)
	}
	f.exec(`UPDATE secrets SET due_at = now() - interval '1 minute' WHERE name = $1`, name)
	fresh, err := f.Freshness(t.Context(), 2)
	if err != nil || fresh.Overdue != 1 || fresh.Failing != 0 || fresh.Oldest <= 0 || len(fresh.Due) != 1 || fresh.Due[0].Name != name {
		t.Errorf("%+v, %v", fresh, err)
	}
}

func TestReadOfACancelledCaller(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put(value("some-value"))
	f.promote(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Read(ctx, issuertest.NewLease(installation, "key", time.Now()), sealed.Wanted{Secret: name}); !errors.Is(err, issuers.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	for _, l := range []issuers.Lease{issuertest.NewLease("other0000000", "key", time.Now()), {Installation: installation, Tenant: "other", ID: "lse_1"}} {
		if _, err := f.Read(t.Context(), l, sealed.Wanted{Secret: name}); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("a lease of another: %v", err)
		}
	}
}
