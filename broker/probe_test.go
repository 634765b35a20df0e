package broker_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/httpapi"
)

// TestFleetTriesEachTargetOnce: a fleet that starts together is no storm.
func TestFleetTriesEachTargetOnce(t *testing.T) {
	t.Parallel()
	first := brokertest.New(t, brokertest.Options{Probe: true})
	for range 2 {
		brokertest.New(t, brokertest.Options{Probe: true, Join: first})
	}
	brokertest.Poll(t, "both targets were tried", func() bool {
		return first.Count(`SELECT count(*) FROM probes WHERE ended_at IS NOT NULL AND error IS NULL`) == 2
	})
	if n := first.Count(`SELECT count(*) FROM leases WHERE policy = 'system'`); n != 2 {
		t.Errorf("%d tries of two targets", n)
	}
	settled(t, first)
}

// TestProbeThatPanics: an issuer with a mistake in it takes nobody else with it.
func TestProbeThatPanics(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Probe: true, Idle: true})
	b.Other.Set(brokertest.Hooks{Panic: true})
	b.Start()
	var ready httpapi.Readiness
	brokertest.Poll(t, "the issuer is degraded", func() bool {
		a := b.Do(http.MethodGet, api.PathReady, "", nil)
		return json.Unmarshal(a.Body, &ready) == nil && a.Status == 200 && strings.HasPrefix(ready.Issuers["other"], "degraded: ") && ready.Issuers["db"] == "ok"
	})
	b.Other.Set(brokertest.Hooks{})
	settled(t, b)
}
