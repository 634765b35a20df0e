package broker_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
)

// pair is a primary and its synchronous standby.
type pair struct {
	t                *testing.T
	primary, standby *devkit.Postgres
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	p := &pair{t: t}
	var err error
	// Tests' servers confirm before anything is safe; these two must not.
	if p.primary, err = devkit.StartPostgres(ctx, devkit.PostgresConfig{TCP: true, Ephemeral: true, Settings: map[string]string{"synchronous_commit": "on"}}); err != nil {
		t.Fatal(err)
	}
	p.stopAtEnd(p.primary)
	if err := p.primary.CreateDatabase(ctx, "daypass"); err != nil {
		t.Fatal(err)
	}
	if p.standby, err = p.primary.StartStandby(ctx, nil); err != nil {
		t.Fatal(err)
	}
	p.stopAtEnd(p.standby)
	if err := p.primary.AwaitStandby(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) stopAtEnd(server *devkit.Postgres) {
	p.t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(p.t.Context())); err != nil {
			p.t.Error(err)
		}
	})
}

// url names both hosts, the standby first.
func (p *pair) url() string {
	hosts := ""
	for _, server := range []*devkit.Postgres{p.standby, p.primary} {
		hosts += "," + net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port()))
	}
	return "postgres://" + url.UserPassword("postgres", p.primary.Password()).String() + "@" + hosts[1:] + "/daypass?sslmode=disable"
}

// clients exchange until they are stopped, and remember what was acknowledged.
type clients struct {
	t       *testing.T
	stop    context.CancelFunc
	running sync.WaitGroup

	mu           sync.Mutex
	acknowledged []string // lease ids
	good         map[*brokertest.Broker]int
	refused      int
}

func newClients(t *testing.T, brokers ...*brokertest.Broker) *clients {
	ctx, stop := context.WithCancel(t.Context())
	c := &clients{t: t, stop: stop, good: map[*brokertest.Broker]int{}}
	t.Cleanup(func() { stop(); c.running.Wait() })
	for i := range 3 * len(brokers) {
		b, grant := brokers[i%len(brokers)], []string{"payments/deploy-db", "payments/sign"}[i/len(brokers)%2]
		c.running.Go(func() {
			for ctx.Err() == nil {
				c.exchange(b, grant)
			}
		})
	}
	return c
}

func (c *clients) exchange(b *brokertest.Broker, grant string) {
	a := b.Do(http.MethodPost, api.PathExchange, b.Job(), map[string]any{"grants": []map[string]string{{"name": grant, "ttl": "5s"}}})
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.Status != http.StatusOK {
		c.refused++
		if a.Status != http.StatusServiceUnavailable || a.Problem.Code != api.CodeUnavailable || a.Header.Get("Retry-After") == "" {
			c.t.Errorf("an exchange while the database is away: %d, Retry-After %q\n%s", a.Status, a.Header.Get("Retry-After"), a.Body)
		}
		return
	}
	out := &api.ExchangeResponse{}
	if err := a.Into(out); err != nil {
		c.t.Error(err)
		return
	}
	c.good[b]++
	c.acknowledged = append(c.acknowledged, out.Credentials[0].LeaseID)
}

// await returns once each broker has given out so many more, and refused more exchanges
// were refused.
func (c *clients) await(more, refused int) {
	c.t.Helper()
	c.mu.Lock()
	want := map[*brokertest.Broker]int{}
	for b, n := range c.good {
		want[b] = n + more
	}
	wantRefused := c.refused + refused
	c.mu.Unlock()
	c.poll(fmt.Sprintf("%d exchanges more, %d refused", more, refused), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for b, n := range want {
			if c.good[b] < n {
				return false
			}
		}
		return c.refused >= wantRefused
	})
}

func (c *clients) poll(what string, holds func() bool) { patiently(c.t, what, holds) }

// patiently polls for longer than brokertest.Poll: servers start and stop here.
func patiently(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(4 * time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestFailover kills the primary under load and promotes its synchronous standby:
// the brokers find it by themselves, and no lease that a job heard of is lost.
func TestFailover(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	first := brokertest.New(t, brokertest.Options{Database: p.url()})
	second := brokertest.New(t, brokertest.Options{Join: first})
	cancelledCommit(t, p, first)

	first.Exchange(first.Job(), "payments/sign")
	load := newClients(t, first, second)
	load.good[first], load.good[second] = 0, 0
	load.await(15, 0)
	p.primary.Kill()
	load.await(0, 4)
	if a := first.Do(http.MethodGet, api.PathReady, "", nil); a.Status != http.StatusServiceUnavailable {
		t.Errorf("/readyz without a database: %d %s", a.Status, a.Body)
	}
	if a := first.Do(http.MethodGet, api.PathLive, "", nil); a.Status != http.StatusOK {
		t.Errorf("/livez without a database: %d", a.Status)
	}
	if err := p.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	load.await(15, 0)
	load.stop()
	load.running.Wait()

	for _, id := range load.acknowledged {
		if n := first.Count(`SELECT count(*) FROM leases WHERE id = $1 AND state <> 'issuing'`, id); n != 1 {
			t.Errorf("lease %s was acknowledged, and is not on the promoted standby", id)
		}
	}
	patiently(t, "everything is taken back", func() bool {
		return len(first.DB.Live()) == 0 && first.Count(`SELECT count(*) FROM leases WHERE state NOT IN ('revoked', 'expired') AND expires_at < now() + interval '1 minute'`) == 0
	})
	patiently(t, "the broker is ready", func() bool { return first.Do(http.MethodGet, api.PathReady, "", nil).Status == http.StatusOK })
}

// cancelledCommit: while the standby is away a commit waits, and somebody who
// cancels the wait turns it into one that a failover would lose. The server calls
// it a success, and the job must not hear of it.
func cancelledCommit(t *testing.T, p *pair, b *brokertest.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.primary.DSN("daypass"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // its work is done
	operator := b.Admin(admin.Operator)
	asks := map[string]func() *brokertest.Answer{
		"an exchange": func() *brokertest.Answer { return b.TryExchange(b.Job(), "payments/sign") },
		"a new static secret": func() *brokertest.Answer {
			return b.Do(http.MethodPut, api.PathSecrets+"/payments/new", operator, map[string]any{"owner": "x@example.com", "values": map[string]string{"value": b.Hide("a-value-that-nobody-keeps")}})
		},
	}
	p.standby.Kill()
	var asking sync.WaitGroup
	var answered atomic.Bool
	asking.Go(func() {
		defer answered.Store(true)
		for told := false; !told; told = strings.Contains(b.Log.String(), "did not reach the synchronous standby") {
			for what, ask := range asks {
				if a := ask(); a.Status != http.StatusServiceUnavailable {
					t.Errorf("without its standby the database confirmed to nobody, and %s was answered with %d\n%s", what, a.Status, a.Body)
					return
				}
			}
		}
	})
	patiently(t, "a commit whose wait was cancelled", func() bool {
		if _, err := conn.Exec(ctx, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`); err != nil {
			t.Error(err)
			return true
		}
		return answered.Load()
	})
	asking.Wait()
	if err := p.standby.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	patiently(t, "the standby follows again", func() bool { return b.TryExchange(b.Job(), "payments/sign").Status == http.StatusOK })
}
