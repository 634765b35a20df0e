package leases_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// model is what a Store should remember, in a map. The database's clock is kept
// out of it: a lease is due or not, and nothing becomes due by itself.
type model struct {
	f        *fixture
	off      *atomic.Int64 // of the broker's clock
	issuer   string        // the run's own, so that runs share a database
	leases   map[string]*modelLease
	order    []string // ids, oldest first
	sessions []*modelSession
	tokens   []*modelToken
	claims   []modelClaim
	stale    []modelClaim // leases as they were read at some time
}

type modelLease struct {
	state    leases.State
	events   int
	attempts int
	due      bool
	stuck    bool
	expiry   bool // nothing outside has to be undone
	asked    bool // nor elsewhere: who gets it asks the broker
	limited  bool
	minted   bool
	token    *modelToken
}

type modelSession struct {
	leases.Session
	opened  bool
	revoked bool
}

// modelToken is one exchange.
type modelToken struct {
	session     *modelSession
	reservation *leases.Reservation
	activated   bool
	superseded  bool
}

// modelClaim is a lease as somebody has it in hand.
type modelClaim struct {
	leases.Claimed
	events int // of the lease when it was taken in hand
}

const (
	modelLimit    = 2 // max_active of the limited grant
	modelJobLimit = 5 // live leases of one job
)

func (l *modelLease) live() bool { return l.state == leases.Issuing || l.state == leases.Active }

// end is what beginning to end a lease does to it.
func (l *modelLease) end(due bool) {
	switch {
	case l.state == leases.Active && l.asked:
		l.state, l.due = leases.Revoked, false
	case l.state == leases.Active && l.expiry:
		l.state, l.due = leases.Expired, false
	case l.live():
		l.state, l.due = leases.Revoking, due
	default:
		return
	}
	l.events++
}

func (m *model) any(t *rapid.T) string {
	if len(m.order) == 0 {
		t.Skip("no lease yet")
	}
	return rapid.SampledFrom(m.order).Draw(t, "lease")
}

func (m *model) reserve(t *rapid.T) {
	if len(m.sessions) == 0 || rapid.IntRange(0, 2).Draw(t, "new session") == 0 {
		m.sessions = append(m.sessions, &modelSession{Session: m.f.job()})
	}
	session := rapid.SampledFrom(m.sessions).Draw(t, "session")
	grants := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "limited"}), 1, 3, rapid.ID).Draw(t, "grants")
	var retry *leases.Retry
	if rapid.Bool().Draw(t, "with a key") {
		retry = &leases.Retry{Key: key(ids.New(ids.Request, m.f.Now())), Request: key("request"), Asked: m.f.Now()}
	}
	m.exchange(t, session, retry, grants)
}

// exchange reserves, and says what the store should have said.
func (m *model) exchange(t *rapid.T, session *modelSession, retry *leases.Retry, grants []string) {
	issued := rapid.Bool().Draw(t, "issued")
	r := m.f.reservation(session.Session, grants...)
	r.Retry = retry
	if session.opened && rapid.Bool().Draw(t, "by session token") {
		r.Session.ID, r.Joined = session.ID, true
	}
	active, ofJob, tooMany := 0, 0, false
	for _, l := range m.leases {
		if l.live() && l.token.session == session {
			ofJob++
		}
		if l.limited && l.live() {
			active++
		}
	}
	r.MaxPerJob, r.JobKey, r.Whose = modelJobLimit, session.TokenDigest[:16], key(m.issuer)
	tooMany = ofJob+len(grants) > modelJobLimit
	for i := range r.Leases {
		l := &r.Leases[i]
		l.Policy, l.Issuer, l.Issued, l.SettledAt = m.issuer, m.issuer, issued, r.Now.Add(time.Hour)
		l.ExpiresAt, l.MaxExpiresAt = r.Now.Add(20*time.Minute), session.ExpiresAt
		if issued || rapid.Bool().Draw(t, "expiry") {
			l.Revocation = rapid.SampledFrom([]issuers.Revocation{issuers.Expiry, issuers.Introspection}).Draw(t, "revocation")
		}
		if l.Grant == "limited" {
			l.MaxActive = modelLimit
			tooMany = tooMany || active >= modelLimit
		}
	}
	err := m.f.Reserve(t.Context(), r)
	switch {
	case session.revoked:
		if !errors.Is(err, leases.ErrReplayed) {
			t.Fatalf("on a session that was revoked: %v", err)
		}
		return
	case tooMany:
		if _, ok := errors.AsType[*leases.TooManyError](err); !ok {
			t.Fatalf("one more than a limit: %v", err)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	token := &modelToken{session: session, reservation: r}
	session.ID, session.opened = r.SessionID, true
	m.tokens = append(m.tokens, token)
	for _, l := range r.Leases {
		state := leases.Issuing
		if issued {
			state = leases.Active
		}
		m.leases[l.ID] = &modelLease{state: state, events: 1, expiry: l.Revocation == issuers.Expiry, asked: l.Revocation == issuers.Introspection, limited: l.Grant == "limited", token: token}
		m.order = append(m.order, l.ID)
	}
}

// retry sends an exchange again.
func (m *model) retry(t *rapid.T) {
	tried := slices.DeleteFunc(slices.Clone(m.tokens), func(token *modelToken) bool {
		return token.superseded || token.reservation.Retry == nil || token.session.revoked
	})
	if len(tried) == 0 {
		t.Skip("no exchange to send again")
	}
	first := rapid.SampledFrom(tried).Draw(t, "exchange")
	retry := *first.reservation.Retry
	retry.Asked = m.f.Now()
	var grants []string
	for _, l := range first.reservation.Leases {
		grants = append(grants, l.Grant)
	}
	r := m.f.reservation(first.session.Session, grants...)
	r.Retry = &retry
	if err := m.f.Reserve(t.Context(), r); !errors.Is(err, leases.ErrRetry) {
		t.Fatalf("a second try: %v", err)
	}
	ended, err := m.f.Supersede(t.Context(), r)
	if err != nil || len(ended) != len(grants) {
		t.Fatalf("%d of %d: %v", len(ended), len(grants), err)
	}
	first.superseded = true
	for _, l := range m.leases {
		if l.token == first {
			l.end(true)
		}
	}
	m.exchange(t, first.session, &retry, grants)
}

func (m *model) activate(t *rapid.T) {
	open := slices.DeleteFunc(slices.Clone(m.tokens), func(token *modelToken) bool { return token.activated || token.reservation.Leases[0].Issued })
	if len(open) == 0 {
		t.Skip("no exchange to activate")
	}
	token := rapid.SampledFrom(open).Draw(t, "exchange")
	token.activated = true
	err := m.f.Activate(t.Context(), activation(m.f, token.reservation))
	whole := true
	for _, reserved := range token.reservation.Leases {
		l := m.leases[reserved.ID]
		if l.state != leases.Issuing {
			whole = false
			continue
		}
		l.state, l.minted, l.due = leases.Active, true, false
		l.events++
	}
	if (err == nil) != whole || (err != nil && !errors.Is(err, leases.ErrNotActive)) {
		t.Fatalf("all were issuing: %v; %v", whole, err)
	}
}

// undo is what a broker does with an exchange that failed on its way, or that it
// believes to have.
func (m *model) undo(t *rapid.T) {
	if len(m.tokens) == 0 {
		t.Skip("no exchange yet")
	}
	token := rapid.SampledFrom(m.tokens).Draw(t, "exchange")
	if err := m.f.Undo(t.Context(), token.reservation, leases.Why{Actor: "model", Reason: "it failed"}); err != nil {
		t.Fatal(err)
	}
	for _, l := range m.leases {
		if l.token != token {
			continue
		}
		if l.end(true); l.state == leases.Revoking {
			l.due = true
		}
	}
}

// crash throws the store away, with all that it keeps in memory. Another one goes
// on, also with what the first had in hand.
func (m *model) crash(t *rapid.T) {
	last := m.f.Now()
	m.f.Close()
	next, err := leases.Open(t.Context(), m.f.settings)
	if err != nil {
		t.Fatal(err)
	}
	// The next one has measured the time anew, and may be a little behind.
	for !next.Now().After(last) {
		<-time.After(time.Millisecond)
	}
	m.f.Store = next
}

// wrongClock is an exchange by a broker that believes that it is another time: it
// gets nothing, and leaves nothing.
func (m *model) wrongClock(t *rapid.T) {
	off := rapid.SampledFrom([]time.Duration{-time.Hour, -time.Minute, time.Minute, time.Hour}).Draw(t, "off by")
	m.off.Store(int64(off))
	r := m.f.reservation(m.f.job(), "a")
	r.Leases[0].Policy, r.Leases[0].Issuer = m.issuer, m.issuer
	err := m.f.Reserve(t.Context(), r)
	m.off.Store(0)
	if !errors.Is(err, leases.ErrUnavailable) {
		t.Fatalf("off by %s: %v", off, err)
	}
	m.crash(t) // the next store looks at the clocks anew
}

func (m *model) beginRevoke(t *rapid.T) {
	wanted := append([]string{m.any(t)}, rapid.SliceOfN(rapid.SampledFrom(m.order), 0, 3).Draw(t, "more")...)
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	ended, err := m.f.BeginRevoke(t.Context(), append(slices.Clone(wanted), ids.New(ids.Lease, m.f.Now())), leases.Why{Actor: "model", Reason: "asked"})
	if err != nil || len(ended) != len(wanted) {
		t.Fatalf("%d of %d: %v", len(ended), len(wanted), err)
	}
	for i, id := range wanted {
		l := m.leases[id]
		if l.end(true); l.state == leases.Revoking {
			l.due = true // one that is being revoked is tried again at once
		}
		if ended[i].ID != id || ended[i].State != l.state {
			t.Errorf("%s is %s, want %s is %s", ended[i].ID, ended[i].State, id, l.state)
		}
	}
}

func (m *model) revokeSession(t *rapid.T) {
	if len(m.tokens) == 0 {
		t.Skip("no session yet")
	}
	token := rapid.SampledFrom(m.tokens).Draw(t, "token")
	ended, err := m.f.RevokeSession(t.Context(), token.session.ID, token.reservation.Token.Hash, leases.Why{Actor: "model", Reason: "done"})
	if err != nil || len(ended) != len(token.reservation.Leases) {
		t.Fatalf("%d of %d: %v", len(ended), len(token.reservation.Leases), err)
	}
	token.session.revoked = true
	for _, l := range m.leases {
		if l.token == token {
			l.end(true)
		}
	}
}

func (m *model) pass(t *rapid.T) {
	id := m.any(t)
	if _, err := m.f.pool.Exec(t.Context(), `UPDATE leases SET due_at = now() - interval '1 second' WHERE id = $1 AND due_at IS NOT NULL`, id); err != nil {
		t.Fatal(err)
	}
	l := m.leases[id]
	l.due = !l.state.Ended()
}

func (m *model) claim(t *rapid.T) {
	claimed, expired, err := m.f.Claim(t.Context(), m.issuer, 1000, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for id, l := range m.leases {
		if !l.due {
			continue
		}
		if l.state == leases.Active && l.asked {
			l.state, l.due = leases.Expired, false // it ran its time
			want++
			continue
		}
		if l.end(false); l.state == leases.Expired {
			l.events-- // its end stands in the event of the sweep
			want++
			continue
		}
		l.due = false
		i := slices.IndexFunc(claimed, func(c leases.Claimed) bool { return c.ID == id })
		if i < 0 {
			t.Fatalf("%s is due and wasn't claimed", id)
		}
		if got := string(claimed[i].Handle); got != map[bool]string{true: "handle of " + id}[l.minted] {
			t.Errorf("handle %q, minted %v", got, l.minted)
		}
		m.claims = append(m.claims, modelClaim{claimed[i], l.events})
		claimed = slices.Delete(claimed, i, i+1)
	}
	if len(expired) != want || len(claimed) != 0 {
		t.Fatalf("%d expired, want %d; claimed what isn't due: %v", len(expired), want, claimed)
	}
}

func (m *model) anyClaim(t *rapid.T) (modelClaim, *modelLease) {
	if len(m.claims) == 0 {
		t.Skip("nothing was claimed yet")
	}
	c := rapid.SampledFrom(m.claims).Draw(t, "claim")
	return c, m.leases[c.ID]
}

func (m *model) complete(t *rapid.T) {
	c, l := m.anyClaim(t)
	done, err := m.f.Complete(t.Context(), c.Lease)
	if want := l.state == leases.Revoking && l.events == c.events; err != nil || done != want {
		t.Fatalf("done %v, want %v: %v", done, want, err)
	}
	if done {
		l.state, l.due, l.stuck = leases.Revoked, false, false
		l.events++
	}
}

func (m *model) postpone(t *rapid.T) {
	c, l := m.anyClaim(t)
	stuck, due := rapid.Bool().Draw(t, "stuck"), rapid.Bool().Draw(t, "due")
	until := m.f.Now().Add(map[bool]time.Duration{true: -time.Second, false: time.Hour}[due])
	if err := m.f.Postpone(t.Context(), c.Lease, until, "not now", stuck); err != nil {
		t.Fatal(err)
	}
	if l.state == leases.Revoking {
		l.attempts++
		l.stuck, l.due = stuck, due
	}
}

func (m *model) forget(t *rapid.T) {
	id := m.any(t)
	l := m.leases[id]
	forgotten, err := m.f.Forget(t.Context(), id, leases.Why{Actor: "model", Reason: "gone"})
	if l.state != leases.Revoking || !l.stuck {
		if !errors.Is(err, leases.ErrNotStuck) {
			t.Fatalf("forgotten from %s, stuck %v: %v", l.state, l.stuck, err)
		}
		return
	}
	if err != nil || forgotten.State != leases.Forgotten {
		t.Fatalf("%v %v", forgotten, err)
	}
	l.state, l.due, l.stuck = leases.Forgotten, false, false
	l.events++
}

// read keeps a lease as it is now, for somebody who acts on it later.
func (m *model) read(t *rapid.T) {
	l, err := m.f.Get(t.Context(), m.any(t))
	if err != nil {
		t.Fatal(err)
	}
	m.stale = append(m.stale, modelClaim{leases.Claimed{Lease: l}, m.leases[l.ID].events})
}

func (m *model) renew(t *rapid.T) {
	if len(m.stale) == 0 {
		t.Skip("nothing was read yet")
	}
	read := rapid.SampledFrom(m.stale).Draw(t, "read")
	l, lease := m.leases[read.ID], *read.Lease
	err := m.f.Renew(t.Context(), &lease, lease.MaxExpiresAt, "model")
	if l.state != leases.Active || l.events != read.events {
		if !errors.Is(err, leases.ErrNotActive) {
			t.Fatalf("renewed as %s, %d events after it was read: %v", l.state, l.events-read.events, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	l.due = false
	l.events++
}

func (m *model) check(t *rapid.T) {
	found, err := m.f.List(t.Context(), leases.Filter{Issuer: m.issuer, Limit: 10_000})
	if err != nil || len(found) != len(m.leases) {
		t.Fatalf("%d leases, want %d: %v", len(found), len(m.leases), err)
	}
	for _, got := range found {
		want := m.leases[got.ID]
		var due bool
		var events int
		if err := m.f.pool.QueryRow(t.Context(), `SELECT coalesce(due_at <= now() + interval '1 second', false), (SELECT count(*) FROM audit_events WHERE subject = l.id) FROM leases l WHERE id = $1`,
			got.ID).Scan(&due, &events); err != nil {
			t.Fatal(err)
		}
		if got.State != want.state || got.Attempts != want.attempts || got.Stuck != want.stuck || due != want.due || events != want.events || (got.EndedAt != nil) != got.State.Ended() {
			t.Fatalf("%s is %s with %d attempts and %d events, stuck %v, due %v; want %+v", got.ID, got.State, got.Attempts, events, got.Stuck, due, *want)
		}
	}
}

// TestModel lets random histories of many leases agree with the model.
func TestModel(t *testing.T) {
	var off atomic.Int64
	f := newFixture(t, func(c *leases.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	})
	t.Cleanup(func() { f.Close() }) // of the last of its stores
	began, runs := time.Now(), 0
	rapid.Check(t, func(rt *rapid.T) {
		if time.Since(began) > 12*time.Second {
			return // enough for today
		}
		runs++
		m := &model{f: f, off: &off, issuer: fmt.Sprintf("model-%d", runs), leases: map[string]*modelLease{}}
		rt.Repeat(map[string]func(*rapid.T){
			"reserve": m.reserve, "retry": m.retry, "activate": m.activate, "beginRevoke": m.beginRevoke, "revokeSession": m.revokeSession, "pass": m.pass, "claim": m.claim,
			"undo": m.undo, "crash": m.crash, "wrongClock": m.wrongClock, "complete": m.complete, "postpone": m.postpone, "forget": m.forget, "read": m.read, "renew": m.renew,
		})
		m.check(rt)
	})
	if runs < 5 {
		t.Errorf("only %d histories in %s", runs, time.Since(began))
	}
}
