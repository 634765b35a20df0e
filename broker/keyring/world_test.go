package keyring_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// world is a database, an HSM and the time. The database's clock is a function of
// the test's, found before the real one: so days pass at once, for every
// statement, and nothing in the program knows.
type world struct {
	t        testing.TB
	pool     *pgxpool.Pool
	store    *brokertest.MemoryStore
	leases   *leases.Store
	recorder *audit.Recorder
	passed   atomic.Int64 // since the test began
}

const shifted = `
CREATE SCHEMA shifted;
CREATE TABLE shifted.shift (by interval NOT NULL);
INSERT INTO shifted.shift VALUES ('0');
CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT pg_catalog.clock_timestamp() + (SELECT by FROM shifted.shift)'`

func newWorld(t testing.TB) *world {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 16
	maps.Copy(config.ConnConfig.RuntimeParams, leases.PlannerSettings())
	maps.Copy(config.ConnConfig.RuntimeParams, map[string]string{"search_path": "shifted, pg_catalog, public", "lock_timeout": "5000"})
	w := &world{t: t}
	if w.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.pool.Close)
	for statement := range strings.SplitSeq(shifted, ";\n") {
		w.exec(statement)
	}
	w.pool.Reset() // plans that know the real clock
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	if w.recorder, err = audit.New(audit.Config{Installation: "0123456789ab", Tenant: "main", MAC: root.Hasher(keys.AuditMACs)}); err != nil {
		t.Fatal(err)
	}
	_, w.store = brokertest.Keys(t)
	if w.leases, err = leases.Open(t.Context(), leases.Config{
		Pool: w.pool, Audit: w.recorder, Handles: root.RowSealer(), Claims: root.Hasher(keys.SessionClaims), Installation: "0123456789ab", Tenant: "main", Now: w.now,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.leases.Close)
	t.Cleanup(w.checkEvents)
	return w
}

// now is the time by clocks that are right.
func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.passed.Load())) }

// pass lets time go by. The database's clock is off by step.
func (w *world) pass(d, step time.Duration) {
	w.t.Helper()
	total := time.Duration(w.passed.Add(int64(d))) + step
	w.exec(`UPDATE shifted.shift SET by = $1`, total)
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.WithoutCancel(w.t.Context()), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) text(sql string, args ...any) string {
	w.t.Helper()
	var text string
	if err := w.pool.QueryRow(context.WithoutCancel(w.t.Context()), sql, args...).Scan(&text); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// states are those of all keys, oldest first.
func (w *world) states() string {
	w.t.Helper()
	return w.text(`SELECT coalesce(string_agg(state, ' ' ORDER BY number), '') FROM signing_keys`)
}

func (w *world) wantStates(want string) {
	w.t.Helper()
	if got := w.states(); got != want {
		w.t.Fatalf("the keys are %q, not %q", got, want)
	}
}

const month = 30 * 24 * time.Hour

func (w *world) config(change ...func(*keyring.Config)) keyring.Config {
	c := keyring.Config{
		Pool: w.pool, Leases: w.leases, Audit: w.recorder, Tenant: "main", Store: w.store, Pair: keys.Pair{Label: "signing"}, Create: true, RotateEvery: month,
		Logger: slog.New(slog.DiscardHandler), Now: w.now,
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func (w *world) open(change ...func(*keyring.Config)) *keyring.Ring {
	w.t.Helper()
	r, err := keyring.Open(w.t.Context(), w.config(change...))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// run takes what is due, which must be these steps.
func (w *world) run(r *keyring.Ring, want ...string) {
	w.t.Helper()
	done, err := r.RunOnce(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for _, d := range done {
		got = append(got, d.Step)
	}
	if !slices.Equal(got, want) {
		w.t.Fatalf("it took the steps %q, not %q", got, want)
	}
}

// kids are the ids in a ring's JWKS, in their order.
func kids(t testing.TB, r *keyring.Ring) []string {
	t.Helper()
	body, err := r.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	return kidsOf(t, body)
}

// failing is a test, or one of many.
type failing interface {
	Helper()
	Fatal(...any)
	Errorf(string, ...any)
}

func kidsOf(t failing, body []byte) []string {
	t.Helper()
	var set struct {
		Keys []struct{ KID, Alg, Use string }
	}
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, k := range set.Keys {
		if k.Alg == "" || k.Use != "sig" {
			t.Errorf("a key without alg or use: %s", body)
		}
		all = append(all, k.KID)
	}
	return all
}

// signed puts a lease of what a ring signs now on record, and returns its key.
func (w *world) signed(r *keyring.Ring, ttl time.Duration) (kid string) {
	w.t.Helper()
	signer := r.Signer()
	if err := keys.SelfTest(signer); err != nil {
		w.t.Fatal(err)
	}
	w.lease(signer.KeyID(), ttl)
	return signer.KeyID()
}

// lease is an active lease that a key signed.
func (w *world) lease(kid string, ttl time.Duration) (id string) {
	w.t.Helper()
	id = ids.New(ids.Lease, time.Now())
	w.exec(`
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject, state,
    issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, events, signing_key)
SELECT $1, 'main', 'ses_1', '', 'payments', 'sign', 'release', 'd', 'release-jwt', '', 'jwt', 't', 'expiry', 'github', 's', 'active',
    t, t + $2::interval, t + $2::interval, 60, false, t, t, t + $2::interval, '{}', 1, $3 FROM clock_timestamp() AS t`, id, ttl, kid)
	return id
}

// checkEvents is what must hold after any test: events verify, in their order,
// and none of a key is missing.
func (w *world) checkEvents() {
	ctx := context.WithoutCancel(w.t.Context())
	events, err := audit.List(ctx, w.pool, audit.Page{Tenant: "main", Limit: 100_000})
	if err != nil {
		w.t.Error(err)
	}
	for _, e := range events {
		if err := w.recorder.Verify(e); err != nil {
			w.t.Error(err)
		}
	}
	const wrong = `SELECT count(*)::text FROM signing_keys k WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = coalesce(k.kid, k.label))`
	if n := w.text(wrong); n != "0" {
		w.t.Errorf("%s keys lack events, or have too many", n)
	}
	if n := w.text(`SELECT count(*)::text FROM signing_keys WHERE state = 'signing'`); n == "0" && w.text(`SELECT count(*)::text FROM signing_keys`) != "0" {
		w.t.Errorf("no key signs: %s", w.states())
	}
}

// crash is what a checkpoint of crashing panics with.
type crash struct{ step string }

// crashing ends what runs at a step, as a crash would: nothing after it happens,
// and what the database held open is rolled back.
func crashing(at string) func(string) {
	return func(step string) {
		if step == at {
			panic(crash{step})
		}
	}
}

// survive runs f and says whether it crashed.
func survive(f func()) (crashed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ours := r.(crash); !ours {
				panic(r)
			}
			crashed = true
		}
	}()
	f()
	return false
}

// together runs f on each ring at once.
func together(rings []*keyring.Ring, f func(*keyring.Ring)) {
	var all sync.WaitGroup
	for _, r := range rings {
		all.Go(func() { f(r) })
	}
	all.Wait()
}

var errAway = errors.New("the token is away")

// away is a store in which one key can't be reached.
type away struct {
	keys.Store
	label string
}

// OpenSigner implements keys.Store.
func (a *away) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	if pair.Label == a.label {
		return nil, errAway
	}
	return a.Store.OpenSigner(ctx, pair)
}
