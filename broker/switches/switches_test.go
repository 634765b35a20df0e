package switches_test

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/switches"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// turn turns a switch by the API, or the test fails.
func turn(t *testing.T, b *brokertest.Broker, operator string, request api.SwitchRequest) api.Switch {
	t.Helper()
	var w api.Switch
	if a := b.Do(http.MethodPost, api.PathSwitches, operator, request); a.Status != http.StatusOK || a.Into(&w) != nil {
		t.Fatalf("%+v: %d\n%s", request, a.Status, a.Body)
	}
	return w
}

func isOff(a *brokertest.Answer) bool {
	return a.Status == http.StatusServiceUnavailable && a.Problem.Code == api.CodeUnavailable && a.Header.Get("Retry-After") == "30" &&
		strings.Contains(a.Problem.Detail, "turned off by an operator")
}

// TestOff: whatever is turned off at one broker is off at all of them, for jobs,
// sessions and renewals, and nothing else is; and on again likewise.
func TestOff(t *testing.T) {
	t.Parallel()
	first := brokertest.New(t, brokertest.Options{})
	second := brokertest.New(t, brokertest.Options{Join: first})
	operator := first.Admin(admin.Operator)
	out := second.Exchange(second.Job(), "payments/deploy-db")
	renew := api.PathLeases + "/" + out.Credentials[0].LeaseID + "/renew"
	for _, c := range []struct {
		kind, name string
		others     string // what still works; "" where nothing does
	}{
		{api.SwitchGrant, "payments/deploy-db", "payments/read-db"},
		{api.SwitchIssuer, brokertest.IssuerDB, "payments/sign"},
		{api.SwitchPolicy, "payments", ""},
		{api.SwitchProvider, "github", ""},
	} {
		w := turn(t, first, operator, api.SwitchRequest{Kind: c.kind, Name: c.name, Off: true, Reason: "its log leaked 4711"})
		if !w.Off || w.Sweeping || !strings.HasPrefix(w.Actor, "admin ") {
			t.Errorf("%+v", w)
		}
		if a := first.TryExchange(first.Job(), "payments/deploy-db"); !isOff(a) {
			t.Errorf("%s %s: at the broker where it was turned off: %d %s", c.kind, c.name, a.Status, a.Body)
		}
		brokertest.Poll(t, c.kind+" is off at the other one", func() bool { return isOff(second.TryExchange(second.Job(), "payments/deploy-db")) })
		if a := second.TryExchange(out.Session.Token, "payments/deploy-db"); !isOff(a) {
			t.Errorf("%s: by a session token: %d %s", c.kind, a.Status, a.Body)
		}
		if a := second.Do(http.MethodPost, renew, out.Session.Token, nil); !isOff(a) || strings.Contains(string(a.Body), "4711") {
			t.Errorf("%s: a renewal: %d %s", c.kind, a.Status, a.Body)
		}
		// A stranger is told what everybody is.
		if a := second.TryExchange(second.Token("github", map[string]any{"repository_id": "99"}), "payments/deploy-db"); c.kind != api.SwitchProvider && a.Problem.Code != api.CodeNotAllowed {
			t.Errorf("%s: a stranger was told: %s", c.kind, a.Body)
		}
		if c.others != "" {
			second.Exchange(second.Job(), c.others)
		}
		if w := turn(t, second, operator, api.SwitchRequest{Kind: c.kind, Name: c.name}); w.Off {
			t.Errorf("%+v", w)
		}
		brokertest.Poll(t, c.kind+" is on again", func() bool { return first.TryExchange(first.Job(), "payments/deploy-db").Status == http.StatusOK })
		subject := switches.Subject(switches.Kind(c.kind), c.name)
		if n := first.Count(`SELECT count(*) FROM audit_events WHERE subject = $1 AND type = 'switch.off' AND count = 1 AND body LIKE '%4711%'`, subject); n != 1 {
			t.Errorf("%d events of %s", n, subject)
		}
		if n := first.Count(`SELECT count(*) FROM audit_events WHERE subject = $1 AND type = 'switch.on' AND count = 2`, subject); n != 1 {
			t.Errorf("%d events that %s is on", n, subject)
		}
	}
	var list api.SwitchList
	if a := first.Do(http.MethodGet, api.PathSwitches, first.Admin(admin.Viewer), nil); a.Into(&list) != nil || len(list.Switches) != 4 || list.Switches[0].Name != "github" || list.Switches[0].Off {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// All leases lived on.
	if n := first.Count(`SELECT count(*) FROM leases WHERE state NOT IN ('issuing', 'active') AND policy = 'payments'`); n != 0 {
		t.Errorf("%d leases ended", n)
	}
}

// TestGiveBack: what is off can be given back.
func TestGiveBack(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	out := b.Exchange(b.Job(), "payments/deploy-db")
	turn(t, b, b.Admin(admin.Operator), api.SwitchRequest{Kind: api.SwitchProvider, Name: "github", Off: true, Reason: "r"})
	if a := b.Do(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil); a.Status != http.StatusOK {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// TestRevoke: with revoke, the leases of what is off are taken back, by whichever
// broker is elected for it, also that of an exchange which was decided before and
// came to be on record after; and no other lease is.
func TestRevoke(t *testing.T) {
	t.Parallel()
	var holding atomic.Bool
	held, release := make(chan struct{}), make(chan struct{})
	first := brokertest.New(t, brokertest.Options{Idle: true}) // it takes nothing back itself
	second := brokertest.New(t, brokertest.Options{Join: first, Checkpoint: func(step string) {
		if step == "before_reserve" && holding.CompareAndSwap(true, false) {
			close(held)
			<-release
		}
	}})
	operator := first.Admin(admin.Operator)
	gone := []string{second.Exchange(second.Job(), "payments/deploy-db").Credentials[0].LeaseID, second.Exchange(second.Job(), "payments/read-db").Credentials[0].LeaseID}
	stays := second.Exchange(second.Job(), "payments/other-db").Credentials[0].LeaseID
	holding.Store(true)
	var asking sync.WaitGroup
	token := second.Job()
	asking.Go(func() {
		out := second.Exchange(token, "payments/deploy-db")
		gone = append(gone, out.Credentials[0].LeaseID)
	})
	<-held
	if w := turn(t, first, operator, api.SwitchRequest{Kind: api.SwitchIssuer, Name: brokertest.IssuerDB, Off: true, Revoke: true, Reason: "r"}); !w.Sweeping {
		t.Errorf("%+v", w)
	}
	brokertest.Poll(t, "the leases that were on record are taken back", func() bool {
		return first.Count(`SELECT count(*) FROM leases WHERE id = ANY($1) AND state = 'revoked'`, gone[:2]) == 2
	})
	close(release)
	asking.Wait()
	brokertest.Poll(t, "the one that came late is, too", func() bool {
		return first.Count(`SELECT count(*) FROM leases WHERE id = ANY($1) AND state = 'revoked'`, gone) == 3
	})
	if n := first.Count(`SELECT count(*) FROM leases WHERE id = $1 AND state = 'active'`, stays); n != 1 {
		t.Error("a lease of another issuer was taken back")
	}
	first.Exec(`UPDATE switches SET sweep_until = now() - interval '1 second'`) // its time has come
	brokertest.Poll(t, "it ends", func() bool {
		return first.Count(`SELECT count(*) FROM switches WHERE sweep_until IS NULL AND swept = 3`) == 1
	})
}

// TestUnread: a broker that hears nothing, and whose own looking stands still, asks
// before it issues; and issues nothing where it can't.
func TestUnread(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	b := brokertest.New(t, brokertest.Options{Idle: true, Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	b.Exchange(b.Job(), "payments/sign")
	b.Exec(`INSERT INTO switches (tenant, kind, name, turned_off, reason, actor, changed_at, events) VALUES ('main', 'policy', 'payments', true, 'r', 'a', now(), 1)`)
	ahead.Store(int64(switches.Late) + int64(time.Second))
	if a := b.TryExchange(b.Job(), "payments/sign"); !isOff(a) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	b.CloseDatabase()
	ahead.Add(int64(switches.Late) + int64(time.Second))
	if a := b.TryExchange(b.Job(), "payments/sign"); a.Status != http.StatusServiceUnavailable || isOff(a) {
		t.Errorf("without a database: %d %s", a.Status, a.Body)
	}
	b.OpenDatabase()
}

// TestExplained: an operator who asks why is told of the switch, and of its reason.
func TestExplained(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator, token := b.Admin(admin.Operator), b.Job()
	turn(t, b, operator, api.SwitchRequest{Kind: api.SwitchIssuer, Name: brokertest.IssuerDB, Off: true, Reason: "ticket 4711"})
	a := b.Do(http.MethodPost, api.PathPoliciesExplain, operator, map[string]any{"token": token, "grant": "payments/deploy-db"})
	if a.Status != http.StatusOK || !strings.Contains(string(a.Body), "ticket 4711") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	a = b.Do(http.MethodPost, api.PathPoliciesExplain, operator, map[string]any{"token": token, "grant": "payments/sign"})
	if a.Status != http.StatusOK || strings.Contains(string(a.Body), "ticket 4711") {
		t.Errorf("of another grant: %d %s", a.Status, a.Body)
	}
}

// TestRefusals: only operators turn switches, only those that there are, and with
// a reason.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator, viewer := b.Admin(admin.Operator), b.Admin(admin.Viewer)
	good := map[string]any{"kind": "policy", "name": "payments", "off": true, "reason": "r"}
	for _, token := range []string{viewer, b.Exchange(b.Job(), "payments/sign").Session.Token} {
		if a := b.Do(http.MethodPost, api.PathSwitches, token, good); a.Status != http.StatusForbidden {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	for body, code := range map[string]api.Code{
		`{}`: api.CodeInvalidRequest,
		`{"kind":"policy","name":"payments","reason":"r"}`:                                                            api.CodeInvalidRequest,
		`{"kind":"policy","name":"payments","off":true}`:                                                              api.CodeInvalidRequest,
		`{"kind":"policy","name":"payments","off":true,"reason":" "}`:                                                 api.CodeInvalidRequest,
		`{"kind":"policy","name":"payments","off":true,"reason":"` + strings.Repeat("x", switches.MaxReason+1) + `"}`: api.CodeInvalidRequest,
		`{"kind":"policy","name":"payments","off":false,"revoke":true,"reason":"r"}`:                                  api.CodeInvalidRequest,
		`{"kind":"job","name":"payments","off":true,"reason":"r"}`:                                                    api.CodeInvalidRequest,
		`{"kind":"policy","name":"payment","off":true,"reason":"r"}`:                                                  api.CodeNotFound,
		`{"kind":"grant","name":"payments/none","off":true,"reason":"r"}`:                                             api.CodeNotFound,
		`{"kind":"issuer","name":"none","off":true,"reason":"r"}`:                                                     api.CodeNotFound,
		`{"kind":"provider","name":"system","off":true,"reason":"r"}`:                                                 api.CodeNotFound,
		`{"kind":"provider","name":"gitlab","off":false}`:                                                             "",
	} {
		if a := b.Do(http.MethodPost, api.PathSwitches, operator, body); a.Problem.Code != code {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	b.Exchange(b.Job(), "payments/sign")
}

// TestFleetIsSeen by a viewer.
func TestFleetIsSeen(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer := b.Admin(admin.Viewer)
	brokertest.Poll(t, "the broker is there, and elected", func() bool {
		var list api.BrokerList
		a := b.Do(http.MethodGet, api.PathBrokers, viewer, nil)
		return a.Into(&list) == nil && len(list.Brokers) == 1 && len(list.Brokers[0].Tasks) > 0
	})
	if a := b.Do(http.MethodGet, api.PathBrokers, b.Exchange(b.Job(), "payments/sign").Session.Token, nil); a.Status != http.StatusForbidden {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}
