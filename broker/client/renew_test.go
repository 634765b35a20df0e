package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// renewer answers renewals: ten minutes more each time, at most until last.
type renewer struct {
	last  time.Time
	asked []time.Time
	fails map[int]error // by which request, from 1
	deny  bool
}

func (n *renewer) RoundTrip(r *http.Request) (*http.Response, error) {
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
	body = api.Lease{ID: "lse_1", ExpiresAt: end, Renewable: end.Before(n.last)}
	if n.deny {
		status, kind, body = http.StatusConflict, api.ProblemType, api.Problem{Code: api.CodeAlreadyRevoked, Status: http.StatusConflict}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(string(text))), Request: r, Header: http.Header{"Content-Type": {kind}}}, nil
}

func TestKeepAlive(t *testing.T) {
	broken := &net.OpError{Op: "read", Err: errors.New("connection reset")}
	for name, test := range map[string]struct {
		renewer
		life   time.Duration // until the last end
		asked  int
		reason string
	}{
		"until its last end":  {life: 30 * time.Minute, asked: 4, reason: "latest end"},
		"an answer is lost":   {renewer: renewer{fails: map[int]error{1: broken, 2: broken}}, life: 12 * time.Minute, asked: 3, reason: "latest end"},
		"revoked meanwhile":   {renewer: renewer{deny: true}, life: time.Hour, asked: 1, reason: "already_revoked"},
		"it ended, unrenewed": {renewer: renewer{fails: map[int]error{1: broken, 2: broken, 3: broken, 4: broken, 5: broken, 6: broken, 7: broken, 8: broken, 9: broken}}, life: time.Hour, asked: 7, reason: "connection reset"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				n := &test.renewer
				n.last = start.Add(test.life)
				c, err := New(Config{URL: "https://h", HTTP: &http.Client{Transport: n}})
				if err != nil {
					t.Fatal(err)
				}
				var told []string
				c.KeepAlive(t.Context(), &api.ExchangeResponse{
					Session: api.Session{Token: token},
					Credentials: []api.Credential{
						{LeaseID: "lse_1", Renewable: true, ExpiresAt: start.Add(10 * time.Minute)}, {LeaseID: "lse_2", ExpiresAt: start.Add(time.Minute)},
					},
				}, func(credential api.Credential, err error) { told = append(told, credential.LeaseID+": "+err.Error()) })
				if len(told) != 1 || !strings.HasPrefix(told[0], "lse_1: ") || !strings.Contains(told[0], test.reason) {
					t.Errorf("told %q, want one of lse_1 with %q", told, test.reason)
				}
				if len(n.asked) < test.asked-1 || len(n.asked) > test.asked+1 {
					t.Errorf("asked %d times: %v", len(n.asked), n.asked)
				}
				if first := n.asked[0].Sub(start); first != 400*time.Second {
					t.Errorf("first asked after %v, want two thirds of ten minutes", first)
				}
			})
		})
	}
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
		}, func(_ api.Credential, err error) { t.Errorf("told of %v", err) })
		if len(n.asked) > 0 {
			t.Error("renewed before it was time")
		}
	})
}
