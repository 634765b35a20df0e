package sealing_test

import (
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/sealed"
)

// TestStaticSecrets: what sealing.Columns says of static secrets is where their
// store puts them. They are sealed anew where the sealing key was stolen, named
// where it is lost, and their data keys stay.
func TestStaticSecrets(t *testing.T) {
	t.Parallel()
	pool, former, next := newPool(t), newHSM(t), newHSM(t)
	root := openRoot(t, pool, former)
	adopt(t, pool, former, false)
	recorder, err := audit.New(audit.Config{Installation: installationID, Tenant: "main", MAC: root.Hasher(keys.AuditMACs)})
	if err != nil {
		t.Fatal(err)
	}
	open := func(sealer keys.Sealer) *secrets.Store {
		store, err := secrets.New(secrets.Config{
			Pool: pool, Audit: recorder, Sealer: newSealer(t, sealing.Config{Pool: pool, Sealer: sealer}), Installation: installationID, Tenant: "main", Now: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	store, owner := open(former), "ana@example.com"
	if _, err := store.Put(t.Context(), secrets.PutRequest{
		Name: "payments/key", Settings: secrets.Settings{Owner: &owner}, Actor: "test",
		Values: secrets.Values{sealed.DefaultField: {Secret: issuers.NewSecret("the value")}},
	}); err != nil {
		t.Fatal(err)
	}
	change := secrets.Change{Name: "payments/key", Version: 1, Actor: "test"}
	if _, err := store.Verify(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Promote(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	reads := func(sealer keys.Sealer) {
		t.Helper()
		lease := issuertest.NewLease(installationID, "", time.Now())
		got, err := open(sealer).Read(t.Context(), lease, sealed.Wanted{Secret: "payments/key", Fields: []string{sealed.DefaultField}})
		if err != nil || got.Values[sealed.DefaultField].Secret.Reveal() != "the value" {
			t.Fatalf("read %+v, %v", got, err)
		}
	}
	reads(former)

	lost, err := replacement(pool, nil).Plan(t.Context())
	if err != nil || len(lost.LostValues) != 1 || !strings.Contains(lost.LostValues[0].What, "payments/key") {
		t.Fatalf("without any key: %+v, %v", lost, err)
	}
	stolen := replacement(pool, next, former)
	stolen.Compromised = true
	if report := mustApply(t, stolen); report.Resealed != 1 || len(report.LostValues) != 0 {
		t.Errorf("%+v", report)
	}
	reads(next)

	// Nothing that is needed loses its data key.
	exec(t, pool, `UPDATE data_keys SET retired_at = now() - interval '40 days', created_at = now() - interval '41 days' WHERE retired_at IS NULL`)
	if _, err := newSealer(t, sealing.Config{Pool: pool, Sealer: next}).RunOnce(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	reads(next)
}
