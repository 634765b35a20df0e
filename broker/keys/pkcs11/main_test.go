package pkcs11

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/daypass/daypass/issuers"
)

const (
	testLabel = "daypass-test"
	testPIN   = "pin-Zq4vT8rN"
	testSOPIN = "sopin-Lk2wX9bM"

	// childVariable makes the test binary a second process that tells the id of
	// the key of this label.
	childVariable = "DAYPASS_TEST_KEY_OF_CHILD"
)

// testModule and testDir are set once by TestMain: SoftHSM has one configuration
// per process, so the tests share one folder.
var testModule, testDir string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pkcs11 tests:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	var ok bool
	if testModule, ok = FindSoftHSM(); !ok {
		return 1, errors.New("SoftHSM is missing: install the package softhsm2 (Debian, Ubuntu, Homebrew: softhsm), or set DAYPASS_SOFTHSM_MODULE")
	}
	if label := os.Getenv(childVariable); label != "" {
		return 0, child(ctx, label)
	}
	temp, err := os.MkdirTemp("", "daypass-softhsm-*")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	testDir = filepath.Join(temp, "keys")
	if err := InitSoftHSM(ctx, softHSM(testLabel)); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// unique makes a label that no test and no earlier run of this one has used.
func unique(label string) string { return label + "-" + rand.Text()[:8] }

func softHSM(label string) SoftHSMConfig {
	return SoftHSMConfig{
		Dir: testDir, Module: testModule, TokenLabel: label,
		SOPIN: issuers.NewSecret(testSOPIN), PIN: issuers.NewSecret(testPIN),
	}
}

func testConfig() Config {
	return Config{Module: testModule, TokenLabel: testLabel, PIN: issuers.NewSecret(testPIN), Create: true}
}

func openTest(t testing.TB, config Config) *Token {
	t.Helper()
	token, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

// child opens what another process made, without being allowed to make anything.
func child(ctx context.Context, label string) (err error) {
	if err := UseSoftHSM(os.Getenv("DAYPASS_TEST_DIR")); err != nil {
		return err
	}
	config := testConfig()
	config.Create = false
	token, err := Open(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	signer, err := token.Signer(ctx, label)
	if err != nil {
		return err
	}
	sealer, err := token.Sealer(ctx, label)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%s %s\n", signer.KeyID(), sealer.KeyID())
	return err
}
