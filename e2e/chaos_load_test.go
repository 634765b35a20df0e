package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/e2e/chaos"
)

// load are clients of a fleet that is being ruined. It remembers all that they
// were told.
type load struct {
	*ruin

	seed  uint64
	began time.Time
	end   time.Time
	pace  time.Duration // how long a client rests: it is the fleet that is tried, not the machine

	mu      sync.Mutex
	given   map[string]*given // by lease id
	revoked map[string]string // lease id → state, of revocations that were answered
	report  *report
}

// given is a credential that a client was given.
type given struct {
	kind     string
	url      string // of a database user
	username string
}

// client is one request after the other, each by itself.
type client struct {
	*load

	random *rand.Rand
}

const (
	// clockSlack is how far a broker that works may be from the database's clock.
	clockSlack = 2 * time.Second
	// patience is how long a client waits for an answer.
	patience = 20 * time.Second
	// least is how many credentials prove something, and busy how long a slow machine
	// gets for them.
	least, busy = 20, 3 * time.Minute
	// logTime is how long a broker's line about a request may take to be read.
	logTime = 2 * time.Second
)

func newLoad(r *ruin, setup chaos.Setup) *load {
	began := time.Now()
	return &load{
		ruin: r, seed: setup.Seed, began: began, end: began.Add(setup.Length), pace: 100 * time.Millisecond,
		given: map[string]*given{}, revoked: map[string]string{}, report: newReport(began),
	}
}

func (l *load) work(number int) {
	c := &client{load: l, random: rand.New(rand.NewPCG(l.seed, uint64(number)))}
	for (time.Now().Before(l.end) || l.thin()) && !l.t.Failed() {
		c.job()
		l.sleep(l.pace)
	}
}

// thin says that too little was given out to prove anything, on a machine that was
// too busy: clients go on for a while, when nothing goes wrong any more.
func (l *load) thin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.given) < least && time.Now().Before(l.end.Add(busy))
}

// tell says now and then how far it is.
func (l *load) tell() {
	for time.Now().Before(l.end) && !l.t.Failed() {
		l.sleep(min(30*time.Second, time.Until(l.end)))
		l.mu.Lock()
		given, revoked := len(l.given), len(l.revoked)
		l.mu.Unlock()
		l.t.Logf("after %s: %d credentials given out, %d revocations answered", time.Since(l.began).Round(time.Second), given, revoked)
	}
}

// job is what one CI job does: it asks for credentials, again where it got no
// answer, and then renews them, gives them back or forgets them.
func (c *client) job() {
	profile, name := "github", "check_run_id"
	if c.random.IntN(3) == 0 {
		profile, name = "gitlab", "job_id" // its tokens open one session
	}
	claims := map[string]any{"jti": fmt.Sprint("jti-", c.random.Uint64())}
	if c.random.IntN(8) > 0 { // else all are one job, whose exchanges wait for each other to be counted
		claims[name] = fmt.Sprint(c.random.Uint32())
	}
	token, err := c.provider.Token(profile, "daypass-e2e", claims)
	if err != nil {
		c.t.Error(err)
		return
	}
	key := ""
	if c.random.IntN(2) == 0 {
		key = fmt.Sprint("key-", c.random.Uint64())
	}
	ttl := fmt.Sprint(2+c.random.IntN(6), "s")
	request := api.ExchangeRequest{}
	for _, g := range [][]string{{"app/db"}, {"app/jwt"}, {"app/jwt"}, {"app/db", "app/jwt"}, {"app/db", "app/db-again"}}[c.random.IntN(5)] {
		request.Grants = append(request.Grants, api.GrantRequest{Name: g, TTL: ttl})
	}
	var got *api.ExchangeResponse
	tries := 1
	if key != "" || profile == "github" {
		tries = 4
	}
	for range tries {
		if got = c.exchange(token, key, request); got != nil && (key == "" || c.random.IntN(8) > 0) {
			break // sometimes it asks again though it has them: the answer may have been lost on the way
		}
		c.sleep(c.pace)
	}
	if got == nil {
		return
	}
	switch c.random.IntN(8) {
	case 0, 1:
		c.giveBack(got)
	case 2:
		c.revoke(got)
	case 3, 4:
		c.renew(got)
	case 5:
		c.sleep(5 * c.pace)
		c.mustLive(got)
	}
}

// mustLive looks whether a credential that nobody took back lives until its end.
// Where the database doesn't answer, that isn't known.
func (c *client) mustLive(got *api.ExchangeResponse) {
	conn, err := pgx.Connect(c.t.Context(), c.servers.primary().DSN(c.name))
	if err != nil {
		return
	}
	defer conn.Close(c.t.Context()) //nolint:errcheck // it was read from
	for _, credential := range got.Credentials {
		var state string
		var now, end time.Time
		const look = `SELECT state, clock_timestamp(), expires_at FROM leases WHERE id = $1`
		if conn.QueryRow(c.t.Context(), look, credential.LeaseID).Scan(&state, &now, &end) == nil && state != "active" && now.Before(end.Add(-clockSlack)) {
			c.t.Errorf("lease %s is %s at %s, and was to live until %s", credential.LeaseID, state, now.Format(time.StampMilli), end.Format(time.StampMilli))
		}
	}
}

func (c *client) exchange(token, key string, request api.ExchangeRequest) *api.ExchangeResponse {
	got, began := &api.ExchangeResponse{}, time.Now()
	if status := c.send(api.PathExchange, sent{token: token, key: key, body: request}, got); status != http.StatusOK {
		return nil
	}
	c.report.given(strings.Join(slices.Collect(func(yield func(string) bool) {
		for _, credential := range got.Credentials {
			if !yield(credential.Kind) {
				return
			}
		}
	}), " and "), time.Since(began))
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.given) < 200 {
		leaks.secret("session token", got.Session.Token)
	}
	for _, credential := range got.Credentials {
		if len(c.given) < 200 { // the search for leaks is as long as the list
			for _, name := range credential.Secret {
				leaks.secret(credential.Kind+" "+name, credential.Values[name])
			}
		}
		if c.given[credential.LeaseID] != nil {
			c.t.Errorf("lease %s was given twice", credential.LeaseID)
		}
		c.given[credential.LeaseID] = &given{credential.Kind, credential.Values["url"], credential.Values["username"]}
	}
	return got
}

// giveBack ends the session. What was answered must stay so: its token opens
// nothing any more.
func (c *client) giveBack(got *api.ExchangeResponse) {
	answer := &api.RevokeResponse{}
	status := c.send(api.PathSessionRevoke, sent{token: got.Session.Token}, answer)
	if status != http.StatusOK && status != http.StatusAccepted {
		return
	}
	for _, lease := range answer.Leases {
		c.taken(lease.ID, lease.State)
	}
	again := api.ExchangeRequest{Grants: []api.GrantRequest{{Name: got.Credentials[0].Grant}}}
	if c.exchange(got.Session.Token, "", again) != nil {
		c.t.Errorf("session %s was given back, and opened something", got.Session.ID)
	}
}

// revoke is an operator who takes one lease back.
func (c *client) revoke(got *api.ExchangeResponse) {
	id, answer := got.Credentials[0].LeaseID, &api.RevokeResponse{}
	if status := c.send(api.PathLeases+"/"+id+"/revoke", sent{token: c.admin, body: api.RevokeRequest{Reason: "chaos"}}, answer); status == http.StatusOK || status == http.StatusAccepted {
		c.taken(id, answer.State)
	}
}

func (c *client) renew(got *api.ExchangeResponse) {
	for _, credential := range got.Credentials {
		if credential.Renewable {
			c.send(api.PathLeases+"/"+credential.LeaseID+"/renew", sent{token: got.Session.Token}, &api.Lease{})
		}
	}
}

// taken remembers what was said about a revocation. What is said to be revoked
// may not stand on the target for a moment longer.
func (c *client) taken(id, state string) {
	c.mu.Lock()
	c.revoked[id] = state
	g := c.given[id]
	c.mu.Unlock()
	if g == nil || g.username == "" || state != "revoked" || len(c.forgotten(id)) > 0 {
		return
	}
	if n := c.roles([]string{g.username}); n != 0 {
		c.t.Errorf("lease %s is said to be revoked, and its user is there", id)
	}
}

// roles counts those that stand on the target's server.
func (l *load) roles(names []string) (n int) {
	conn, err := pgx.Connect(l.t.Context(), l.targets.DSN("postgres"))
	if err == nil {
		defer conn.Close(l.t.Context()) //nolint:errcheck // its work is done
		err = conn.QueryRow(l.t.Context(), `SELECT count(*) FROM pg_roles WHERE rolname = ANY($1)`, names).Scan(&n)
	}
	l.try(err)
	return n
}

type sent struct {
	token, key string
	body       any
}

// send posts to any broker. It returns the status, 0 where no answer came.
func (c *client) send(path string, what sent, into any) (status int) {
	b := c.places[c.random.IntN(len(c.places))].now()
	if b == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var body bytes.Buffer
	if what.body != nil {
		if err := json.NewEncoder(&body).Encode(what.body); err != nil {
			c.t.Error(err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+path, &body)
	if err != nil {
		c.t.Error(err)
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+what.token)
	if what.key != "" {
		request.Header.Set(api.HeaderIdempotencyKey, what.key)
	}
	problem := &api.Problem{}
	defer func() { c.report.count(path, status, problem) }()
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		problem.Detail = "no answer"
		return 0
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		problem.Detail = "half an answer"
		return 0
	}
	if response.StatusCode < 300 {
		err = json.Unmarshal(answer, into)
	} else {
		err = json.Unmarshal(answer, problem)
	}
	if err != nil {
		c.t.Errorf("%s: %d %s", path, response.StatusCode, answer)
	}
	// Whatever goes wrong around it, a broker knows what to say about it: never a 500. A clock that was set back refuses for a moment (limit.Rate).
	if known := []api.Code{"", api.CodeUnavailable, api.CodeIssuerFailed, api.CodeInvalidToken, api.CodeNotRenewable, api.CodeAlreadyRevoked, api.CodeRateLimited}; !slices.Contains(known, problem.Code) {
		c.t.Errorf("%s: %d %s\n%s", path, response.StatusCode, answer, b.said(problem.RequestID))
	}
	return response.StatusCode
}

// said is what a broker's log says of a request, in a while.
func (b *broker) said(id string) string {
	said := ""
	for end := time.Now().Add(logTime); said == "" && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		said = strings.Join(slices.DeleteFunc(b.lines(), func(line string) bool { return id == "" || !strings.Contains(line, id) }), "\n")
	}
	return said
}
