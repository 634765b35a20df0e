package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// renewer answers renewals: ten minutes more each time, at most until last.
type renewer struct {
	last  time.Time
	fails map[int]error // by which request, from 1
	code  api.Code      // refuses all
	hangs string        // the lease whose renewals are never answered

	mu    sync.Mutex
	asked []time.Time
}

func (n *renewer) RoundTrip(r *http.Request) (*http.Response, error) {
	if n.hangs != "" && strings.Contains(r.URL.Path, n.hangs) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, time.Now())
	if err := n.fails[len(n.asked)]; err != nil {
		return nil, err
	}
	var body any
	status, kind := http.StatusOK, "application/json"
	end := time.Now().Add(10 * time.Minute)
	if end.After(n.last) {
		end = n.last
	}
	body = api.Lease{ExpiresAt: end, Renewable: end.Before(n.last)}
	if n.code != "" {
		status, kind, body = http.StatusConflict, api.ProblemType, api.Problem{Code: n.code, Status: http.StatusConflict}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(string(text))), Request: r, Header: http.Header{"Content-Type": {kind}}}, nil
}

// keepAlive keeps leases by a broker, and gives what was told and when.
func keepAlive(t *testing.T, n *renewer, credentials ...api.Credential) (told []string) {
	t.Helper()
	start := time.Now()
	c, err := New(Config{URL: "https://h", HTTP: &http.Client{Transport: n}})
	if err != nil {
		t.Fatal(err)
	}
	c.KeepAlive(t.Context(), &api.ExchangeResponse{Session: api.Session{Token: token}, Credentials: credentials}, Told{
		Renewed: func(credential api.Credential) {
			told = append(told, fmt.Sprintf("%s renewed to %v", credential.LeaseID, credential.ExpiresAt.Sub(start)))
		},
		Ended: func(credential api.Credential, err error) {
			told = append(told, fmt.Sprintf("%s at %v: %v", credential.LeaseID, time.Since(start).Round(time.Second), err))
		},
	})
	return told
}

func TestKeepAlive(t *testing.T) {
	broken := &net.OpError{Op: "read", Err: errors.New("connection reset")}
	always := map[int]error{}
	for i := range 20 {
		always[i] = broken
	}
	const ten = 10 * time.Minute
	for name, test := range map[string]struct {
		*renewer
		life time.Duration // until the last end
		told []string      // beginnings, but for the renewals
	}{
		"until its last end":  {&renewer{}, 30 * time.Minute, []string{"lse_1 at 26m40s: the lease can't be renewed any further"}},
		"an answer is lost":   {&renewer{fails: map[int]error{1: broken}}, 12 * time.Minute, []string{"lse_1 at 10m58s: the lease can't be renewed any further"}},
		"several are":         {&renewer{fails: map[int]error{1: broken, 2: broken}}, time.Hour, []string{"lse_1 at 8m53s: renewing lease: ", "lse_1 at 58m46s: the lease can't be renewed any further"}},
		"revoked meanwhile":   {&renewer{code: api.CodeAlreadyRevoked}, time.Hour, []string{"lse_1 at 6m40s: renewing lease: already_revoked"}},
		"refused from now on": {&renewer{code: api.CodeNotAllowed}, time.Hour, []string{"lse_1 at 8m53s: renewing lease: not_allowed"}},
		"it ended, unrenewed": {&renewer{fails: always}, time.Hour, []string{"lse_1 at 8m53s: renewing lease: "}},
		"nobody answers":      {&renewer{hangs: "lse_1"}, time.Hour, []string{"lse_1 at 9m30s: renewing lease: no answer within "}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				test.last = start.Add(test.life)
				told := keepAlive(t, test.renewer, api.Credential{LeaseID: "lse_1", Renewable: true, ExpiresAt: start.Add(ten)})
				renewed := func(s string) bool { return strings.Contains(s, "renewed to") }
				ends := slices.DeleteFunc(slices.Clone(told), renewed)
				renewals := slices.DeleteFunc(slices.Clone(told), func(s string) bool { return !renewed(s) })
				if len(ends) != len(test.told) {
					t.Fatalf("told %q, want %q", told, test.told)
				}
				for i, want := range test.told {
					if !strings.HasPrefix(ends[i], want) {
						t.Errorf("told %q, want %q", told, test.told)
					}
				}
				if test.hangs == "" && test.asked[0].Sub(start) != 400*time.Second {
					t.Errorf("first asked after %v, want two thirds of ten minutes", test.asked[0].Sub(start))
				}
				if n := len(renewals); n > 0 && renewals[n-1] != "lse_1 renewed to "+test.life.String() {
					t.Errorf("told %q, want its last end, %v", renewals, test.life)
				}
			})
		})
	}
}

// Each lease is kept by itself: neither one that can't be renewed nor one whose
// renewals aren't answered costs another its end.
func TestKeepAliveOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		told := keepAlive(t, &renewer{last: start.Add(12 * time.Minute), hangs: "lse_2"},
			api.Credential{LeaseID: "lse_1", Renewable: true, ExpiresAt: start.Add(10 * time.Minute)},
			api.Credential{LeaseID: "lse_2", Renewable: true, ExpiresAt: start.Add(9 * time.Minute)},
			api.Credential{LeaseID: "lse_3", ExpiresAt: start.Add(5 * time.Minute)},
			api.Credential{LeaseID: "lse_4", ExpiresAt: time.Time{}},
		)
		want := []string{
			"lse_3 at 3m20s: the lease can't be renewed: its kind or its policy",
			"lse_1 renewed to 12m0s", "lse_2 at ", "lse_1 at 10m13s: the lease can't be renewed any further",
		}
		if len(told) != len(want) {
			t.Fatalf("told %q, want %q", told, want)
		}
		for i := range want {
			if !strings.HasPrefix(told[i], want[i]) {
				t.Errorf("told %q, want %q", told[i], want[i])
			}
		}
	})
}

// What ends the job ends the renewals.
func TestKeepAliveEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		n := &renewer{last: time.Now().Add(time.Hour)}
		c, err := New(Config{URL: "https://h", HTTP: &http.Client{Transport: n}})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, cancel)
		c.KeepAlive(ctx, &api.ExchangeResponse{
			Session:     api.Session{Token: token},
			Credentials: []api.Credential{{LeaseID: "lse_1", Renewable: true, ExpiresAt: time.Now().Add(10 * time.Minute)}},
		}, Told{Ended: func(_ api.Credential, err error) { t.Errorf("told of %v", err) }})
		if len(n.asked) > 0 {
			t.Error("renewed before it was time")
		}
	})
}
