package sealing_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/issuers"
)

// drill is a SoftHSM token that gets lost.
type drill struct {
	dir string
}

// init makes a token of that folder.
func (d *drill) init(t *testing.T) {
	t.Helper()
	err := pkcs11.InitSoftHSM(t.Context(), pkcs11.SoftHSMConfig{Dir: d.dir, TokenLabel: "daypass", SOPIN: issuers.NewSecret("so-pin-of-drill"), PIN: issuers.NewSecret("pin-of-drill")})
	if err != nil {
		t.Fatal(err)
	}
}

// with does something with the token, as a program that starts and ends.
func (d *drill) with(t *testing.T, f func(*pkcs11.Token)) {
	t.Helper()
	token, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: d.module(t), TokenLabel: "daypass", PIN: issuers.NewSecret("pin-of-drill")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	}()
	f(token)
}

func (d *drill) module(t *testing.T) string {
	t.Helper()
	module, ok := pkcs11.FindSoftHSM()
	if !ok {
		t.Fatal("SoftHSM is missing: install the package softhsm2")
	}
	return module
}

func (d *drill) copyTo(t *testing.T, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(d.dir)); err != nil {
		t.Fatal(err)
	}
}

func (d *drill) lose(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(d.dir); err != nil {
		t.Fatal(err)
	}
}

// TestRecovery rehearses docs/key-recovery.md with SoftHSM: a token is backed up,
// lost, and restored; and then lost with its backup.
//
// It isn't parallel: SoftHSM has one configuration in a process.
func TestRecovery(t *testing.T) { //nolint:paralleltest // see above
	pool := newPool(t)
	d := &drill{dir: filepath.Join(t.TempDir(), "hsm")}
	backup := filepath.Join(t.TempDir(), "backup")
	d.init(t)
	var root, formerID string
	var sealed []byte
	d.with(t, func(token *pkcs11.Token) {
		sealer, err := token.MakeSealer(t.Context(), "daypass-sealing")
		if err != nil {
			t.Fatal(err)
		}
		formerID = sealer.KeyID()
		root = fingerprintOf(openRoot(t, pool, sealer))
		adopt(t, pool, sealer, false)
		s := newSealer(t, sealing.Config{Pool: pool, Sealer: sealer})
		sealed = seal(t, s, "lease", "secret")
		putLease(t, pool, "lease", "active", sealed)
		s.Close()
	})

	d.copyTo(t, backup)
	d.lose(t)
	if _, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: d.module(t), TokenLabel: "daypass", PIN: issuers.NewSecret("pin-of-drill")}); err == nil {
		t.Fatal("the lost token is there")
	}

	if err := os.CopyFS(d.dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	d.with(t, func(token *pkcs11.Token) {
		sealer, err := token.OpenSealer(t.Context(), "daypass-sealing")
		if err != nil {
			t.Fatal(err)
		}
		if sealer.KeyID() != formerID || fingerprintOf(openRoot(t, pool, sealer)) != root {
			t.Error("what was restored is another key")
		}
		s := newSealer(t, sealing.Config{Pool: pool, Sealer: sealer})
		mustOpen(t, s, "lease", sealed, "secret")
		s.Close()
	})

	// Now the backup is lost too.
	d.lose(t)
	d.init(t)
	d.with(t, func(token *pkcs11.Token) {
		plan, err := replacement(pool, nil).Plan(t.Context())
		if err != nil || len(plan.LostValues) != 1 || plan.LostValues[0].Row != "lease" {
			t.Fatalf("%+v, %v", plan, err)
		}
		next, err := token.MakeSealer(t.Context(), "daypass-sealing-2")
		if err != nil {
			t.Fatal(err)
		}
		report := mustApply(t, replacement(pool, next))
		if !report.NewRoot || len(report.LostKeys) != 2 || len(report.Lost) != 1 || report.Lost[0] != formerID || len(report.Tell) == 0 {
			t.Errorf("%+v", report)
		}
		if again := openRoot(t, pool, next); fingerprintOf(again) == root {
			t.Error("the lost root is in force")
		}
		s := newSealer(t, sealing.Config{Pool: pool, Sealer: next})
		mustOpen(t, s, "new", seal(t, s, "new", "served again"), "served again")
		if _, err := s.Open(t.Context(), row("lease"), sealed); !errors.Is(err, keys.ErrOpen) {
			t.Errorf("what was lost: %v", err)
		}
		s.Close()
	})
	if _, err := installation.Check(t.Context(), pool); err != nil {
		t.Error(err)
	}
}
